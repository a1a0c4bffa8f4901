"""Wiring a machine while it starts: its monitor has made its network namespace, and waits."""

from __future__ import annotations

import os
from contextlib import suppress

from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.machines import monitors
from cove.engine.networks import places
from cove.engine.networks.default import hint_of_none
from cove.engine.slots import keep_network
from cove.errors import CoveError
from cove.executor.messages import Kind, receive, send
from cove.store.records import MachineRecord

CANNOT = 5
"""What a monitor is told in place of a word to go on: EIO; the daemon knows more."""


def plug_in(home: Home, live: Live, record: MachineRecord) -> None:
    """Wire a machine whose monitor waits at the barrier, or soon will, and release it. It is told
    of a failure, and ends the start as it ends any other.
    """
    if live.netns < 0:
        _wait_namespace(home, live)
    namespace, live.netns = live.netns, -1
    if namespace < 0:
        return  # it failed before
    try:
        with hint_of_none():
            places.wire(home, record, record.endpoints, namespace)
    except CoveError as error:
        live.unplugged = error
    finally:
        os.close(namespace)
    if live.ctl is not None:
        with suppress(OSError):  # one that is gone will be heard of
            send(live.ctl, Kind.RELEASE, value=CANNOT if live.unplugged else 0)


def _wait_namespace(home: Home, live: Live) -> None:
    """A start from nothing: its monitor hands the namespaces over."""
    while live.netns < 0 and live.failure is None and not live.gone and live.ctl is not None:
        message = receive(live.ctl)
        if message is not None and message.kind == Kind.BARRIER and live.plan is not None:
            live.netns = keep_network(live.plan, message)
        else:
            monitors.hear(home, live, message)
