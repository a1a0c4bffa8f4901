"""Help pages, versions, and that every verb is within reach."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cove.cli.command import Command
from cove.cli.main import root
from cove.client.api import Client
from cove.client.transport import Unreachable
from cove.client.verbs import VERBS
from cove.engine import calls
from tests.unit.commands import Cove, Recorder


def test_help_lists_commands_by_groups(cove: Cove) -> None:
    for argv in ((), ("--help",), ("help",)):
        text = cove(*argv).out
        assert text.startswith("Usage: cove [OPTIONS] COMMAND\n")
        assert text.index("Run:") < text.index("  run ") < text.index("Look:") < text.index("  ps ")


def test_every_command_has_a_help_page(cove: Cove) -> None:
    def walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, command in group.commands.items():
            yield (*path, name)
            if hasattr(command, "commands"):
                yield from walk(command, (*path, name))

    pages = [*walk(root(), ())]
    assert len(pages) > 30
    for path in pages:
        ran = cove(*path, "--help")
        assert ran.code == 0, path
        assert ran.out.startswith("Usage: cove " + " ".join(path)), path
        assert ran.out == cove("help", *path).out


def test_help_keeps_to_the_callers_width(cove: Cove) -> None:
    text = cove("run", "--help", terminals=2).out
    assert max(len(line) for line in text.splitlines()) <= 80


def test_version_without_a_daemon(cove: Cove) -> None:
    from cove import __version__

    assert cove("--version").out == f"cove {__version__}\n"

    def nobody(params: Any) -> Any:
        raise Unreachable("cannot connect to the daemon")

    server = calls.Version("1.2", 3, "3.11.2", "6.1.0", "aarch64", "2026")
    said = cove("version", answers={"system.version": lambda p: server}).out
    assert said.endswith(" Kernel version:  6.1.0\n Built:           2026\n"
                         " OS/Arch:         linux/arm64\n")  # fmt: skip
    ran = cove("version", answers={"system.version": nobody})
    assert __version__ in ran.out and "cannot connect" in ran.err and ran.code == 1


def test_every_verb_has_a_method_of_the_client() -> None:
    asked: set[str] = set()
    client = Client(Recorder({name: lambda p: None for name in VERBS}))
    source = Path(sys.modules[Client.__module__].__file__ or "").read_text()
    for name in VERBS:
        assert f'"{name}"' in source, f"Client has no method for {name}"
        asked.add(name)
    assert client.transport and asked == set(VERBS)


@pytest.mark.parametrize(
    ("words", "least", "most"),
    [
        ("", 0, 0),
        ("NETWORK [NETWORK...]", 1, None),
        ("MACHINE [NAME]", 1, 2),
        ("VOLUME FILE|-", 2, 2),
        ("MACHINE [PORT] | add MACHINE PUBLISH...", 1, None),
    ],
)
def test_a_usage_says_how_many_words_there_are(words: str, least: int, most: int | None) -> None:
    command = Command("x", lambda typed, terminal, client: 0, help="", words=words)
    assert (command.least, command.most) == (least, most)
