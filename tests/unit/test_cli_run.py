"""``run`` on a terminal: what people are told before their machine runs, and its exit codes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cove.cli.main import main
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine.calls import Progress
from cove.errors import Conflict, CoveError
from tests.unit.commands import Recorder

Answers = dict[str, Callable[[Any], Any]]
Run = Callable[..., tuple[int | None, str, list[str]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The exit code, what came on stderr, and which verbs were asked for."""

    def command(
        *argv: str, answers: Answers | None = None, terminals: int = 0
    ) -> tuple[int | None, str, list[str]]:
        transport, path = Recorder(answers or {}), tmp_path / "err"
        with path.open("w") as err, open(os.devnull, "r+") as null:
            fds = (null.fileno(), null.fileno(), err.fileno())
            code = main(argv, Terminal(fds, terminals), Client(transport))
        return code, path.read_text(), [name for name, _ in transport.asked]

    return command


def test_people_are_told_what_the_first_virtual_machine_waits_for(run: Run) -> None:
    steps = [Progress("making the disk of i, once"), Progress("done")]
    info = SimpleNamespace(virtual="qemu 7.2.0, emulated: no such device")
    answers = {"machine.prepare": lambda p: iter(steps), "system.info": lambda p: info}
    _, said, asked = run("run", "--vm", "i", answers=answers, terminals=4)
    assert asked == ["machine.prepare", "system.info", "machine.run+"]
    assert "making the disk of i, once" in said and "no KVM here" in said
    assert run("run", "--vm", "i") == (7, "", ["machine.run+"])

    def left(params: Any) -> Any:
        raise CoveError("interrupted", exit_code=130)

    code, _, asked = run("run", "--vm", "i", answers={"machine.prepare": left}, terminals=4)
    assert (code, asked) == (130, ["machine.prepare"])


def test_a_name_that_is_taken(run: Run) -> None:
    """1 could be the exit code of the command itself."""

    def taken(params: Any) -> Any:
        raise Conflict('cannot use the name "web": machine 0123 has it')

    answers = {"machine.run": taken, "machine.create": taken}
    assert run("run", "-d", "--name", "web", "host", answers=answers)[0] == 125
    assert run("create", "--name", "web", "host", answers=answers)[0] == 1
