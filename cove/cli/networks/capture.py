"""``network capture``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from cove.cli.command import Command, Typed
from cove.cli.machines.copy import to_stdout
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine.calls.capture import SNAPLEN, Captured, NetworkCapture
from cove.errors import UsageError, printable
from cove.spec import values
from cove.spec.flags import Flag

HOW = "name one: -w FILE.pcap, or -w - | tshark -r -"


def capture(typed: Typed, terminal: Terminal, client: Client) -> int:
    target, name = typed.words[0], typed.text("file")
    count = typed.values.get("count", 0)
    snaplen = typed.values.get("snaplen", 0) or SNAPLEN
    params = NetworkCapture(target, count, snaplen)
    if not name:
        raise UsageError("cannot capture: no file is named", hint=HOW, exit_code=1)
    if name == "-" and terminal.is_terminal(1):
        raise UsageError("cannot capture to your terminal", hint=HOW, exit_code=1)
    # Before the file is emptied.
    look = client.network_capture(NetworkCapture(target, count, snaplen, only_look=True), -1)
    terminal.error(f"cove: capturing {printable(look.name)} ({', '.join(look.links)})\n")
    if name == "-":
        to_stdout(terminal, lambda: _capture(params, terminal, client, terminal.fds[1]))
        return 0
    with _opened(terminal, name) as fd:
        _capture(params, terminal, client, fd)
    return 0


def _capture(params: NetworkCapture, terminal: Terminal, client: Client, fd: int) -> None:
    found: Captured = client.network_capture(params, fd, terminal.cancelled)
    packets = "1 packet" if found.packets == 1 else f"{found.packets} packets"
    gone = f"; {printable(found.name)} is gone" if found.ended == "link" else ""
    terminal.error(f"cove: captured {packets}, missed {found.drops}{gone}\n")


@contextmanager
def _opened(terminal: Terminal, name: str) -> Iterator[int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY
    try:
        fd = os.open(terminal.path(name), flags, 0o600)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise UsageError(f"cannot write {name}: {reason}", origin=f"-w {name}",
                         exit_code=1) from error  # fmt: skip
    try:
        yield fd
    finally:
        os.close(fd)


CAPTURE = Command(
    "capture",
    capture,
    help="Write the packets of a network or a machine into a file",
    flags=(
        Flag("write", "file", "The file, in pcap's form; - for standard output", "w", "FILE"),
        Flag("count", "count", "End after so many packets", "c", "NUMBER", values.parse_int),
        Flag("snaplen", "snaplen", "Keep so many bytes of each packet", "s", "NUMBER",
             values.parse_int, default=SNAPLEN),
    ),
    words="NETWORK|MACHINE",
    about="Ctrl-C ends it. Of a network it is what passes its bridge; of a machine what passes its "
    "links, all of them, also what the network's rules refuse it.",
)  # fmt: skip
