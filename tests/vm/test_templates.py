"""Machines without a boot: clones of a template, and warm ones that wait. What no two of them may
share, and what stays behind when something is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import open_cove
from tests.driver import Cove, kill_process, wait_until
from tests.leaks import group_name, leaks
from tests.shared import give_trial
from tests.vm.conftest import CACHE, Stored

TOLD = """cat /proc/sys/kernel/random/boot_id /etc/machine-id /etc/hostname
head -c 16 /dev/urandom | od -An -tx1"""
VM = ("run", "--rm", "--vm", "bb")


@pytest.fixture(scope="module")
def vms(one_stored: Stored, bb_tar: Path) -> Iterator[Cove]:
    """A daemon with a kernel, and with one warm clone at most."""
    with open_cove(bb_tar) as driver:
        driver.stop_daemon()
        kernel = one_stored.kernel.name
        shutil.copytree(CACHE / "kernels" / kernel, driver.root / "kernels" / kernel)
        give_trial(driver)
        driver.env["COVE_VM_POOL"] = "1"
        driver(*VM, "true")
        _wait_warm(driver)
        yield driver


def _templates(cove: Cove, column: str = "ID") -> list[str]:
    return cove("template", "ls", "--no-trunc", "--format", f"{{{{.{column}}}}}").out.split()


def _wait_warm(cove: Cove) -> None:
    wait_until(lambda: "1" in _templates(cove, "Warm"), f"a warm clone\n{cove.post_mortem()}")


@contextlib.contextmanager
def _nothing_left(cove: Cove) -> Iterator[None]:
    """Compared where no daemon runs: then nothing waits either."""
    cove("ps")  # the test before may have ended as this one does
    cove.stop_daemon()
    with leaks(cove.root):
        cove("ps")
        _wait_warm(cove)
        yield
        cove.stop_daemon()


def _emulators(cove: Cove) -> dict[int, list[str]]:
    """Process id and command line of every emulator with a socket of this daemon's."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes().decode().split("\0")
                groups = Path(f"/proc/{entry}/cgroup").read_text()
            except OSError:
                continue
            if "qemu-system" in line[0] and group_name(cove.root) in groups:
                found[int(entry)] = line
    return found


def _waiting(cove: Cove) -> int:
    """The emulator of the warm clone, once those of machines that have ended are gone."""
    _wait_warm(cove)
    wait_until(lambda: len(_emulators(cove)) == 1, "one emulator")
    return next(iter(_emulators(cove)))


def _how(cove: Cove, name: str) -> str:
    """``clone`` or ``boot``: by the command line of the machine's emulator."""
    hub = cove.inspect(name)["State"]["Pid"]
    children = Path(f"/proc/{hub}/task/{hub}/children").read_text().split()
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in children]
    (line,) = [line for line in lines if b"qemu-system" in line[0]]
    return "clone" if b"-incoming" in line else "boot"


def test_no_two_clones_are_the_same_machine(vms: Cove) -> None:
    """The first is warm, the second is made on the spot, both of one template."""
    told = [vms("run", "--rm", "--vm", "bb", "sh", "-c", TOLD).out.splitlines() for _ in range(3)]
    assert all(len(lines) == 4 for lines in told), told
    for what in zip(*told, strict=True):
        assert len(set(what)) == 3, what
    boot_id, machine_id, hostname, _ = told[0]
    assert len(boot_id) == 36 and len(machine_id) == 32 and machine_id.startswith(hostname)


def test_a_start_takes_the_warm_one_then_clones_the_template(vms: Cove) -> None:
    waits = {_waiting(vms)}
    vms("run", "-d", "--name", "warm", "--vm", "bb", "sleep", "100")
    hub = vms.inspect("warm")["State"]["Pid"]
    mine = {int(pid) for pid in Path(f"/proc/{hub}/task/{hub}/children").read_text().split()}
    assert mine & waits and _how(vms, "warm") == "clone"
    vms("run", "-d", "--name", "cold", "--vm", "bb", "sleep", "100")
    assert _how(vms, "cold") == "clone"
    assert vms("exec", "warm", "cat", "/etc/hostname").out != vms("exec", "cold", "hostname").out
    # It starts again under its own key, with the disk it had.
    vms("exec", "warm", "sh", "-c", "echo kept > /file; cp /etc/machine-id /id")
    vms("stop", "-t", "0", "warm")
    vms("start", "warm")
    assert _how(vms, "warm") == "clone"
    assert vms("exec", "warm", "cat", "/file").out == "kept\n"
    assert vms("exec", "warm", "cmp", "/id", "/etc/machine-id").out == ""
    vms("rm", "-f", "warm", "cold")


def test_a_machine_that_begins_otherwise_is_a_clone_all_the_same(vms: Cove) -> None:
    """What its guest has begun with is given up for the machine's own plan, warm or not."""
    shell = "df -k /dev/shm | tail -1; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo $$"
    special = ("--shm-size", "8m", "--sysctl", "net.ipv4.ip_unprivileged_port_start=7")
    _wait_warm(vms)
    for name in ("first", "second"):
        vms("run", "-d", "--name", name, *special, "--vm", "bb", "sleep", "100")
        assert _how(vms, name) == "clone"
        shm, port, _ = vms("exec", name, "sh", "-c", shell).out.splitlines()
        assert shm.split()[1] == "8192" and port == "7"
        assert len(vms("top", name).out.splitlines()) == 2
    vms("rm", "-f", "first", "second")


