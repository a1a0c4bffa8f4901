"""Who waits for machines that end, or starts them again, on a real store and no machine: whatever
happened since the record was read.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cove.daemon.docker.ask import Stream
from cove.daemon.docker.containers import Ends
from cove.daemon.docker.server import _forget
from cove.engine.events import Cancel, Events
from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.machines.retrying import Retries
from cove.engine.machines.waiting import Waiter
from cove.engine.reactor import Reactor
from cove.executor.messages import Kind, receive
from cove.spec.machine import MachineSpec
from cove.spec.restart import Restart
from cove.store.db import Store
from cove.store.records import MachineRecord
from tests.driver import wait_until


class Little:
    """Of a home: its records, its events and its clock."""

    record, update, base_of_machine = Home.record, Home.update, Home.base_of_machine

    def __init__(self, store: Store) -> None:
        self.store, self.events, self.reactor = store, Events(), Reactor()
        self.lock, self.boot = threading.RLock(), "boot"
        self.lives: dict[int, Live] = {}
        self.retries = Retries(cast(Home, self))
        self.reactor.start()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Any]:
    with Store.open(tmp_path / "s") as store:
        little = Little(store)
        try:
            yield little
        finally:
            little.retries.close()
            little.reactor.close()


def put(home: Any, state: str, **fields: Any) -> MachineRecord:
    spec = MachineSpec(image="gone", restart=Restart("always"))
    record = MachineRecord(1, "a" * 64, "ada", spec, "sha256:gone", state, 1.5, **fields)
    home.store.put_machine(record)
    return record


def pair() -> tuple[socket.socket, socket.socket]:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    its.settimeout(120)
    return ours, its


def is_dismissed(its: socket.socket) -> bool:
    message = receive(its)
    return message is not None and message.kind == Kind.BYE and receive(its) is None


@pytest.mark.parametrize("state", ["exited", "running", "created", "removed"])
def test_the_monitor_of_one_that_is_not_started_again_may_go(home: Any, state: str) -> None:
    """Somebody stopped, started or removed it after its end was written."""
    if state != "removed":
        put(home, state)
    ours, its = pair()
    with its:
        home.retries.arm(1, ours, ran=True)
        assert is_dismissed(its) and ours.fileno() < 0


@pytest.mark.parametrize("removed", [False, True])
def test_the_monitor_goes_when_the_time_for_a_start_finds_none_to_be_started(
    home: Any, removed: bool
) -> None:
    put(home, "restarting", retry=time.time() + 1000, delay=1000.0)
    ours, its = pair()
    with its:
        home.retries.arm(1, ours, ran=True)
        assert ours.fileno() >= 0
        if removed:
            home.store.remove_machine(1)
        else:
            home.update(1, state="exited")
        home.retries._start(1)
        assert is_dismissed(its) and ours.fileno() < 0


def test_a_clock_that_was_set_back_does_not_end_the_trying(home: Any) -> None:
    """By the clock its next start is in an hour, and each fails: its image is gone."""
    put(home, "restarting", retry=time.time() + 3600, delay=0.001)
    home.retries.open()
    wait_until(lambda: home.record(1).restarts >= 3, "starts that fail")
    assert home.record(1).exit_code == 125


def test_who_left_before_waiting_listens_no_more(home: Any) -> None:
    record = put(home, "running")
    for close in (True, False):
        ends = Ends(Waiter(home, record, "removed"), Cancel())
        assert len(home.events._listeners) == 1
        if close:
            ends.close()
        else:  # the answer to a request whose client is gone
            loop = asyncio.new_event_loop()
            future: asyncio.Future[Any] = loop.create_future()
            future.set_result(Stream(ends))
            _forget(future)
            loop.close()
        assert home.events._listeners == ()
    ends = Ends(Waiter(home, record, "removed"), Cancel())
    home.store.remove_machine(1)
    assert list(ends) == [b'{"StatusCode":0}\n']
    assert home.events._listeners == ()
