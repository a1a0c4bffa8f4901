"""Under emulation the jail is the boundary: what the emulator's process is, by the host's own
kernel.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.linux.network.tap import DEVICE, has_taps
from cove.spec.network import CARDS
from tests.driver import Cove
from tests.vm.test_causes import emulator_of, up

ALLOWED_FILES = ("/memfd:", "/dev/null", DEVICE, "/proc/")
IFF_UP = 1


@pytest.fixture(scope="module")
def machine(cove: Cove) -> Iterator[str]:
    found = up(cove, "sleep", "1000", flags=("--memory", "64m"))
    yield found
    cove("rm", "-f", found)


@pytest.fixture(scope="module")
def emulator(cove: Cove, machine: str) -> Path:
    return Path(f"/proc/{emulator_of(cove, machine)}")


def fields(process: Path) -> dict[str, str]:
    lines = (process / "status").read_text().splitlines()
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in lines)}


def test_it_has_no_privileges_and_gets_none(emulator: Path) -> None:
    status = fields(emulator)
    assert status["Seccomp"] == "2"
    assert int(status["Seccomp_filters"]) >= 3, "the jail's two, and its own"
    assert status["NoNewPrivs"] == "1"
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert {int(word) & 0xFFFF for word in status["Groups"].split()} <= {65534}


def test_it_is_nobody_on_the_host(cove: Cove, machine: str, emulator: Path) -> None:
    status = fields(emulator)
    ids = {int(word) for word in (status["Uid"] + " " + status["Gid"]).split()}
    assert len(ids) == 1
    own = ids.pop()
    assert own >= 1 << 30, "of a range of its machine's own"
    assert own & 0xFFFF == 65534


def test_it_shares_no_namespace_with_the_host(emulator: Path) -> None:
    for kind in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts"):
        assert os.readlink(emulator / "ns" / kind) != os.readlink(f"/proc/self/ns/{kind}"), kind
    lines = (emulator / "net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]


def test_without_networks_its_links_are_down_and_it_makes_no_others(emulator: Path) -> None:
    """A guest has its cards from its beginning (docs/networks.md), and each has its link."""
    assert not (emulator / "root/dev/net").exists()
    held = [entry.name for entry in (emulator / "fd").iterdir() if os.readlink(entry) == DEVICE]
    assert len(held) == (CARDS if has_taps() else 0)
    for number in held:
        text = (emulator / "fdinfo" / number).read_text()
        link = Path("/sys/class/net", text.split("iff:")[1].split()[0])
        assert not int((link / "flags").read_text(), 16) & IFF_UP, link
        assert not (link / "brport").exists(), f"{link} is a port of a bridge"


def test_it_has_only_the_descriptors_it_was_given(cove: Cove, machine: str, emulator: Path) -> None:
    directory = Path(cove.inspect(machine)["LogPath"]).parent
    ours = {str(directory / name) for name in ("emulator", "scratch")}
    kernels, disks = f"{cove.root}/kernels/", f"{cove.root}/"
    for entry in sorted((emulator / "fd").iterdir(), key=lambda path: int(path.name)):
        target = os.readlink(entry)
        if target.startswith(("socket:", "pipe:", "anon_inode:", *ALLOWED_FILES)):
            continue
        mode = os.stat(entry).st_mode
        assert stat.S_ISREG(mode) or stat.S_ISCHR(mode), (entry.name, target)
        flags = int((emulator / "fdinfo" / entry.name).read_text().split("flags:")[1].split()[0], 8)
        if target in ours:
            continue
        assert target.startswith((kernels, disks)), (entry.name, target)
        assert flags & os.O_ACCMODE == os.O_RDONLY, (entry.name, target)


def test_its_root_is_read_only_and_not_the_hosts(emulator: Path) -> None:
    mounts = [line.split() for line in (emulator / "mountinfo").read_text().splitlines()]
    root = next(words for words in mounts if words[4] == "/")
    assert "ro" in root[5].split(",")
    for words in mounts:
        place, options = words[4], words[5].split(",")
        own = place.startswith(("/dev", "/proc"))
        assert own or "ro" in options, f"{place} can be written"
        assert own or place.startswith(("/sys", "/usr", "/etc/", "/var/lib/dpkg")) or place == "/"


def test_its_group_has_limits(cove: Cove, machine: str, emulator: Path) -> None:
    """The guest's memory and a stated overhead, however large the guest believes it is."""
    pids = memory = 0
    for line in (emulator / "cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        top = Path("/sys/fs/cgroup")
        bases = [top] if number == "0" else [top / controllers, *top.iterdir()]
        for base in bases:
            group = base / path.lstrip("/")
            for name in ("memory.max", "memory.limit_in_bytes"):
                if (group / name).exists():
                    memory = int((group / name).read_text())
            if (group / "pids.max").exists() and "cove-" in path:
                pids = int((group / "pids.max").read_text())
    assert memory == (512 + 192) << 20
    assert pids == 128


def test_the_guest_sees_neither_jail_nor_host(cove: Cove, machine: str) -> None:
    seen = cove("exec", machine, "sh", "-c", "ps -o args; cat /proc/cmdline; cat /proc/mounts").out
    assert "qemu" not in seen and str(cove.root) not in seen
    assert cove("exec", machine, "uname", "-r").out.strip() != os.uname().release
