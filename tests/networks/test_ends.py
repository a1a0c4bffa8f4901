"""What an end takes away stays away, whatever else is made at that moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from cove.engine import calls
from cove.engine.calls import Call
from cove.engine.calls.networks import (
    NetworkConnect,
    NetworkCreate,
    NetworkDisconnect,
    NetworkRemove,
)
from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.machines import stopping
from cove.engine.networks import finding, places
from cove.spec.machine import MachineSpec, connections_of
from cove.spec.network import NetworkSpec
from cove.store.records import MachineRecord
from tests.driver import wait_until
from tests.kernel.conftest import open_engine
from tests.networks.conftest import Host, rules
from tests.shared import no_scenario


@no_scenario("what ends is a record and rules of the host's, which are the same for all machines")
def test_rules_that_are_made_of_a_record_whose_own_are_gone(
    host: Host, bb_tar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another network's first machine, or a daemon's start, has all rules made anew while one that
    has ended is put away: its links and rules are gone, its record is rid of its place next.
    """
    with open_engine(bb_tar) as engine:
        home = engine.home
        engine.network_create(NetworkCreate(NetworkSpec("web")), Call())
        spec = MachineSpec(image="bb", command=("sleep", "1000"), network="web")
        stays = engine.run(calls.Run(spec), Call())
        before = rules()
        goes = engine.run(calls.Run(spec), Call())
        (key,) = [record.key for record in home.store.machines() if record.id == goes.id]
        publish, made = finding.publish_places, []

        def meanwhile(*given: object) -> None:
            assert home.record(key).endpoints
            places.make_rules(home)
            made.append(rules())
            publish(*given)

        monkeypatch.setattr(finding, "publish_places", meanwhile)
        engine.remove(calls.Remove(goes.id, force=True), Call())
        assert made and made[0] == before
        wait_until(lambda: rules() == before, "the rules of before")
        monkeypatch.undo()
        engine.remove(calls.Remove(stays.id, force=True), Call())
        engine.network_remove(NetworkRemove("web"), Call())


@no_scenario("what is gone is of its record, the same for all machines")
def test_a_machine_that_ends_while_it_is_disconnected(
    host: Host, bb_tar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its places have gone with it: there is nothing to take away, and others keep theirs."""
    with open_engine(bb_tar) as engine:
        home = engine.home
        for name in ("web", "db"):
            engine.network_create(NetworkCreate(NetworkSpec(name)), Call())
        stays = engine.run(
            calls.Run(MachineSpec(image="bb", command=("sleep", "1000"), network="web")), Call()
        )
        before = rules()
        spec = MachineSpec(image="bb", command=("sleep", "1000"), network="web")
        ends = engine.run(calls.Run(spec), Call())
        engine.network_connect(NetworkConnect("db", ends.id), Call())
        running = stopping.running

        def meanwhile(home: Home, record: MachineRecord) -> Live | None:
            live = running(home, record)
            monkeypatch.undo()
            engine.kill(calls.Kill(record.id), Call())
            wait_until(lambda: not home.record(record.key).endpoints, "its places have gone")
            return live

        monkeypatch.setattr(stopping, "running", meanwhile)
        engine.network_disconnect(NetworkDisconnect("web", ends.id), Call())
        (record,) = [record for record in home.store.machines() if record.id == ends.id]
        assert [wish.network for wish in connections_of(record.spec)] == ["db"]
        assert not record.endpoints
        engine.network_remove(NetworkRemove("db"), Call())
        wait_until(lambda: rules() == before, "the rules of before")
        for made in (stays, ends):
            engine.remove(calls.Remove(made.id, force=True), Call())
        engine.network_remove(NetworkRemove("web"), Call())