def test_a_machine_of_another_size_boots_once_and_is_cloned_then(vms: Cove) -> None:
    vms("run", "-d", "--name", "first", "--vm", "-m", "700m", "bb", "sleep", "100")
    assert _how(vms, "first") == "boot"
    wait_until(lambda: len(_templates(vms)) == 2, "a second template")
    vms("run", "-d", "--name", "second", "--vm", "-m", "700m", "bb", "sleep", "100")
    assert _how(vms, "second") == "clone"
    vms("rm", "-f", "first", "second")
    for line in vms("template", "ls", "--format", "{{.ID}} {{.Memory}}").out.splitlines():
        if line.endswith("1GiB"):
            vms("template", "rm", line.split()[0])
    assert len(_templates(vms)) == 1


def test_a_killed_clone_that_waits_is_no_machines(vms: Cove) -> None:
    with _nothing_left(vms):
        pid = _waiting(vms)
        kill_process(pid)
        assert vms(*VM, "echo", "hi").out == "hi\n"
        _wait_warm(vms)
        wait_until(lambda: len(_emulators(vms)) == 1, "the killed one's successor")


def test_a_killed_emulator_ends_its_machine_and_leaves_nothing(vms: Cove) -> None:
    with _nothing_left(vms):
        vms("run", "-d", "--name", "victim", "--vm", "bb", "sleep", "100")
        hub = vms.inspect("victim")["State"]["Pid"]
        (pid,) = {int(p) for p in Path(f"/proc/{hub}/task/{hub}/children").read_text().split()} & {
            *_emulators(vms)
        }
        kill_process(pid)
        assert vms("wait", "victim").out.strip() != "0"
        vms("rm", "victim")
        _wait_warm(vms)


def test_nothing_outlives_a_killed_daemon_but_the_template(vms: Cove) -> None:
    with _nothing_left(vms):
        before, pid = _templates(vms), _waiting(vms)
        vms.kill_daemon()
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the warm clone's end")
        vms("run", "-d", "--name", "next", "--vm", "bb", "sleep", "100")
        assert _how(vms, "next") == "clone", vms.post_mortem()
        vms.kill_daemon()
        assert vms("exec", "next", "hostname").out
        vms("rm", "-f", "next")
        assert _templates(vms) == before
        _wait_warm(vms)


@pytest.mark.parametrize("step", ["booting", "storing", "cloning"])
def test_a_daemon_killed_while_it_makes_one_leaves_nothing(vms: Cove, step: str) -> None:
    if step != "cloning":
        vms("template", "rm", *_templates(vms))
    vms.stop_daemon()
    with leaks(vms.root):
        vms("ps")
        if step != "cloning":
            vms.spawn(*VM, "true").communicate()
        wait_until(lambda: _emulators(vms), "an emulator")
        if step == "storing":
            wait_until(
                lambda: list(vms.root.glob("tmp/template-*")) or _templates(vms), "a template"
            )
        vms.kill_daemon()
        wait_until(lambda: not _emulators(vms), "the end of what was being made")
        vms("ps")
        (_wait_warm(vms) if _templates(vms) else vms(*VM, "true"))
        vms.stop_daemon()
    vms(*VM, "true")
    _wait_warm(vms)


def test_a_killed_monitor_takes_the_clone_along(vms: Cove) -> None:
    with _nothing_left(vms):
        pid = _waiting(vms)
        jail = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        kill_process(int(Path(f"/proc/{jail}/stat").read_text().rpartition(")")[2].split()[1]))
        wait_until(lambda: pid not in _emulators(vms), "its end")
        assert vms(*VM, "echo", "hi").out == "hi\n"
        _wait_warm(vms)


def test_a_template_that_was_changed_is_not_used(vms: Cove) -> None:
    (key,) = _templates(vms)
    vms.stop_daemon()
    path = vms.root / "templates" / key / "memory"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    vms.env["COVE_VM_POOL"] = "0"
    vms("run", "-d", "--name", "spoiled", "--vm", "bb", "sleep", "100")
    assert _how(vms, "spoiled") == "boot"
    vms("rm", "-f", "spoiled")
    vms.stop_daemon()
    vms.env["COVE_VM_POOL"] = "1"
    vms(*VM, "true")
    _wait_warm(vms)


def test_a_removed_template_takes_its_clones_along(vms: Cove) -> None:
    _wait_warm(vms)
    (key,) = _templates(vms)
    assert vms("template", "rm", key[:8]).out.strip() == key
    assert _templates(vms) == []
    wait_until(lambda: not _emulators(vms), "the end of its clones")
    done = vms("template", "rm", "nonesuch", code=1)
    assert "cannot remove template nonesuch: no such template" in done.err
    vms("run", "-d", "--name", "after", "--vm", "bb", "sleep", "100")
    assert _how(vms, "after") == "boot"
    vms("rm", "-f", "after")
    _wait_warm(vms)


def test_an_expired_template_says_so(vms: Cove) -> None:
    kernel = vms("kernel", "ls", "-q").out.split()[0]
    kept = vms.root / "tmp-kernel"
    shutil.copytree(vms.root / "kernels" / kernel, kept)
    vms("kernel", "rm", kernel)
    try:
        assert _templates(vms, "Status") == ["expired"]
        assert "there is no guest kernel" in vms(*VM, "true", code=125).err
    finally:
        os.rename(kept, vms.root / "kernels" / kernel)
    assert vms(*VM, "echo", "back").out == "back\n"
