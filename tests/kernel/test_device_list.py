"""A node of a device opens what the machine may have, wherever it lies: here in a bind."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.driver import Cove, Done
from tests.shared import container_only

NODES = {"zero": (1, 5), "tun": (10, 200), "fuse": (10, 229)}

LOOK = """
for name in zero tun fuse; do
    (: < /nodes/$name) 2>/dev/null && printf "$name:r "
    (: > /nodes/$name) 2>/dev/null && printf "$name:w "
    (: <> /nodes/$name) 2>/dev/null && printf "$name:rw "
done; true
"""
ALL = "{0}:r {0}:w {0}:rw "
ZERO, TUN, FUSE = (ALL.format(name) for name in NODES)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nodes that anybody may open, as far as their modes say."""
    made = tmp_path_factory.mktemp("nodes")
    for name, (major, minor) in NODES.items():
        os.mknod(made / name, stat.S_IFCHR, os.makedev(major, minor))
        (made / name).chmod(0o666)
    return made


def opened(cove: Cove, nodes: Path, *flags: str) -> str:
    return cove("run", "--rm", "-v", f"{nodes}:/nodes", *flags, "bb", "sh", "-c", LOOK).out


@container_only("a guest has no device of the host")
@pytest.mark.parametrize(
    ("flags", "opens"),
    [
        ((), ZERO),
        (("--userns", "host"), ZERO),
        (("--userns", "host", "--cap-add", "ALL"), ZERO),
        (("--cap-add", "ALL", "--security-opt", "seccomp=unconfined"), ZERO),
        (("--device", "/dev/fuse"), ZERO + FUSE),
        (("--device", "/dev/fuse:r"), ZERO + "fuse:r "),
        (("--device", "/dev/zero:/dev/nought:r"), ZERO),
        (("--device-cgroup-rule", "c 10:229 rwm"), ZERO + FUSE),
        (("--device-cgroup-rule", "c 10:229 r", "--device-cgroup-rule", "c 10:229 w"), ZERO + FUSE),
        (("--device-cgroup-rule", "c 10:* w"), ZERO + "tun:w fuse:w "),
        (("--device-cgroup-rule", "a *:229 rw"), ZERO + FUSE),
        (("--device-cgroup-rule", "b *:* rwm"), ZERO),
        (("--device-cgroup-rule", "c *:* rw"), ZERO + TUN + FUSE),
        (("--device-cgroup-rule", "a *:* mwr"), ZERO + TUN + FUSE),
        (("--privileged",), ZERO + TUN + FUSE),
        (("--privileged", "--device", "/dev/fuse:r"), ZERO + TUN + FUSE),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, tuple) else "",
)
def test_a_bind_shows_nodes_but_opens_none_of_them(
    cove: Cove, nodes: Path, flags: tuple[str, ...], opens: str
) -> None:
    assert opened(cove, nodes, *flags) == opens


@container_only("a guest has no device of the host")
def test_a_list_holds_for_whoever_comes_later(cove: Cove, nodes: Path) -> None:
    """``exec``, also a privileged one, and the next start."""
    bind = ("-v", f"{nodes}:/nodes")
    cove("run", "-d", "--name", "listed", *bind, "--device", "/dev/fuse", "bb", "sleep", "inf")
    try:
        assert look(cove).out == ZERO + FUSE
        assert look(cove, "--privileged").out == ZERO + FUSE
        cove("restart", "-t", "0", "listed")
        assert look(cove).out == ZERO + FUSE
        cove.kill_daemon()
        assert look(cove).out == ZERO + FUSE
    finally:
        cove("rm", "-f", "listed")


def look(cove: Cove, *flags: str) -> Done:
    return cove("exec", *flags, "listed", "sh", "-c", LOOK)


@container_only("a guest has no device of the host")
def test_a_node_that_a_machine_makes_opens_nothing(cove: Cove) -> None:
    """With the host's ids and MKNOD it may make one, as with Docker."""
    made = "mknod /dev/made c 10 229 && (: < /dev/made) 2>&1"
    flags = ("--userns", "host", "--cap-add", "MKNOD")
    done = cove("run", "--rm", *flags, "bb", "sh", "-c", made, code=1)
    assert "can't open /dev/made: Operation not permitted" in done.out


@container_only("a guest has no device of the host")
def test_terminals_and_the_usual_devices_open(cove: Cove) -> None:
    each = "for n in null zero full random urandom ptmx; do : < /dev/$n || exit 1; done; "
    cove("run", "--rm", "bb", "sh", "-c", each + "echo x > /dev/null")
    done = cove("run", "--rm", "-t", "bb", "sh", "-c", "echo said > /dev/tty; : < /dev/console")
    assert done.out == "said\r\n"


@container_only("a guest has no device of the host")
def test_a_plan_shows_the_list_and_the_nodes(cove: Cove) -> None:
    lines = cove("plan", "--device", "/dev/fuse", "bb", "true").out.splitlines()
    lists = [line for line in lines if line.startswith("device_list")]
    assert "# default: only null zero" in lists[0]
    asked = [line.split()[:3] for line in lines if line.endswith("# --device /dev/fuse")]
    assert asked == [["mknodat", "dev", "fuse"], lists[1].split()[:3]]
    lines = cove("plan", "--privileged", "bb", "true").out.splitlines()
    assert [line for line in lines if line.startswith("device_list")] == []
    assert sum(line.startswith("any_device") for line in lines) == 1


@container_only("a guest has no device of the host")
def test_a_bound_device_that_does_not_open_is_told_of(cove: Cove) -> None:
    def said(*flags: str) -> str:
        return cove("run", "--rm", *flags, "bb", "true").err

    told = "cove: note: /dev/fuse is a device, which the machine may not open: --device /dev/fuse\n"
    assert said("-v", "/dev/fuse:/dev/fuse", "-v", "/dev/null:/n", "-v", "/dev:/d") == told
    assert said("-v", "/dev/fuse:/f", "--device", "/dev/fuse") == ""
    assert said("-v", "/dev/fuse:/f", "--privileged") == ""


@container_only("a guest has no device of the host")
def test_as_many_rules_as_there_may_be(cove: Cove, nodes: Path) -> None:
    rules = [f"--device-cgroup-rule=c 10:{minor} r" for minor in range(511)]
    assert opened(cove, nodes, *rules, "--device-cgroup-rule=b 1048575:1048575 rwm") == (
        ZERO + "tun:r fuse:r "
    )
    done = cove("run", "--rm", *rules, "--device", "/dev/fuse", "--device", "/dev/null", "bb",
                "true", code=125)  # fmt: skip
    said = "cannot give a machine 513 devices and rules for them: at most 512"
    assert said in done.err
    done = cove("run", "--rm", "--device-cgroup-rule", "c 1048576:1 r", "bb", "true", code=125)
    assert '"c 1048576:1 r": no device has such a number' in done.err
