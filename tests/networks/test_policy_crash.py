"""A daemon that is killed at any step of the start or the end of a machine with a network policy:
its rules are there as long as it has a place, and no others are.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.driver import Cove, wait_until
from tests.kernel.test_changes_crash import NAME, walk
from tests.kernel.test_walks import STRIDE
from tests.networks.conftest import OUTSIDE, network, rules, run
from tests.networks.test_crash import agrees
from tests.networks.test_policy import reaches, refusals
from tests.shared import no_scenario

pytestmark = [no_scenario("it kills the daemon between its steps"), pytest.mark.timeout(900)]

NETWORK = ("--network", "web")
START = ("run", "-d", "--name", NAME, "--network-policy", "deny-all", *NETWORK, "bb", "sleep",
         "100000")  # fmt: skip


def policed() -> dict[str, set[str]]:
    """What machines have rules of their own, and which addresses lead to them."""
    found = json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]
    ours = [next(iter(each.items())) for each in found]
    mine = [(kind, each) for kind, each in ours if len(each.get("table", "")) == 8]
    chains: dict[str, set[str]] = {
        each["name"]: set() for kind, each in mine if kind == "chain" and each["name"][0] == "m"
    }
    for kind, each in mine:
        if kind == "map":
            for place, verdict in each.get("elem", ()):
                chains[verdict["goto"]["target"]].add(place["concat"][1])
    return chains


def kept(cove: Cove) -> bool:
    """As the records say: one machine at most."""
    names = cove("ps", "-q").out.split()
    if not names:
        return policed() == {}
    own = cove.inspect(NAME)["NetworkSettings"]["Networks"]["web"]["IPAddress"]
    return list(policed().values()) == [{own}]


def check(cove: Cove, where: str) -> None:
    wait_until(lambda: agrees(cove) and kept(cove), f"agreement after {where}")
    if cove("ps", "-q").out:
        assert not reaches(cove, NAME, OUTSIDE, 9), where
        assert refusals(cove, NAME) == {(OUTSIDE, "9", "tcp")}, where


def test_a_daemon_killed_at_any_step_of_a_start(fresh_cove: Cove, tmp_path: Path) -> None:
    cove, stride = fresh_cove, 1 if STRIDE == 1 else 3 * STRIDE
    with network(cove, "web"):
        verb, undo = "cove.engine.machines.life:_begin", ("rm", "-f", NAME)
        for where, _ in walk(cove, tmp_path / "at", verb, START, again=undo, stride=stride):
            check(cove, where)
            cove("rm", "-f", NAME, code=None)
            wait_until(lambda: not policed(), f"the end after {where}")
        check(cove, "all")
        cove("rm", "-f", NAME)
    assert rules() == ""


def test_a_daemon_killed_at_any_step_of_an_end(fresh_cove: Cove, tmp_path: Path) -> None:
    cove = fresh_cove
    with network(cove, "web"):
        cove(*START)
        verb = "cove.engine.networks.policies:end"
        for where, _ in walk(cove, tmp_path / "at", verb, ("rm", "-f", NAME), again=START):
            cove("rm", "-f", NAME, code=None)
            wait_until(lambda: not policed() and agrees(cove), f"the end after {where}")
        cove("rm", "-f", NAME, code=None)
    assert rules() == ""
