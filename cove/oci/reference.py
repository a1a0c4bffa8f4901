"""Image references, by the grammar of Docker's ``distribution/reference`` and normalized as there.

``debian`` means ``docker.io/library/debian:latest``; people see the familiar form again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cove.errors import UsageError
from cove.oci import digest as digests

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
OFFICIAL = "library/"
DEFAULT_TAG = "latest"
NAME_MAX = 255

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])"
_DOMAIN = rf"{_HOST}(?::[0-9]+)?"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[\w][\w.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

REFERENCE = re.compile(
    rf"(?P<domain>{_DOMAIN})/(?P<path>{_PATH})(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?",
    re.ASCII,
)
TAG = re.compile(_TAG, re.ASCII)
IDENTIFIER = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A name with a domain; ``tag`` and ``digest`` are empty where there is none."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        rest = self.path.removeprefix(OFFICIAL)
        return self.path if "/" in rest else rest

    def familiar(self) -> str:
        """As people write it: ``debian:12``."""
        return self.familiar_name + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix()


def parse_reference(text: str, *, default_tag: bool = True) -> Reference:
    """What ``text`` means; without tag and digest it gets ``latest`` if ``default_tag``."""
    if IDENTIFIER.fullmatch(text):
        raise _error(text, "64 hexadecimal digits are an image id, not a name")
    domain, rest = _split_domain(text)
    name = re.split(r"[:@]", rest, maxsplit=1)[0]
    if name.lower() != name:
        fits = REFERENCE.fullmatch(f"{domain}/{rest}".lower())
        hint = f"write {text.lower()}" if fits else ""
        raise _error(text, "a repository name must be lowercase", hint=hint)
    match = REFERENCE.fullmatch(f"{domain}/{rest}")
    if match is None:
        raise _error(text, "it is not [HOST[:PORT]/]NAME[:TAG][@DIGEST]")
    if len(match["domain"]) + 1 + len(match["path"]) > NAME_MAX:
        raise _error(text, f"a repository name must not be longer than {NAME_MAX} characters")
    digest = match["digest"] or ""
    if digest:
        _check_digest(text, digest)
    tag = match["tag"] or ""
    if not tag and not digest and default_tag:
        tag = DEFAULT_TAG
    return Reference(match["domain"], match["path"], tag, digest)


def familiar(text: str) -> str:
    """The familiar form of a full reference; what is none stays as it is."""
    match = REFERENCE.fullmatch(text)
    if match is None:
        return text
    return Reference(
        match["domain"], match["path"], match["tag"] or "", match["digest"] or ""
    ).familiar()


def _split_domain(text: str) -> tuple[str, str]:
    """The first part is a host if it looks like one; it does not if it could be a path."""
    first, slash, rest = text.partition("/")
    host = slash and (
        "." in first or ":" in first or first == "localhost" or first.lower() != first
    )
    domain, path = (first, rest) if host else (DEFAULT_DOMAIN, text)
    if domain == LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = OFFICIAL + path
    return domain, path


def _check_digest(text: str, digest: str) -> None:
    try:
        digests.parse_digest(digest)
    except UsageError as error:
        raise _error(text, error.message.rpartition(": ")[2]) from None


def _error(text: str, reason: str, *, hint: str = "") -> UsageError:
    return UsageError(f'cannot use image reference "{text}": {reason}', origin=text, hint=hint)
