"""A daemon that is killed while a virtual machine joins or leaves a network: its tap, its rules and
its card in the guest are all there, or none is.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.driver import wait_until
from tests.kernel.test_changes_crash import NAME, walk
from tests.kernel.test_walks import STRIDE
from tests.networks.conftest import Host, links, machine, network
from tests.networks.test_crash import agrees, places
from tests.networks.test_networks import ping
from tests.networks.test_virtual import inside, with_kernel

pytestmark = pytest.mark.timeout(900)

GUESTS = True


def test_a_daemon_killed_at_any_step_of_a_change(host: Host, bb_tar: Path, tmp_path: Path) -> None:
    """Its tap, its rules, its card in the guest: all of them or none."""
    with with_kernel(bb_tar) as cove, network(cove, "web"), network(cove, "db") as gateway:
        with machine(cove, NAME, "web", "--vm"):
            for verb, opposite in (("connect", "disconnect"), ("disconnect", "connect")):
                if verb == "disconnect":
                    cove("network", "connect", "db", NAME, code=None)
                steps = walk(
                    cove, tmp_path / "at", f"cove.engine.networks.networks:{verb}",
                    ("network", verb, "db", NAME), again=("network", opposite, "db", NAME),
                    stride=1 if STRIDE == 1 else 4,
                )  # fmt: skip
                for where, told in steps:
                    wait_until(lambda: agrees(cove), f"agreement after {where}")
                    on = len(places(cove)) == 2
                    assert not told or on == (verb == "connect"), where
                    assert ("eth1" in inside(cove, "ip", "route", name=NAME)) == on, (
                        f"{where}: {(cove.root / 'run/daemon.log').read_text()[-2000:]}"
                    )
                    if on:
                        assert ping(cove, NAME, gateway), where
        assert not [name for name in links() if name[7:8] == "e" and name[:2] == "cv"]
