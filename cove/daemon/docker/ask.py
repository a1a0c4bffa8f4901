"""What a handler is asked, and what it may answer. No HTTP: a handler can be called by anybody."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from cove.daemon.docker import wording
from cove.daemon.docker.pending import Execs, Pending
from cove.daemon.docker.routes import NEWEST, Version
from cove.engine.calls import Call, Session
from cove.engine.engine import Engine
from cove.engine.events import Cancel
from cove.errors import NOT_JSON, NotFound, UsageError
from cove.shown.functions import plain
from cove.store.records import MachineRecord

T = TypeVar("T")
encode = msgspec.json.Encoder().encode
JSON = "application/json"
RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"

FALSE = ("", "0", "no", "false", "none")
"""As Docker reads a switch: everything else is true."""


@dataclass(slots=True)
class Answer:
    body: Any = None
    """JSON data; bytes go as they are; None: nothing."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    type: str = JSON

    def encoded(self) -> bytes:
        if self.body is None or isinstance(self.body, bytes):
            return self.body or b""
        return to_json(self.body)


@dataclass(slots=True)
class Stream:
    """Bytes as they come. An error before the first of them is an answer of its own, unless the
    client is told at once that it is served (``early``).
    """

    chunks: Iterator[bytes]
    type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    early: bool = False


@dataclass(slots=True)
class Piped:
    """Bytes that ``write`` puts into a descriptor."""

    write: Callable[[int], object]
    type: str = "application/x-tar"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Hijack:
    """The connection becomes a session's: ``begin`` hands the other end of it to the engine, or
    keeps it until there is a machine that runs.
    """

    begin: Callable[[Session, Callable[[], None]], None]
    """With what gives up this end of the session, once somebody has a copy of it."""
    tty: bool
    stdin: bool
    before: Iterator[bytes] = field(default_factory=lambda: iter(()))
    """What is said first: the log."""
    live: bool = True
    """Whether there is a session at all, after that."""
    forget: Callable[[], None] = lambda: None
    """The client has left."""
    waits: Callable[[], bool] = lambda: False
    """Whether it is for a machine that has not started."""
    ended: Callable[[int], None] = lambda code: None
    """With the exit code, unless the client left first."""
    raw: bool | None = None
    """Without frames; None: where there is a terminal."""
    last: bool = False
    """Whether the client hears why there was no program to run."""

    @property
    def framed(self) -> bool:
        return not (self.tty if self.raw is None else self.raw)


Result = Answer | Stream | Piped | Hijack


@dataclass(slots=True)
class Ask:
    engine: Engine
    names: Mapping[str, str]
    query: Mapping[str, list[str]]
    version: Version = NEWEST
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cancel: Cancel = field(default_factory=Cancel)
    fd: int = -1
    """Of the request's body, where it is read as it comes."""
    pending: Pending = field(default_factory=Pending)
    execs: Execs = field(default_factory=Execs)

    # ---- parameters ----

    def text(self, name: str, default: str = "") -> str:
        return readable(self.query.get(name, [default])[0])

    def texts(self, name: str) -> list[str]:
        return [readable(text) for text in self.query.get(name, [])]

    def path(self, name: str) -> bytes:
        return self.query.get(name, [""])[0].encode("utf-8", "surrogateescape")

    def on(self, name: str, *, default: bool = False) -> bool:
        found = self.query.get(name)
        return default if found is None else found[0].lower().strip() not in FALSE

    def number(self, name: str) -> int | None:
        text = self.text(name)
        if not text:
            return None
        try:
            return int(text)
        except ValueError:
            raise UsageError(f'cannot read {name} "{text}": it is not a number') from None

    def filters(self) -> dict[str, tuple[str, ...]]:
        """``{"label": ["a=b"]}``, or ``{"label": {"a=b": true}}`` as older clients say it."""
        text = self.text("filters")
        if not text:
            return {}
        try:
            found = json.loads(text)
            if not isinstance(found, dict):
                raise ValueError("it is no object")
            return {key: _values(value) for key, value in found.items()}
        except (*NOT_JSON, TypeError) as error:
            raise UsageError(f"cannot read the filters: {error}") from error

    def gathered(self, keys: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The filters, of those that there are."""
        wanted = self.filters()
        wording.check_filters(wanted, tuple(keys))
        return {key: values for key, values in wanted.items() if values}

    def call(self, *, sink: int = -1) -> Call:
        return Call(body=self.fd, sink=sink, cancelled=self.cancel)

    def read(self, decoder: msgspec.json.Decoder[T]) -> T:
        """The body, as what it has to be. As in Go, null is nothing."""
        try:
            found = without_nulls(msgspec.json.decode(self.body or b"{}"))
            return msgspec.convert(spelled(found, decoder.type), decoder.type)
        except NOT_JSON as error:
            raise UsageError(f"cannot read the request: {error}") from error

    # ---- machines ----

    @property
    def name(self) -> str:
        return readable(self.names["name"]).removeprefix("/")

    def machine(self) -> MachineRecord:
        return self.machine_called(self.name)

    def machine_called(self, name: str) -> MachineRecord:
        """In Docker's words when there is none: its clients read them."""
        try:
            return self.engine.found(name)
        except NotFound:
            raise no_such(name) from None


def no_such(name: str) -> NotFound:
    return NotFound(f"No such container: {name}")


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def spelled(value: Any, kind: Any) -> Any:
    """The names of a body's own fields as they are: Go, and so Docker, reads them in any case."""
    fields = getattr(kind, "__struct_encode_fields__", ())
    if not isinstance(value, dict) or not fields:
        return value
    known = {name.lower(): name for name in fields}
    others = {known.get(name.lower(), name): one for name, one in value.items()}
    return others | {name: value[name] for name in fields if name in value}


def _values(value: Any) -> tuple[str, ...]:
    if isinstance(value, dict):
        return tuple(str(key) for key, wanted in value.items() if wanted)
    if isinstance(value, list):
        return tuple(map(str, value))
    raise TypeError("the values of a filter are a list")


def readable(text: str) -> str:
    """Bytes that are no UTF-8, as what can be shown: no name has them."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def to_json(value: Any) -> bytes:
    shown = plain(value)
    try:
        return encode(shown) + b"\n"
    except (UnicodeError, OverflowError):  # a name that is no text
        return json.dumps(shown, separators=(",", ":")).encode() + b"\n"


def parse_query(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, errors="surrogateescape", max_num_fields=4096
        )
    except ValueError as error:
        raise UsageError(f"cannot read the request: {error}") from error
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found
