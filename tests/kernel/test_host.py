"""This host: its facts, what is mounted from it, what its kernel says, and its processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cove.errors import CoveError, HostError, NotFound, UsageError
from cove.linux.kmsg import KernelLog
from cove.linux.mounts import open_source
from cove.linux.pidfd import wait_exit
from cove.linux.probe import HOW, host_devices, probe_facts
from cove.plan.facts import Facts
from tests.leaks import leaks


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with leaks():
        yield


class TestFacts:
    def test_every_fact_says_how_it_is_found(self) -> None:
        of_hosts = [name for name in Facts.__struct_fields__ if name != "guest"]
        assert list(HOW) == of_hosts

    def test_this_host(self, tmp_path: Path) -> None:
        facts = probe_facts(tmp_path / "not/yet/there")
        release = os.uname().release.split(".")
        assert facts.kernel[0] == int(release[0])
        assert facts.arch == os.uname().machine
        assert facts.cgroup in ("v1", "hybrid", "v2")
        assert all(os.path.isdir(path) for path in facts.controllers.values())
        assert bool(facts.unified) == (facts.cgroup != "v1")
        assert facts.cpus >= 1
        assert facts.memory > 1 << 20
        assert facts.hard_limits["nofile"] > 0
        assert len(facts.hard_limits) == 16
        assert msgspec.json.decode(msgspec.json.encode(facts), type=Facts) == facts

    def test_devices(self) -> None:
        found = {node.path: node for node in host_devices()}
        assert "/dev/null" not in found, "every machine has one of its own"
        for node in found.values():
            assert node.type in ("c", "b")
            assert os.stat(node.path).st_rdev == os.makedev(node.major, node.minor)


class TestSources:
    def test_a_directory_a_file_and_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        (tmp_path / "link").symlink_to("file")
        for name, is_dir in ((".", True), ("file", False), ("link", False)):
            source = open_source(str(tmp_path / name), "/x")
            assert source.is_dir == is_dir
            assert source.uid == os.geteuid()
            os.close(source.fd)

    def test_missing(self, tmp_path: Path) -> None:
        origin = f"--mount type=bind,source={tmp_path}/no,target=/x"
        with pytest.raises(NotFound) as error:
            open_source(f"{tmp_path}/no", "/x", origin=origin)
        assert error.value.render() == (
            f"cove: cannot mount {tmp_path}/no on /x: no such file or directory\n"
            f"  from: {origin}\n"
            f"  hint: create the directory, or let -v create it: -v {tmp_path}/no:/x\n"
        )
        assert error.value.exit_code == 125

    def test_created_on_request(self, tmp_path: Path) -> None:
        os.close(open_source(f"{tmp_path}/a/b", "/x", create=True).fd)
        assert (tmp_path / "a/b").is_dir()

    def test_relative(self) -> None:
        with pytest.raises(UsageError, match="the source is not an absolute path"):
            open_source("data", "/x")

    @pytest.mark.parametrize("path", ["/proc/self/root", "/proc/self/cwd/x", "/proc/self/fd/0"])
    def test_links_of_proc_into_processes(self, path: str) -> None:
        with pytest.raises(HostError, match="symbolic link"):
            open_source(path, "/x")

    def test_a_loop(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to("a")
        with pytest.raises(HostError, match="too many symbolic links"):
            open_source(f"{tmp_path}/a", "/x")

    def test_what_was_opened_stays_what_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data/mine").touch()
        source = open_source(f"{tmp_path}/data", "/x")
        (tmp_path / "data").rename(tmp_path / "old")
        (tmp_path / "data").symlink_to("/etc")
        assert os.listdir(f"/proc/self/fd/{source.fd}") == ["mine"]
        os.close(source.fd)

    def test_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(CoveError, match="not a directory"):
            open_source(f"{tmp_path}/file/x", "/x", create=True)


KILLED = (
    "3,9,77,-;Memory cgroup out of memory: Killed process 17 (ev) total-vm:9kB, UID:0 (x) "
    "total-vm:1kB, anon-rss:100kB, file-rss:20kB, shmem-rss:8kB, UID:{uid} pgtables:44kB "
    "oom_score_adj:0\n SUBSYSTEM=x\n"
)
CONTEXT = (
    "6,8,76,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
    "oom_memcg={group},task_memcg={group},task=a,pid=1,task=ev,pid=17,uid=5\n"
)


class TestKernelLog:
    """/dev/kmsg gives one record a read: so does this socket."""

    @pytest.fixture
    def said(self) -> Iterator[tuple[KernelLog, int]]:
        import socket

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        log = KernelLog.__new__(KernelLog)
        with theirs, pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "lseek", lambda *_: 0)
            log.__init__(os.dup(ours.fileno()))  # type: ignore[misc]
            ours.close()
            yield log, theirs.fileno()
            log.close()

    def test_a_name_cannot_forge_who_was_killed(self, said: tuple[KernelLog, int]) -> None:
        log, kernel = said
        os.write(kernel, CONTEXT.format(group="/cove-1/5").encode())
        os.write(kernel, KILLED.format(uid=4711).encode())
        kill = log.oom_of("cove-1/5")
        assert kill is not None
        assert (kill.pid, kill.name, kill.uid) == (17, "ev) total-vm:9kB, UID:0 (x", 4711)
        assert kill.rss == 108 * 1024  # anonymous and shared memory, not pages of files
        assert log.oom_of("cove-1/5") is None, "told once"

    def test_another_group_s(self, said: tuple[KernelLog, int]) -> None:
        log, kernel = said
        os.write(kernel, CONTEXT.format(group="/cove-1/55").encode())
        os.write(kernel, KILLED.format(uid=4711).encode())
        assert log.oom_of("cove-1/5", base=4096) is None
        assert log.oom_of("cove-1/55") is not None

    def test_by_uid_where_the_group_was_left_out(self, said: tuple[KernelLog, int]) -> None:
        log, kernel = said
        os.write(kernel, KILLED.format(uid=65536 + 1000).encode())
        assert log.oom_of("cove-1/5", base=131072) is None
        assert log.oom_of("cove-1/5", base=65536) is not None

    @pytest.mark.parametrize(
        "record",
        [b"", b"junk", b";", b"x,y,z;Killed process", b"\xff\xfe",
         KILLED.format(uid=1).replace("3,", "12,", 1).encode()],
    )  # fmt: skip
    def test_what_others_say_is_not_believed(
        self, said: tuple[KernelLog, int], record: bytes
    ) -> None:
        log, kernel = said
        os.write(kernel, record or b" ")
        assert log.read() == []


def test_whether_a_process_has_ended() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        fd = os.pidfd_open(process.pid)
        try:
            assert not wait_exit(fd, 0)
            process.terminate()
            assert wait_exit(fd, None)
        finally:
            os.close(fd)
