"""``port``: where a machine's ports are on the host; ``port add`` and ``port rm`` change that."""

from __future__ import annotations

from cove.cli.command import Command, Typed
from cove.cli.machines.run import RUNNING
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.engine.calls.ports import PortChange
from cove.errors import NotFound, UsageError
from cove.spec.ports import exposes, shown_address
from cove.store.records import Published

ADD, REMOVE = "add", "rm"


def port(typed: Typed, terminal: Terminal, client: Client) -> int:
    """Docker's form has two words at most, so a machine may be called add."""
    verb, *rest = typed.words
    if len(rest) < 2:
        return _show(typed.words, terminal, client)
    if verb not in (ADD, REMOVE):
        raise UsageError(
            f'cannot use the word "{rest[1]}": cove port shows one port, or all',
            hint=f"cove port {ADD} MACHINE 8080:80, or cove port {REMOVE} MACHINE 8080:80",
        )
    params = PortChange(rest[0], tuple(rest[1:]), remove=verb == REMOVE)
    before = _published(rest[0], client)
    after = change(client, terminal, params)
    for entry in sorted(after, key=_order):
        if verb == ADD and entry not in before:
            terminal.write(_line(entry))
    return 0


def change(client: Client, terminal: Terminal, params: PortChange) -> tuple[Published, ...]:
    """What is published then; it is said where that is to come."""
    published = client.change_ports(params).published
    if client.inspect(calls.Inspect(params.machine)).record.state not in ("running", "paused"):
        terminal.error(f"cove: the ports of {params.machine} change at its next start\n")
    return published


def _show(words: tuple[str, ...], terminal: Terminal, client: Client) -> int:
    name, *wanted = words
    published = sorted(_published(name, client), key=_order)
    if not wanted:
        terminal.write("".join(map(_line, published)))
        return 0
    (word,) = exposes(wanted[0])[:1]
    found = [entry for entry in published if f"{entry.port}/{entry.protocol}" == word]
    if not found:
        raise NotFound(
            f"cannot show the port {wanted[0]}: no public port '{word}' published for {name}",
            hint=f"cove port {ADD} {name} :{wanted[0]}",
            exit_code=1,
        )
    terminal.write("".join(f"{_host(entry)}\n" for entry in found))
    return 0


def _published(name: str, client: Client) -> tuple[Published, ...]:
    record = client.inspect(calls.Inspect(name)).record
    return record.published if record.state in ("running", "paused") else ()


def _order(entry: Published) -> tuple[int, str, bool, str, int]:
    return entry.port, entry.protocol, ":" in entry.ip, entry.ip, entry.host


def _host(entry: Published) -> str:
    return f"{shown_address(entry.ip)}:{entry.host}"


def _line(entry: Published) -> str:
    return f"{entry.port}/{entry.protocol} -> {_host(entry)}\n"


COMMANDS = {
    "port": Command(
        "port",
        port,
        help="Where a machine's ports are on the host; add some, or take some away",
        words="MACHINE [PORT[/PROTO]] | add MACHINE PUBLISH... | rm MACHINE PUBLISH...",
        group=RUNNING,
        about="PUBLISH is what -p takes: [IP:][HOST:]PORT[/PROTO]. A machine that runs is changed "
        "at once, and as it will start from then on. Who is connected through a port that is taken "
        "away is cut off.",
    )
}
