"""A daemon that is killed while a virtual machine starts, joins or leaves a network: its tap, its
rules and its card in the guest are all there, or none is; its volumes are free again at its end.
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
from tests.vm.test_volumes import servers

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


def test_a_daemon_killed_at_any_step_of_a_start(host: Host, bb_tar: Path, tmp_path: Path) -> None:
    """On a network, with a directory that is served and a disk: it runs with all of them, or does
    not, and leaves nothing that is in the way of the next one.
    """
    disk = "type=volume,source=disk,target=/d,block,size=16m"
    words = ("run", "-d", "--vm", "--name", NAME, "--network", "web", "-v", "shared:/s",
             "--mount", disk, "bb", "sleep", "100000")  # fmt: skip
    with with_kernel(bb_tar) as cove, network(cove, "web") as gateway:
        verb, undo = "cove.engine.machines.life:_begin", ("rm", "-f", NAME)
        stride = 1 if STRIDE == 1 else 12 * STRIDE  # a boot has more than a thousand steps
        for where, told in walk(cove, tmp_path / "at", verb, words, again=undo, stride=stride):
            wait_until(lambda: agrees(cove), f"agreement after {where}")
            runs = cove("ps", "-q").out != ""
            assert runs or not told, where
            if runs:
                assert ping(cove, NAME, gateway), where
                inside(cove, "sh", "-c", "echo kept >/s/f && echo kept >/d/f", name=NAME)
            cove(*undo, code=None)
            gone = lambda: not places(cove) and not servers(cove)  # noqa: E731
            wait_until(gone, f"the end after {where}")
        assert ping(cove, NAME, gateway)
        cove("exec", NAME, "sh", "-c", "echo kept >/s/f && echo kept >/d/f")
        cove(*undo)
        cove("volume", "rm", "shared", "disk")
