"""``cove.networks``: the verbs of networks in Python."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cove as package
from tests.driver import ROOT, Cove
from tests.networks.conftest import machine
from tests.shared import no_scenario

pytestmark = [
    no_scenario("it is about the Python API, not about machines"),
    pytest.mark.usefixtures("clean"),
]


def test_the_example_of_the_page_runs(cove: Cove, tmp_path: Path) -> None:
    page = (ROOT / "docs/python.md").read_text()
    found = [e for e in re.findall(r"```python\n(.*?)```", page, re.S) if "cove.networks" in e]
    assert len(found) == 1
    example = tmp_path / "example.py"
    example.write_text("import cove\n" + found[0])
    words = [sys.executable, "-W", "error", str(example)]
    done = subprocess.run(words, env=cove.env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_networks_are_made_joined_and_removed(cove: Cove) -> None:
    networks = package.connect(str(cove.root)).networks
    made = networks.create(
        "lan", subnet=("10.88.0.0/24", "fd00:88::/64"), gateway="10.88.0.254", ipv6=True,
        labels={"tier": "db"},
    )  # fmt: skip
    assert (made.record.subnet, made.record.subnet6) == ("10.88.0.0/24", "fd00:88::/64")
    assert made.record.gateway == "10.88.0.254" and made.record.labels == {"tier": "db"}
    assert networks.get(made.record.id[:12]) == made
    assert [n.record.name for n in networks.list()][-1] == "lan"
    with pytest.raises(package.Conflict, match="lan"):
        networks.create("lan")
    with pytest.raises(package.UsageError, match="no address of"):
        networks.create("bad", subnet="10.89.0.0/24", gateway="10.1.1.1")
    with pytest.raises(package.NotFound):
        networks.get("nothing")
    with (
        machine(cove, "one", "none", "--network-policy", "deny-all"),
        pytest.raises(package.Unsupported, match="forwarding"),
    ):
        assert networks.refused("one").policy == ("deny-all",)
        networks.connect("lan", "one", forwarding=True)
    with machine(cove, "two", "none"):
        two = package.connect(str(cove.root)).get("two")
        networks.connect(
            "lan", two, ip="10.88.0.9", ip6="fd00:88::9", mac="02:42:0a:58:00:09",
            aliases=["deux"], forwarding=True,
        )  # fmt: skip
        (member,) = networks.get("lan").members
        place = member.endpoint
        assert (place.address, place.address6) == ("10.88.0.9/24", "fd00:88::9/64")
        assert place.mac == "02:42:0a:58:00:09" and place.aliases == ("deux",) and place.forwards
        with pytest.raises(package.Conflict):
            networks.remove("lan")
        networks.disconnect("lan", two)
        assert networks.get("lan").members == ()
        with pytest.raises(package.Conflict, match="no network policy"):
            networks.refused(two)
    networks.remove("lan")


def test_as_coroutines(cove: Cove) -> None:
    async def main() -> None:
        networks = package.aio.connect(str(cove.root)).networks
        await networks.create("left")
        await networks.create("right", internal=True)
        assert (await networks.get("right")).record.internal
        assert set(await networks.prune()) == {"left", "right"}
        with pytest.raises(package.NotFound):
            await networks.remove("left")

    asyncio.run(main())
