"""``cp``, ``diff``, ``export`` and ``commit``."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from cove.cli.command import Command, Typed
from cove.cli.terminal import Gone, Terminal
from cove.cli.whole import written
from cove.client import files
from cove.client.api import Client
from cove.engine import calls
from cove.errors import UsageError, printable
from cove.shown import units
from cove.spec.flags import Flag

TICK = 0.2


def split(word: str) -> tuple[str, bytes]:
    """``MACHINE:PATH``, or a path of this host: absolute, without a colon, or beginning with a
    dot.
    """
    machine, colon, path = word.partition(":")
    if word.startswith("/") or not colon or machine.startswith("."):
        return "", os.fsencode(word)
    return machine, os.fsencode(path)


def local(terminal: Terminal, path: bytes) -> bytes:
    """Absolute, as the caller means it; what its end says is kept."""
    whole = os.fsencode(terminal.path(os.fsdecode(path)))
    if path.endswith(b"/.") or path == b".":
        return whole.rstrip(b"/") + b"/."
    return whole.rstrip(b"/") + b"/" if path.endswith(b"/") else whole


def cp(typed: Typed, terminal: Terminal, client: Client) -> int:
    (one, source), (other, target) = split(typed.words[0]), split(typed.words[1])
    if one and other:
        raise UsageError(
            "cannot copy between machines",
            hint=f"through a pipe: cove cp {typed.words[0]} - | cove cp - {typed.words[1]}",
            exit_code=1,
        )
    if (one and not source) or (other and not target):
        word = typed.words[0 if one else 1]
        raise UsageError(f"cannot copy: {word} names no path", hint=f"{word}/", exit_code=1)
    if not one and not other:
        raise UsageError(
            f"cannot copy {typed.words[0]} to {typed.words[1]}: neither is in a machine",
            hint="write MACHINE:PATH for the one that is",
            exit_code=1,
        )
    if one:
        return _out(typed, terminal, client, one, source, target)
    return _into(typed, terminal, client, source, other, target)


def _out(
    typed: Typed, terminal: Terminal, client: Client, machine: str, source: bytes, target: bytes
) -> int:
    follow, owners = typed.on("follow"), typed.on("archive")
    if target == b"-":
        if terminal.is_terminal(1):
            raise UsageError(
                "cannot write an archive to your terminal",
                hint="name a directory, or redirect it: > files.tar",
                exit_code=1,
            )
        params = calls.CopyOut(machine, source, follow=follow)
        to_stdout(terminal, lambda: client.copy_out(params, terminal.fds[1], terminal.cancelled))
        return 0
    path = local(terminal, target)
    with _progress(typed, terminal, "from machine") as count:
        files.copy_from(
            client, machine, source, path,
            follow=follow, owners=owners, cancelled=terminal.cancelled, count=count,
        )  # fmt: skip
    _say_done(count, terminal, os.fsdecode(path))
    return 0


def _into(
    typed: Typed, terminal: Terminal, client: Client, source: bytes, machine: str, target: bytes
) -> int:
    owners = typed.on("archive")
    if source == b"-":
        if terminal.is_terminal(0):
            raise UsageError(
                "cannot copy from your terminal: it holds no archive",
                hint="pipe a tar in, or name a file",
                exit_code=1,
            )
        place = files.machine_place(client, machine, target)
        if not place.is_dir:
            shown = printable(os.fsdecode(target))
            raise UsageError(
                f'cannot unpack into "{machine}:{shown}": it is no directory', exit_code=1
            )
        call = calls.Call(body=terminal.fds[0], cancelled=terminal.cancelled)
        client.copy_in(calls.CopyIn(machine, place.path, owners, coded=True), call)
        return 0
    with _progress(typed, terminal, "to machine") as count:
        files.copy_to(
            client, local(terminal, source), machine, target,
            follow=typed.on("follow"), owners=owners, cancelled=terminal.cancelled, count=count,
        )  # fmt: skip
    _say_done(count, terminal, f"{machine}:{os.fsdecode(target)}")
    return 0


def to_stdout(terminal: Terminal, work: Callable[[], object]) -> None:
    try:
        work()
    except BrokenPipeError:
        raise Gone(141) from None


class _Counter:
    def __init__(self) -> None:
        self.size = 0

    def __call__(self, size: int) -> None:
        self.size = size


@contextmanager
def _progress(typed: Typed, terminal: Terminal, where: str) -> Iterator[_Counter | None]:
    """How much has been copied, on a terminal, as long as it lasts."""
    asked = any(flag.name == "quiet" for flag, _ in typed.flags)
    if typed.on("quiet") or (not asked and not terminal.is_terminal(1)):
        yield None
        return
    count, over = _Counter(), threading.Event()

    def draw() -> None:
        try:
            while not over.wait(TICK):
                text = f"Copying {where} - {units.human_size(count.size)}"
                terminal.error(f"\r\x1b[K{text}")
            terminal.error("\r\x1b[K")
        except Gone:
            pass  # whoever looked at it left

    drawer = threading.Thread(target=draw, name="progress", daemon=True)
    if terminal.is_terminal(2):
        drawer.start()
    try:
        yield count
    finally:
        over.set()
        if drawer.ident is not None:
            drawer.join()


def _say_done(count: _Counter | None, terminal: Terminal, where: str) -> None:
    if count is not None:
        size = units.human_size(count.size)
        terminal.error(f"Successfully copied {size} to {printable(where)}\n")


def diff(typed: Typed, terminal: Terminal, client: Client) -> int:
    write_changes(terminal, client.diff(calls.Diff(typed.words[0])).changes)
    return 0


def write_changes(terminal: Terminal, changes: Iterable[calls.Change]) -> None:
    escape = terminal.is_terminal(1)
    for change in changes:
        path: str | bytes = change.path
        if escape:
            path = printable(os.fsdecode(change.path)).replace("\n", "\\n")
        line = path.encode() if isinstance(path, str) else path
        terminal.write(change.kind.encode() + b" " + line + b"\n")


def export(typed: Typed, terminal: Terminal, client: Client) -> int:
    params, name = calls.Export(typed.words[0]), typed.text("output")
    if not name:
        if terminal.is_terminal(1):
            raise UsageError(
                "cannot export to your terminal",
                hint="name a file: -o FILE, or redirect it: > FILE",
                exit_code=1,
            )
        to_stdout(terminal, lambda: client.export(params, terminal.fds[1], terminal.cancelled))
        return 0
    with written(terminal, name) as fd:
        client.export(params, fd, terminal.cancelled)
    return 0


def commit(typed: Typed, terminal: Terminal, client: Client) -> int:
    params = calls.Commit(
        machine=typed.words[0],
        reference=typed.words[1] if len(typed.words) > 1 else "",
        author=typed.text("author"),
        message=typed.text("message"),
        changes=typed.values.get("changes", ()),
        pause=bool(typed.values.get("pause", True)),
    )
    terminal.write(client.commit(params, terminal.cancelled).image + "\n")
    return 0


CP = Command(
    "cp",
    cp,
    help="Copy files between a machine and this host",
    flags=(
        Flag("archive", "archive", "Keep user and group ids", "a"),
        Flag("follow-link", "follow", "Copy what a symbolic link in SRC leads to", "L"),
        Flag("quiet", "quiet", "No progress; the default without a terminal", "q"),
    ),
    words="SRC DEST",
    group="Machines",
    about="One of the two is MACHINE:PATH, which begins at the machine's root; - as the other is a "
    "tar on standard input or output. DEST that is a directory is copied into, and SRC/. means "
    "what is in it. Works while the machine runs, is paused or stopped.",
)
DIFF = Command(
    "diff",
    diff,
    help="What a machine has added (A), changed (C) and deleted (D)",
    words="MACHINE",
    group="Machines",
)
EXPORT = Command(
    "export",
    export,
    help="A machine's whole root as a tar",
    flags=(Flag("output", "output", "Into a file, not standard output", "o", "FILE"),),
    words="MACHINE",
    group="Machines",
)
COMMIT = Command(
    "commit",
    commit,
    help="Make an image of what a machine has changed",
    flags=(
        Flag("author", "author", "Who made it", "a", "TEXT"),
        Flag("change", "changes", "A Dockerfile instruction to apply", "c", "TEXT", repeat=True),
        Flag("message", "message", "A comment", "m", "TEXT"),
        Flag("pause", "pause", "Freeze the machine meanwhile", "p", default=True),
    ),
    words="MACHINE [NAME[:TAG]]",
    group="Machines",
)
COMMANDS = {"cp": CP, "diff": DIFF, "export": EXPORT, "commit": COMMIT}
