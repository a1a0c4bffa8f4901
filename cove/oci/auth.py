"""What registries ask for in ``WWW-Authenticate``, and the credentials that Docker keeps. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from cove.oci.reference import DEFAULT_DOMAIN

DOCKER_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io")
"""Names under which Docker keeps the login of its own registry."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PART = re.compile(
    rf"[\s,]*(?:(?P<key>{_TOKEN})\s*=\s*(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<bare>[^\s,]*))"
    rf"|(?P<scheme>{_TOKEN})(?=\s|,|$))"
)


@dataclass(frozen=True, slots=True)
class Credentials:
    username: str
    password: str = field(repr=False)
    identity: str = field(default="", repr=False)
    """In place of both: what the token server knows somebody by."""

    def basic(self) -> str:
        """The value of an ``Authorization`` header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Challenge:
    """``scheme`` in lower case."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Every challenge of every ``WWW-Authenticate`` header; what cannot be read ends its header."""
    found: list[Challenge] = []
    for text in headers:
        at = 0
        while match := _PART.match(text, at):
            at = match.end()
            if match["scheme"]:
                found.append(Challenge(match["scheme"].lower(), {}))
            elif found:
                value = match["bare"]
                if match["quoted"] is not None:
                    value = re.sub(r"\\(.)", r"\1", match["quoted"])
                found[-1].parameters[match["key"].lower()] = value or ""
    return tuple(found)


def credentials_from_docker(text: str, domain: str) -> Credentials | None:
    """The login for a reference's domain in Docker's ``config.json``; None where it has none."""
    logins = read_document(text).get("auths")
    if not isinstance(logins, dict):
        return None
    for spelled in _spellings(domain):
        found = _login(logins.get(spelled))
        if found is not None:
            return found
    return None


def server_of(domain: str) -> str:
    """What a registry's login is kept under, as Docker spells it."""
    return DOCKER_KEYS[0] if domain == DEFAULT_DOMAIN else domain


def helper_of(text: str, domain: str) -> str:
    """The credential helper that keeps the login for a domain; empty: the file itself does."""
    document = read_document(text)
    helpers, store = document.get("credHelpers"), document.get("credsStore")
    found = helpers if isinstance(helpers, dict) else {}
    for spelled in _spellings(domain):
        if isinstance(found.get(spelled), str):
            return str(found[spelled])
    return store if isinstance(store, str) else ""


def with_login(text: str, domain: str, credentials: Credentials | None) -> tuple[str, bool]:
    """The ``config.json`` with this login, or without one, and whether it had one. All else in it
    stays.
    """
    document = read_document(text)
    logins = document.get("auths")
    logins = dict(logins) if isinstance(logins, dict) else {}
    known = [spelled for spelled in _spellings(domain) if spelled in logins]
    for spelled in known:
        del logins[spelled]
    if credentials is not None:
        coded = credentials.basic().partition(" ")[2]
        logins[server_of(domain)] = {"auth": coded}
    document["auths"] = logins
    return json.dumps(document, indent="\t") + "\n", bool(known)


def read_document(text: str) -> dict[str, object]:
    """A ``config.json``; what is none is an empty one."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _spellings(domain: str) -> list[str]:
    keys = DOCKER_KEYS if domain == DEFAULT_DOMAIN else (domain,)
    return [
        spelled
        for key in keys
        for spelled in (key, f"https://{key}", f"http://{key}", f"https://{key}/v1/")
    ]


def _login(entry: object) -> Credentials | None:
    if not isinstance(entry, dict):
        return None
    identity = entry.get("identitytoken")
    if isinstance(identity, str) and identity:
        return Credentials("", "", identity)
    username, password = entry.get("username"), entry.get("password")
    if isinstance(username, str) and isinstance(password, str) and username:
        return Credentials(username, password)
    coded = entry.get("auth")
    if not isinstance(coded, str) or not coded:
        return None
    try:
        name, colon, secret = base64.b64decode(coded).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return Credentials(name, secret.strip("\0")) if colon else None
