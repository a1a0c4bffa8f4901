"""What an end takes away stays away, whatever else is made at that moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from cove.engine import calls
from cove.engine.calls import Call
from cove.engine.calls.networks import NetworkCreate, NetworkRemove
from cove.engine.networks import finding, places
from cove.spec.machine import MachineSpec
from cove.spec.network import NetworkSpec
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
