"""A daemon that is killed at any step of what it does to a network: what the kernel has is what the
records say, and nothing is left over.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.driver import Cove, wait_until
from tests.kernel.test_changes_crash import NAME, walk
from tests.kernel.test_walks import STRIDE
from tests.networks.conftest import links, machine, network, rules
from tests.shared import no_scenario

pytestmark = no_scenario(
    "it kills the daemon between its steps: networks/test_virtual_crash does it to virtual machines"
)


def places(cove: Cove) -> set[tuple[str, str]]:
    """Addresses and MAC addresses of machines on networks, as the daemon tells."""
    names = cove("network", "ls", "-q", "-f", "driver=bridge").out.split()
    found = json.loads(cove("network", "inspect", *names).out) if names else []
    members = [member for one in found for member in one["Containers"].values()]
    return {(m["IPv4Address"].partition("/")[0], m["MacAddress"]) for m in members}


RULED = 3
"""Sets that a place without IPv6 is in: its link with MAC address, with IP address, with both."""


def agrees(cove: Cove) -> bool:
    """Kernel and records: a port and its rules for each place, and no others."""
    told, shown = places(cove), rules()
    ports = {name for name in links() if name[:2] == "cv" and name[7] == "e"}
    guarded = {name for name in ports if shown.count(f'"{name}" . ') == RULED}
    return (
        len(ports) == len(told)
        and ports == guarded
        and all(address in shown and mac in shown for address, mac in told)
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("flags", [(), ("--rm",)], ids=["kept", "ephemeral"])
def test_a_daemon_killed_at_any_step_of_a_start(
    fresh_cove: Cove, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    cove, stride = fresh_cove, 1 if STRIDE == 1 else 2 * STRIDE
    with network(cove, "web") as gateway:
        words = ("run", "-d", "--name", NAME, *flags, "--network", "web", "bb", "sleep", "1000")
        verb, undo = "cove.engine.machines.life:_begin", ("rm", "-f", NAME)
        for where, told in walk(cove, tmp_path / "at", verb, words, again=undo, stride=stride):
            wait_until(lambda: agrees(cove), f"agreement after {where}")
            runs = cove("ps", "-q").out != ""
            assert runs or not told, where
            if runs:
                assert cove("exec", NAME, "ping", "-c1", "-W5", gateway).out, where
                assert cove("exec", NAME, "nslookup", NAME).out, where
            cove("rm", "-f", NAME, code=None)
            wait_until(lambda: not places(cove), f"the end after {where}")
        cove("rm", "-f", NAME)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("verb", ["connect", "disconnect"])
def test_a_daemon_killed_at_any_step_of_a_change(
    fresh_cove: Cove, tmp_path: Path, verb: str
) -> None:
    cove, opposite = fresh_cove, {"connect": "disconnect", "disconnect": "connect"}[verb]
    with network(cove, "web"), network(cove, "db") as gateway, machine(cove, NAME, "web"):
        if verb == "disconnect":
            cove("network", "connect", "db", NAME)
        steps = walk(
            cove, tmp_path / "at", f"cove.engine.networks.networks:{verb}",
            ("network", verb, "db", NAME), again=("network", opposite, "db", NAME), stride=1,
        )  # fmt: skip
        for where, told in steps:
            wait_until(lambda: agrees(cove), f"agreement after {where}")
            on = len(places(cove)) == 2
            assert not told or on == (verb == "connect"), where
            assert ("eth1" in cove("exec", NAME, "ip", "route").out) == on, where
            if on:
                assert cove("exec", NAME, "ping", "-c1", "-W5", gateway).out, where


@pytest.mark.timeout(900)
def test_a_daemon_killed_at_any_step_of_a_removal(fresh_cove: Cove, tmp_path: Path) -> None:
    cove = fresh_cove
    cove("network", "create", "web")
    cove("run", "--rm", "--network", "web", "bb", "true")
    words = ("network", "rm", "web")
    for where, told in walk(
        cove, tmp_path / "at", "cove.engine.networks.networks:remove", words, stride=1
    ):
        there = "web" in cove("network", "ls", "--format", "{{.Name}}").out.split()
        assert not (there and told), where
        if there:
            cove(*words)
        assert not rules(), where
        assert not any(name[:2] == "cv" for name in links()), where
        assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "0\n", where
        cove("network", "create", "web")
        cove("run", "--rm", "--network", "web", "bb", "true")
