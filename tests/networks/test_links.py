"""``--link``: what another machine is called by one machine alone, and what that one is told."""

from __future__ import annotations

import pytest

from tests.driver import Cove
from tests.networks.conftest import address, machine, network

DEFAULT_NETWORK = "bridge"

LINKS = "{{json .HostConfig.Links}}"
OF_DB = ("-e", "KEY=value", "--expose", "5432", "--expose", "5433", "--expose", "53/udp")


def finds(cove: Cove, name: str, alias: str) -> str:
    """What a machine has of a name; empty: nothing."""
    ran = cove("exec", name, "nslookup", alias, code=None)
    return ran.out.rpartition("Name:")[2] if ran.returncode == 0 else ""


def test_a_linked_machine_is_told_of_by_name_and_variables(cove: Cove, clean: None) -> None:
    with (
        machine(cove, "db", "", *OF_DB) as db,
        machine(cove, "web", "", "--link", "db:my-sql") as web,
        machine(cove, "odd", ""),
    ):
        told = dict(
            line.partition("=")[::2] for line in cove("exec", "web", "env").out.splitlines()
        )
        assert {name: told[name] for name in told if name.startswith("MY_SQL")} == {
            "MY_SQL_PORT": f"tcp://{db}:5432",
            "MY_SQL_PORT_5432_TCP_START": f"tcp://{db}:5432",
            "MY_SQL_PORT_5432_TCP_ADDR": db,
            "MY_SQL_PORT_5432_TCP_PROTO": "tcp",
            "MY_SQL_PORT_5432_TCP_PORT_START": "5432",
            "MY_SQL_PORT_5433_TCP_END": f"tcp://{db}:5433",
            "MY_SQL_PORT_5432_TCP_PORT_END": "5433",
            "MY_SQL_PORT_5432_TCP": f"tcp://{db}:5432",
            "MY_SQL_PORT_5432_TCP_PORT": "5432",
            "MY_SQL_PORT_5433_TCP": f"tcp://{db}:5433",
            "MY_SQL_PORT_5433_TCP_ADDR": db,
            "MY_SQL_PORT_5433_TCP_PORT": "5433",
            "MY_SQL_PORT_5433_TCP_PROTO": "tcp",
            "MY_SQL_PORT_53_UDP": f"udp://{db}:53",
            "MY_SQL_PORT_53_UDP_ADDR": db,
            "MY_SQL_PORT_53_UDP_PORT": "53",
            "MY_SQL_PORT_53_UDP_PROTO": "udp",
            "MY_SQL_NAME": "/web/my-sql",
            "MY_SQL_ENV_KEY": "value",
        }
        assert db in finds(cove, "web", "my-sql") and web not in finds(cove, "web", "my-sql")
        assert not finds(cove, "odd", "my-sql"), "it is the name of one machine's alone"
        assert cove("inspect", "-f", LINKS, "web").out == '["/db:/web/my-sql"]\n'
        cove("rename", "db", "store")
        assert cove("inspect", "-f", LINKS, "web").out == '["/store:/web/my-sql"]\n'
        assert db in finds(cove, "web", "my-sql")
        assert cove("rm", "--link", "web/my-sql").out == "web/my-sql\n"
        assert not finds(cove, "web", "my-sql")
        assert cove("rm", "--link", "web/my-sql", code=1).err
        cove("rename", "store", "db")
    cove("network", "rm", "bridge")


def test_what_cannot_be_linked_to_is_told(cove: Cove, clean: None) -> None:
    assert "cannot link to nobody" in cove("create", "--link", "nobody", "bb", code=125).err
    assert "not NAME:ALIAS" in cove("create", "--link", ":x", "bb", code=125).err
    cove("create", "--name", "db", "bb", "sleep", "1000")
    for mode in ("none", "host"):
        refused = cove("create", "--network", mode, "--link", "db", "bb", code=125).err
        assert f"--network {mode}" in refused and "--link db:db" in refused
    cove("create", "--name", "web", "--link", "db", "bb", "sleep", "1000")
    assert "db does not run" in cove("start", "web", code=1).err
    cove("start", "db")
    cove("start", "web")
    assert address(cove, "db", "bridge") in finds(cove, "web", "db")
    cove("rm", "-f", "web", "db")
    cove("network", "rm", "bridge")


@pytest.mark.parametrize("when", ["before", "after"])
def test_on_a_network_of_ones_own_a_link_is_a_name(cove: Cove, clean: None, when: str) -> None:
    """Of a machine that may come later; one that runs may be linked, too."""
    with network(cove, "front"):
        if when == "before":
            cove("run", "-d", "--name", "web", "--network", "front", "bb", "sleep", "1000")
            cove("network", "disconnect", "front", "web")
            cove("network", "connect", "--link", "later:there", "front", "web")
            assert not finds(cove, "web", "there")
        with machine(cove, "later", "front") as later:
            if when == "after":
                words = ("--network", "front", "--link", "later:there", "bb", "sleep", "1000")
                cove("run", "-d", "--name", "web", *words)
            assert later in finds(cove, "web", "there")
            assert "THERE" not in cove("exec", "web", "env").out
            cove("rm", "-f", "web")
