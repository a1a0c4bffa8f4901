"""A command line in this process, whose calls a table answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from cove.cli.main import main
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.client.transport import Caller
from cove.client.verbs import Verb
from cove.engine import calls
from cove.engine.calls import Call
from cove.spec.machine import MachineSpec
from cove.store.records import MachineRecord


@dataclass
class Recorder:
    """A transport that answers from a table and keeps what it was asked."""

    answers: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    local: bool = True

    def call(self, verb: Verb, params: msgspec.Struct, call: Call) -> Any:
        self.asked.append((verb.name, params))
        answer = self.answers.get(verb.name)
        return answer(params) if answer else DEFAULTS[verb.name](params)

    def stream(self, verb: Verb, params: msgspec.Struct, call: Call) -> Iterator[Any]:
        self.asked.append((verb.name, params))
        yield from self.answers[verb.name](params)

    def session(self, verb: Verb, params: msgspec.Struct, caller: Caller) -> int | None:
        self.asked.append((f"{verb.name}+", params))
        return 7


ID = "4c01db0b339c" + "0" * 52
DEFAULTS: dict[str, Callable[[Any], Any]] = {
    "machine.create": lambda p: calls.Created(ID, "name"),
    "machine.run": lambda p: calls.Created(ID, "name"),
    "machine.start": lambda p: calls.Started(ID, p.machine),
    "machine.stop": lambda p: calls.Named(ID, p.machine),
    "machine.kill": lambda p: calls.Named(ID, p.machine),
    "machine.remove": lambda p: calls.Named(ID, p.machine),
    "machine.wait": lambda p: calls.Waited(3),
    "machine.exec": lambda p: calls.Started(ID),
    "machine.list": lambda p: calls.Listed(()),
    "machine.plan": lambda p: calls.Planned("unshare  # why"),
    "image.list": lambda p: calls.Images(()),
}


@dataclass
class Ran:
    code: int | None
    out: str
    err: str
    asked: list[tuple[str, Any]]


Cove = Callable[..., Ran]


def open_commands(tmp_path: Path) -> Cove:
    """``cove("run", "host", answers={"machine.run": …})``: what was printed and what was asked."""

    def run(
        *argv: str,
        answers: dict[str, Callable[[Any], Any]] | None = None,
        terminals: int = 0,
        env: dict[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Ran:
        paths = [tmp_path / name for name in ("in", "out", "err")]
        paths[0].write_bytes(stdin)
        fds = [
            os.open(paths[0], os.O_RDONLY),
            *(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for path in paths[1:]),
        ]
        transport = Recorder(answers or {})
        terminal = Terminal(
            fds=(fds[0], fds[1], fds[2]),
            terminals=terminals,
            cwd=str(tmp_path),
            env=env or {},
        )
        try:
            code = main(argv, terminal, Client(transport))
        finally:
            for fd in fds:
                os.close(fd)
        return Ran(code, paths[1].read_text(), paths[2].read_text(), transport.asked)

    return run


def machine(key: int = 1, **changes: Any) -> MachineRecord:
    record = MachineRecord(
        key, f"{key:012x}" + "0" * 52, f"m{key}", MachineSpec("busybox", ("sh",)), "sha256:aa",
        "running", created=1_700_000_000.0 + key, argv=("sh",), started=1_700_000_000.0 + key,
    )  # fmt: skip
    return msgspec.structs.replace(record, **changes)
