"""``daemon``: the resident process, which the first command starts by itself."""

from __future__ import annotations

from cove.cli.command import Command, Group, Typed
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.client.spawn import DEFAULT_ROOT, CannotStart, start_daemon
from cove.client.transport import Unreachable
from cove.shown.units import human_duration


def start(typed: Typed, terminal: Terminal, client: Client) -> int:
    """Inside the daemon there is nothing left to do; outside, it may not be there yet."""
    try:
        seen = client.info()
    except Unreachable:
        root = terminal.env.get("COVE_ROOT") or DEFAULT_ROOT
        try:
            start_daemon(terminal.path(root))
        except CannotStart as error:
            terminal.error(str(error))
            return 125
        seen = client.info()
    terminal.write(f"cove's daemon runs: pid {seen.pid}, {seen.root}\n")
    return 0


def stop(typed: Typed, terminal: Terminal, client: Client) -> int:
    """Machines go on: their monitors keep them."""
    try:
        client.shutdown()
    except Unreachable:
        terminal.write("cove's daemon does not run\n")
    return 0


def status(typed: Typed, terminal: Terminal, client: Client) -> int:
    import time

    try:
        seen = client.info()
    except Unreachable:
        terminal.write("cove's daemon does not run\n")
        return 1
    up = human_duration(time.time() - seen.started).lower()
    running = seen.machines.get("running", 0)
    terminal.write(f"pid {seen.pid}, up {up}, {running} machines running, {seen.root}\n")
    return 0


DAEMON = Group(
    "daemon",
    {
        "start": Command("start", start, help="Start it, if it does not run"),
        "stop": Command(
            "stop", stop, help="End it; machines go on, and the next command starts it"
        ),
        "status": Command("status", status, help="Whether it runs, and since when"),
    },
    help="The resident process",
    group="cove",
)

TOP = {"daemon": DAEMON}
