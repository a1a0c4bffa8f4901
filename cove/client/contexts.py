"""Contexts of Docker's own command: files in the caller's configuration directory, which say where
a daemon is. Docker's command, docker-compose and most libraries go by them; cove does not.

A context is ``contexts/meta/<sha256 of its name>/meta.json``; the chosen one is named in
``config.json``. The key of its TLS, where it has one, is in ``contexts/tls``: cove makes none such.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from cove.client.logins import Keeper, replace
from cove.errors import Conflict, HostError, NotFound, UsageError
from cove.oci.auth import read_document

DEFAULT = "default"
"""The context that is no file: what ``DOCKER_HOST`` says, or Docker's own socket."""
DOCKERS_SOCKET = "unix:///var/run/docker.sock"
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.+-]+")
CURRENT = "currentContext"


@dataclass(frozen=True, slots=True)
class Context:
    """As Docker's command shows it. What cove does not know of is kept as it was read."""

    document: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.document["Name"])

    @property
    def host(self) -> str:
        return str(self.document["Endpoints"].get("docker", {}).get("Host", ""))

    @property
    def description(self) -> str:
        return str(self.document["Metadata"].get("Description", ""))

    def changed(self, host: str, description: str) -> Context:
        """Each as it is now, or another."""
        document = deepcopy(self.document)
        if host != self.host:
            document["Endpoints"].setdefault("docker", {})["Host"] = host
        if description != self.description:
            document["Metadata"].pop("Description", None)
            document["Metadata"] |= {"Description": description} if description else {}
        return Context(document)


def new_context(name: str, host: str, description: str = "") -> Context:
    return Context(
        {
            "Name": name,
            "Metadata": {"Description": description} if description else {},
            "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}},
        }
    )


def from_docker(text: str) -> Context | None:
    """Of what somebody left there the parts that have the form of a context."""
    read = read_document(text)
    if not isinstance(read.get("Name"), str):
        return None
    document: dict[str, Any] = {"Name": read["Name"], "Metadata": {}, "Endpoints": {}}
    if isinstance(described := read.get("Metadata"), dict):
        document["Metadata"] = described
    if isinstance(ends := read.get("Endpoints"), dict):
        document["Endpoints"] = {name: end for name, end in ends.items() if isinstance(end, dict)}
    return Context(document)


def parse_context_name(text: str, verb: str) -> str:
    if text == DEFAULT:
        raise UsageError(f'cannot {verb} the context "{text}": it is no file')
    if not NAME.fullmatch(text):
        raise UsageError(
            f'cannot {verb} the context "{text}": not two letters or more of a-z, A-Z, 0-9, _.+-'
        )
    return text


@dataclass(frozen=True, slots=True)
class Contexts:
    """Those of one caller, beside his ``config.json``."""

    keeper: Keeper

    def place(self, name: str, kind: str = "meta") -> str:
        key = hashlib.sha256(name.encode()).hexdigest()
        return f"{os.path.dirname(self.keeper.path)}/contexts/{kind}/{key}"

    @property
    def current(self) -> str:
        """By ``config.json``; ``DOCKER_HOST`` and ``DOCKER_CONTEXT`` go before it."""
        return str(read_document(self.keeper.text).get(CURRENT) or DEFAULT)

    def every(self) -> list[Context]:
        base = os.path.dirname(self.place(""))
        found = [from_docker(_read(f"{base}/{key}/meta.json")) for key in _names(base)]
        host = self.keeper.env.get("DOCKER_HOST") or DOCKERS_SOCKET
        every = [new_context(DEFAULT, host), *filter(None, found)]
        return sorted(every, key=lambda context: context.name)

    def find(self, name: str) -> Context:
        for context in self.every():
            if context.name == name:
                return context
        raise NotFound(
            f'cannot find the context "{name}": there is none in '
            f"{os.path.dirname(self.keeper.path)}",
        )

    def keys(self, name: str) -> dict[str, list[str]]:
        """Names of the files that its TLS has, by endpoint."""
        place = self.place(name, "tls")
        return {end: sorted(_names(f"{place}/{end}")) for end in sorted(_names(place))}

    def write(self, context: Context, *, anew: bool) -> None:
        """``anew``: in place of one of that name."""
        if not anew and any(context.name == found.name for found in self.every()):
            raise Conflict(
                f'cannot make the context "{context.name}": it is there',
                hint=f"cove context update {context.name} gives it another address",
            )
        place = self.place(context.name)
        try:
            os.makedirs(place, 0o755, exist_ok=True)
            replace(f"{place}/meta.json", json.dumps(context.document, separators=(",", ":")))
        except OSError as error:
            raise _unwritable(place, error) from error

    def choose(self, name: str) -> None:
        self.find(name)

        def edited(text: str) -> str:
            document = read_document(text)
            document.pop(CURRENT, None)
            if name != DEFAULT:
                document[CURRENT] = name
            return json.dumps(document, indent="\t")

        self.keeper.change(edited)

    def remove(self, name: str, *, force: bool) -> None:
        self.find(name)
        if self.current == name:
            if not force:
                raise Conflict(
                    f'cannot remove the context "{name}": it is in use',
                    hint="--force does, and Docker's own socket is used again",
                )
            self.choose(DEFAULT)
        try:
            shutil.rmtree(self.place(name))
            shutil.rmtree(self.place(name, "tls"), ignore_errors=True)
        except OSError as error:
            raise _unwritable(self.place(name), error) from error


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""


def _unwritable(place: str, error: OSError) -> HostError:
    reason = (error.strerror or str(error)).lower()
    return HostError(f"cannot write {place}: {reason}", exit_code=1)
