"""Who names no network is on ``bridge``, as with Docker, unless the host's administrator decided
otherwise; and is told where that cannot be had.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.driver import ROOT, Cove, front_path, wait_until
from tests.networks.conftest import Host, links, machine, rules

DEFAULT_NETWORK = "bridge"

MODE = "{{.HostConfig.NetworkMode}}"


def test_without_a_word_a_machine_is_on_bridge(cove: Cove, clean: None) -> None:
    """Made by the first one, gone with ``rm``, made again by the next."""
    assert not [name for name in links() if name.startswith("cv")]
    for _ in range(2):
        with machine(cove, "one", "") as one:
            found = cove.inspect("one")
            assert found["HostConfig"]["NetworkMode"] == "bridge"
            gateway = found["NetworkSettings"]["Networks"]["bridge"]["Gateway"]
            routes = cove("run", "--rm", "bb", "ip", "route").out
            assert f"default via {gateway} " in routes
            for target in (one, gateway, "one"):
                assert cove("run", "--rm", "bb", "ping", "-c1", "-W60", target).out
        cove("network", "rm", "bridge")
        assert rules() == ""


def test_what_says_none_has_none(cove: Cove, clean: None) -> None:
    shown = cove("run", "--rm", "--network", "none", "bb", "ls", "/sys/class/net").out
    assert shown == "lo\n"
    assert "bridge" not in cove("network", "ls", "--format", "{{.Name}}").out.split()
    assert "eth0" in cove("run", "--rm", "--network", "default", "bb", "ls", "/sys/class/net").out
    assert "--network bridge" in cove("plan", "bb", "true").out
    assert "--network bridge" not in cove("plan", "--network", "none", "bb", "true").out
    cove("network", "rm", "bridge")


def test_the_python_api_has_the_same_default(cove: Cove, clean: None) -> None:
    program = (
        "import cove, sys\n"
        "for more in ({}, {'network': 'none'}):\n"
        "    ran = cove.run('bb', ['ls', '/sys/class/net'], isolation=sys.argv[1], **more)\n"
        "    print(ran.text.split())\n"
    )
    env = cove.env | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", program, cove.isolation]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.stdout == "['eth0', 'lo']\n['lo']\n", done.stderr
    cove("network", "rm", "bridge")


def test_a_host_may_have_another_default(host: Host, fresh_cove: Cove) -> None:
    """The daemon's environment decides; what is decided stays in a machine's record."""
    cove = fresh_cove
    cove("create", "--name", "before", "bb", "true")
    for setting, mode in (("none", "none"), ("lan", "lan"), ("", "bridge")):
        cove.stop_daemon()
        cove.env["COVE_DEFAULT_NETWORK"] = setting
        if mode == "lan":
            cove("network", "create", "--internal", "lan")
        cove("create", "--name", "one", "bb", "true")
        assert cove("inspect", "-f", MODE, "one", "before").out == f"{mode}\nbridge\n"
        cove("rm", "one")
        shown = cove("run", "--rm", "bb", "ls", "/sys/class/net").out
        assert ("eth0" in shown) == (mode != "none")
    cove("network", "rm", "lan")
    cove.stop_daemon()
    cove.env["COVE_DEFAULT_NETWORK"] = "lan"
    done = cove("run", "--rm", "bb", "true", code=125)
    assert done.err == (
        'cove: cannot join the network "lan": no such network\n'
        "  from: COVE_DEFAULT_NETWORK in the daemon's environment\n"
        "  hint: cove network create lan, or name another: --network bridge\n"
    )
    cove("rm", "before")


@pytest.mark.parametrize("setting", ["host", "container:one", "a b"])
def test_a_default_that_is_none(host: Host, fresh_cove: Cove, setting: str) -> None:
    cove = fresh_cove
    cove.stop_daemon()
    cove.env["COVE_DEFAULT_NETWORK"] = setting
    done = cove("run", "--rm", "bb", "true", code=125)
    assert f'"{setting}"' in done.err
    assert "from: COVE_DEFAULT_NETWORK in the daemon's environment" in done.err
    cove("run", "--rm", "--network", "none", "bb", "true")


def test_a_port_wants_a_network(host: Host, fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove.stop_daemon()
    cove.env["COVE_DEFAULT_NETWORK"] = "none"
    for flag in (("-p", "80"), ("--ip", "10.1.2.3"), ("--network-alias", "db")):
        done = cove("run", "--rm", *flag, "bb", "true", code=125)
        assert "with --network none" in done.err
        assert "host: COVE_DEFAULT_NETWORK is none" in done.err


def test_without_the_firewalls_library(host: Host, fresh_cove: Cove) -> None:
    """The daemon of a host that has none: said by name, and nothing is left."""
    cove = fresh_cove
    cove.stop_daemon()
    library = next(Path("/usr/lib").rglob("libnftables.so.1")).resolve()
    hide = f'mount --bind /dev/null {library} && exec "$@"'
    words = ("unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh")
    before = links()

    def hidden(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*words, str(front_path()), *more],
            env=cove.env,
            capture_output=True,
            text=True,
            timeout=120,
        )

    done = hidden("run", "--rm", "bb", "true")
    assert done.returncode == 125
    assert done.stderr == (
        "cove: cannot use networks: there is no libnftables, which keeps machines apart\n"
        "  host: libnftables.so.1 cannot be loaded\n"
        "  hint: apt install libnftables1, or use --network none\n"
    )
    assert hidden("run", "--rm", "--network", "none", "bb", "echo", "hello").stdout == "hello\n"
    wait_until(lambda: cove("ps", "-aq").out == "" and links() == before, "the end of both")
    cove.stop_daemon()


def test_without_the_rights(fresh_cove: Cove) -> None:
    """A daemon that may not change its network."""
    cove = fresh_cove
    cove.stop_daemon()
    drop = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    done = subprocess.run(
        [*drop, str(front_path()), "run", "--rm", "bb", "true"],
        env=cove.env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 125
    assert "cannot use networks: the kernel took no rules" in done.stderr
    assert "; without a network: --network none" in done.stderr
    plain = subprocess.run(
        [*drop, str(front_path()), "run", "--rm", "--network", "none", "bb", "true"], env=cove.env
    )
    assert plain.returncode == 0
    cove.stop_daemon()
