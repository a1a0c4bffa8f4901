"""How fast a machine may use the host's block devices is written where the kernel reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.errors import CoveError
from cove.linux.cgroups.devices import V1, V1_WEIGHTS, V2_WEIGHTS, files_of
from cove.linux.cgroups.tree import open_cgroups
from cove.linux.probe import probe_facts
from cove.spec.machine import DeviceRate, Limits
from tests.conftest import need_root
from tests.driver import Cove

FLAGS = ("--device-read-bps", "--device-write-bps", "--device-read-iops", "--device-write-iops")


def disk() -> tuple[str, str]:
    """One of this host's, and its numbers; a loop device may be of a test beside this one."""
    unsteady = ("loop", "ram", "zram")
    for name in sorted(os.listdir("/sys/block"), key=lambda n: (n.startswith(unsteady), n)):
        path = f"/dev/{name}"
        if os.path.exists(path):
            number = os.stat(path).st_rdev
            return path, f"{os.major(number)}:{os.minor(number)}"
    raise AssertionError("this host has no block device")


@pytest.fixture
def limited(cove: Cove) -> Iterator[Cove]:
    yield cove
    cove("rm", "-f", "limited", code=None)


def group_of(cove: Cove, controller: str) -> Path:
    path = cove.inspect("limited")["CgroupPath"]
    name = "/".join(path.strip("/").split("/")[-2:])
    v1 = Path("/sys/fs/cgroup") / controller / name
    return v1 if v1.is_dir() else Path("/sys/fs/cgroup") / path.strip("/")


def test_rates_of_a_device(limited: Cove) -> None:
    cove = limited
    path, numbers = disk()
    rates = ("1mb", "2mb", "100", "200")
    words = [w for flag, rate in zip(FLAGS, rates, strict=True) for w in (flag, f"{path}:{rate}")]
    cove("run", "-d", "--name", "limited", *words, "bb", "sleep", "1000")
    wanted = {"read-bps": 1 << 20, "write-bps": 2 << 20, "read-iops": 100, "write-iops": 200}
    group = group_of(cove, "blkio")
    if (group / "io.max").exists():
        (line,) = [x for x in (group / "io.max").read_text().splitlines() if numbers in x]
        assert line == f"{numbers} rbps=1048576 wbps=2097152 riops=100 wiops=200"
    else:
        for kind, rate in wanted.items():
            assert (group / V1[kind]).read_text() == f"{numbers} {rate}\n"
    host = cove.inspect("limited")["HostConfig"]
    assert host["BlkioDeviceReadBps"] == [{"Path": path, "Rate": 1 << 20}]
    assert host["BlkioDeviceWriteIOps"] == [{"Path": path, "Rate": 200}]


def test_a_weight_where_the_host_has_weights(limited: Cove) -> None:
    cove = limited
    cove("run", "-d", "--name", "limited", "bb", "sleep", "1000")
    group = group_of(cove, "blkio")
    names = [n for n in (*V1_WEIGHTS, *V2_WEIGHTS) if (group / n).exists()]
    done = cove("update", "--blkio-weight", "300", "limited", code=None)
    if not names:
        assert done.returncode == 1 and "this kernel's disks have no weights" in done.err
        assert cove.inspect("limited")["HostConfig"]["BlkioWeight"] == 0
        return
    assert done.returncode == 0, done.err
    assert cove.inspect("limited")["HostConfig"]["BlkioWeight"] == 300
    weight = 300 if names[0] != "io.weight" else 1 + 290 * 9999 // 990
    assert str(weight) in (group / names[0]).read_text().split()


def test_rates_are_as_they_were_after_a_refused_change(tmp_path: Path) -> None:
    """CPUs are written last: what is written before them is undone."""
    need_root()
    path, numbers = disk()
    facts = probe_facts(tmp_path)
    if not {"blkio", "io"} & set(facts.controllers):
        pytest.skip("needs a blkio or io control group")
    with open_cgroups(facts, str(tmp_path)) as groups:
        group = groups.make(Limits(rates=(DeviceRate(path, "read-bps", 1 << 20),)))
        base = next(
            Path(at, group.name) for at in groups.parents() if files_of(f"{at}/{group.name}")
        )
        before = {file: Path(file).read_text() for file in files_of(str(base))}
        assert any(numbers in text for text in before.values())
        rates = (DeviceRate(path, "read-bps", 2 << 20), DeviceRate(path, "write-iops", 7))
        with pytest.raises(CoveError) as error:
            groups.change(group, Limits(rates=rates, cpuset_cpus="4096"))
        assert error.value.origin == "--cpuset-cpus 4096"
        assert {file: Path(file).read_text() for file in before} == before
        groups.remove(group)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--device-read-bps", "/dev/no-such-disk:1mb"), "no such file or directory"),
        (("--device-read-bps", "/dev/null:1mb"), "it is not a block device"),
        (("--device-read-bps", "/etc/passwd:1mb"), "not DEVICE:RATE"),
        (("--device-read-bps", "/dev/sda"), "not DEVICE:RATE"),
        (("--device-write-iops", "/dev/sda:1mb"), '"1mb" is no number of operations'),
        (("--device-write-iops", "/dev/sda:0"), "it is not above 0"),
        (("--blkio-weight", "9"), "it is not between 10 and 1000"),
        (("--blkio-weight-device", "/dev/sda:100"), "one weight holds for all devices"),
    ],
)
def test_what_is_no_rate(cove: Cove, words: tuple[str, ...], message: str) -> None:
    done = cove("run", "--rm", *words, "bb", "true", code=125)
    assert message in done.err and done.out == ""
