"""The whole spec: what does not go together, all of it told at once."""

from __future__ import annotations

from typing import Any

import pytest

from cove.cli.parse import read_values, scan, spellings
from cove.errors import CoveError, UsageError
from cove.spec.assemble import Caller, assemble_exec, assemble_machine, needs_caller, of_whom
from cove.spec.check import check_exec, check_machine
from cove.spec.flags import EXEC, RUN
from cove.spec.machine import Device, ExecSpec, Limits, MachineSpec, Mount, Security, Ulimit
from cove.spec.network import Connection

KNOWN = spellings(RUN)


def typed(*args: str) -> Any:
    flags, words = scan(args, KNOWN, interspersed=False)
    return read_values(flags), words


def spec_of(
    *args: str, files: dict[str, str] | None = None, env: dict[str, str] | None = None
) -> MachineSpec:
    values, words = typed(*args)
    caller = Caller("/home/u", env or {}, lambda name: (files or {})[name])
    return assemble_machine(values, caller, image=words[0], command=words[1:])


def test_a_plain_run_is_all_defaults() -> None:
    assert spec_of("host", "true") == MachineSpec("host", ("true",), network="default")


def test_every_flag_reaches_the_spec() -> None:
    spec = spec_of(
        "-it", "--rm", "--name", "web", "-e", "A=1", "-eB=2", "-w/srv", "-u", "1000:1000",
        "--hostname=h", "-m=64m", "--memory-swap", "128m", "--cpus", "1.5", "--cpuset-cpus", "0",
        "--pids-limit", "20", "--cap-add", "net_admin", "--cap-drop=ALL", "--privileged",
        "--security-opt", "no-new-privileges=false", "--security-opt", "seccomp=unconfined",
        "--device", "/dev/fuse", "--ulimit", "nofile=10", "--ulimit", "nofile=20", "--init",
        "--stop-signal", "QUIT", "--stop-timeout", "3", "-l", "a=b", "--label", "c",
        "--shm-size", "1m", "--storage-opt", "size=1g", "--userns=host", "--oom-score-adj", "5",
        "--sysctl", "net.ipv4.ip_forward=1", "--add-host", "db:10.0.0.5", "--group-add", "audio",
        "--detach-keys", "ctrl-a", "--read-only", "--tmpfs", "/run", "-v", "./d:/d:ro",
        "--mount", "type=bind,source=/x,target=/x", "--entrypoint", "/bin/sh", "--network", "host",
        "--timeout", "5s", "--dns", "9.9.9.9", "host", "-c", "ls",
    )  # fmt: skip
    assert spec == MachineSpec(
        image="host",
        command=("-c", "ls"),
        entrypoint=("/bin/sh",),
        name="web",
        hostname="h",
        user="1000:1000",
        groups=("audio",),
        workdir="/srv",
        env=("A=1", "B=2"),
        labels={"a": "b", "c": ""},
        tty=True,
        stdin_open=True,
        remove=True,
        init=True,
        detach_keys="ctrl-a",
        stop_signal="QUIT",
        stop_timeout=3,
        storage_opt="1g",
        timeout=5.0,
        network="host",
        extra_hosts=("db:10.0.0.5",),
        dns=("9.9.9.9",),
        mounts=(
            Mount("tmpfs", "/run", origin="--tmpfs /run"),
            Mount("bind", "/d", "/home/u/d", True, create_source=True, origin="-v ./d:/d:ro"),
            Mount("bind", "/x", "/x", origin="--mount type=bind,source=/x,target=/x"),
        ),
        devices=(Device("/dev/fuse", "/dev/fuse", "rwm", "--device /dev/fuse"),),
        sysctls=(("net.ipv4.ip_forward", "1"),),
        limits=Limits(
            memory=64 << 20,
            memory_swap=128 << 20,
            cpus=1.5,
            cpuset_cpus="0",
            pids=20,
            storage=1 << 30,
            shm=1 << 20,
            ulimits=(Ulimit("nofile", 20, 20),),
            oom_score_adj=5,
        ),
        security=Security(
            privileged=True,
            cap_add=("NET_ADMIN",),
            cap_drop=("ALL",),
            no_new_privileges=False,
            seccomp="unconfined",
            userns="host",
            read_only=True,
        ),
    )


def test_files_come_before_flags() -> None:
    spec = spec_of(
        "--env-file", "f", "-e", "A=flag", "-e", "HOME", "--label-file", "l", "-l", "x=flag", "i",
        files={"f": "A=file\nB=file\n", "l": "x=file\ny=file\n"}, env={"HOME": "/root"},
    )  # fmt: skip
    assert spec.env == ("A=flag", "B=file", "HOME=/root")
    assert spec.labels == {"x": "flag", "y": "file"}


def test_an_empty_entrypoint_is_none_at_all() -> None:
    assert spec_of("--entrypoint", "", "host").entrypoint == ()
    assert spec_of("host").entrypoint is None


def test_quota_and_period_are_cpus() -> None:
    assert spec_of("--cpu-quota", "50000", "host").limits.cpus == 0.5
    assert spec_of("--cpu-quota", "50000", "--cpu-period", "25000", "host").limits.cpus == 2.0
    with pytest.raises(UsageError, match="--cpus sets the same limit"):
        spec_of("--cpu-quota", "1", "--cpus", "1", "host")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read the seccomp profile p"),
        ("{}", "it has no defaultAction"),
        ("[]", "it has no"),
    ],
)
def test_seccomp_profiles(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        spec_of("--security-opt", "seccomp=p", "host", files={"p": text})
    good = '{"defaultAction":"SCMP_ACT_ALLOW"}'
    read = spec_of("--security-opt", "seccomp=p", "host", files={"p": good})
    assert read.security.seccomp == good


@pytest.mark.parametrize(
    ("args", "depends"),
    [
        (("-e", "A=1", "-v", "/a:/b", "i"), False),
        (("-e", "HOME", "i"), True),
        (("-v", "./a:/b", "i"), True),
        (("-v", "/a:/b:idmap=caller", "i"), True),
        (("--env-file", "f", "i"), True),
        (("--security-opt", "seccomp=f", "i"), True),
    ],
)
def test_what_depends_on_the_caller(args: tuple[str, ...], *, depends: bool) -> None:
    assert needs_caller(typed(*args)[0]) == depends


@pytest.mark.parametrize(
    ("ids", "env", "said"),
    [
        ((0, 0), {}, "0:0"),
        ((0, 0), {"SUDO_UID": "1000", "SUDO_GID": "100"}, "1000:100"),
        ((0, 0), {"SUDO_UID": "1000"}, "0:0"),
        ((0, 7), {"SUDO_UID": "-1", "SUDO_GID": "x"}, "0:7"),
        ((1001, 1002), {"SUDO_UID": "0", "SUDO_GID": "0"}, "1001:1002"),
    ],
)
def test_whose_files_the_callers_are(ids: tuple[int, int], env: dict[str, str], said: str) -> None:
    """Only root's word is taken for who called it."""
    caller = Caller("/home", env, lambda name: "", *ids)
    mount = Mount("bind", "/b", "./a", idmap="caller")
    assert of_whom(mount, caller) == Mount("bind", "/b", "/home/a", idmap=said)
    volume = Mount("volume", "/b", "a")
    assert of_whom(volume, caller) is volume


def test_exec() -> None:
    flags, words = scan(
        ["-it", "-e", "A=1", "-u", "5", "-w", "/x", "--privileged", "m", "ls", "-l"],
        spellings(EXEC),
        interspersed=False,
    )
    caller = Caller("/", {}, lambda name: "")
    spec = assemble_exec(read_values(flags), caller, command=words[1:])
    assert spec == ExecSpec(
        ("ls", "-l"), "5", "/x", ("A=1",), tty=True, stdin_open=True, privileged=True
    )
    check_exec(spec)
    with pytest.raises(UsageError, match="exec wants a command"):
        check_exec(ExecSpec(()))


WRONG: list[tuple[MachineSpec, str, str, str]] = [
    (MachineSpec(""), "no image is named", "", "cove run host"),
    (MachineSpec("i", limits=Limits(memory=1 << 20)), "the minimum is 6m", "--memory 1m", ""),
    (
        MachineSpec("i", limits=Limits(memory_swap=1 << 20)),
        "wants --memory",
        "--memory-swap 1m",
        "--memory 1m",
    ),
    (
        MachineSpec("i", limits=Limits(memory=64 << 20, memory_swap=32 << 20)),
        "cannot limit memory and swap together to 32m: memory alone may be 64m",
        "--memory 64m",
        "--memory-swap 64m",
    ),
    (
        MachineSpec("i", limits=Limits(memory=64 << 20, memory_reservation=65 << 20)),
        "cannot reserve 65m",
        "--memory-reservation 65m",
        "",
    ),
    (MachineSpec("i", limits=Limits(pids=-2)), "cannot use --pids-limit -2", "--pids-limit -2", ""),
    (MachineSpec("i", limits=Limits(cpu_shares=1)), "the minimum is 2", "--cpu-shares 1", ""),
    (MachineSpec("i", limits=Limits(storage=5)), "the minimum is 1m", "--storage-opt size=5", ""),
    (
        MachineSpec("i", network="a", isolation="vm", connections=tuple(map(Connection, "bcd"))),
        "cannot connect a virtual machine to more than 3 networks",
        "--network d",
        "",
    ),
    (MachineSpec("i", network="a/b"), 'network name "a/b"', "--network a/b", "write web"),
    (MachineSpec("i", network="container:"), "none is named", "container:", ""),
    (MachineSpec("i", ip="10.0.0.2"), "cannot use --ip with --network none", "--ip 10.0.0.2", ""),
    (
        MachineSpec("i", aliases=("db",)),
        "cannot use --network-alias with --network none",
        "--network-alias db",
        "",
    ),
    (
        MachineSpec("i", network="web", connections=(Connection("host"),)),
        "with host there is no other",
        "--network host",
        "",
    ),
    (
        MachineSpec("i", network="none", connections=(Connection("web"),)),
        "with none there is no other",
        "--network web",
        "",
    ),
    (
        MachineSpec("i", network="a", connections=(Connection("b"), Connection("b"))),
        "cannot connect to b twice",
        "--network b",
        "",
    ),
    (
        MachineSpec("i", network="host", mac="02:00:00:00:00:01"),
        "cannot use --mac-address with --network host",
        "--mac-address 02:00:00:00:00:01",
        "",
    ),
    (
        MachineSpec("i", network="host", sysctls=(("net.ipv4.ip_forward", "1"),)),
        "with --network host it belongs to the whole host",
        "--sysctl net.ipv4.ip_forward=1",
        "",
    ),
    (
        MachineSpec(
            "i",
            isolation="vm",
            mounts=(Mount("bind", "/d", "/s", propagation="shared", origin="-v /s:/d:shared"),),
        ),
        "cannot mount on /d with propagation shared: what is mounted in a virtual machine",
        "-v /s:/d:shared",
        "",
    ),
    (
        MachineSpec("i", mounts=(Mount("volume", "/d", "../d", origin="api"),)),
        'cannot read volume name "../d"',
        "api",
        "",
    ),
    (
        MachineSpec("i", mounts=(Mount("volume", "/d", subpath="a/../../b", origin="api"),)),
        "it is no path in a volume",
        "api",
        "",
    ),
    (MachineSpec("i", volumes_from=("db:rx",)), "not MACHINE", "--volumes-from db:rx", ""),
    (
        MachineSpec(
            "i", mounts=(Mount("tmpfs", "/d", origin="x"), Mount("tmpfs", "/d", origin="y"))
        ),
        "cannot mount on /d: it is named twice",
        "x and y",
        "",
    ),
    (
        MachineSpec("i", mounts=(Mount("tmpfs", "/proc/x", origin="x"),)),
        "/proc is the machine's own",
        "x",
        "",
    ),
    (
        MachineSpec("i", mounts=(Mount("bind", "/x", "a", origin="x"),)),
        "the source is not an absolute path",
        "x",
        "",
    ),
    (MachineSpec("i", env=("=A",)), 'cannot set "=A": a variable is NAME=value', "--env =A", ""),
    (MachineSpec("i", workdir="x"), 'cannot start in "x"', "--workdir x", ""),
    (MachineSpec("i", ("a\0b",)), "the command: it contains a NUL character", "", ""),
    (MachineSpec("i", name="-"), 'cannot read name "-"', "--name -", ""),
    (MachineSpec("i", stop_signal="X"), "no such signal", "--stop-signal X", ""),
    (
        MachineSpec("i", security=Security(cap_add=("NOPE",))),
        'the capability "NOPE"',
        "--cap-add NOPE",
        "",
    ),
    (
        MachineSpec("i", limits=Limits(ulimits=(Ulimit("nofile", 5, 2),))),
        "cannot set the limit nofile",
        "--ulimit",
        "",
    ),
]


@pytest.mark.parametrize(("spec", "message", "origin", "hint"), WRONG, ids=lambda v: str(v)[:50])
def test_what_does_not_go_together(spec: MachineSpec, message: str, origin: str, hint: str) -> None:
    with pytest.raises(CoveError) as caught:
        check_machine(spec)
    assert message in caught.value.message
    assert origin in caught.value.origin
    assert hint in caught.value.hint


def test_all_problems_are_told_at_once() -> None:
    spec = MachineSpec("i", limits=Limits(memory=1 << 20, pids=-5), network="a/b")
    with pytest.raises(UsageError) as caught:
        check_machine(spec)
    assert caught.value.message.splitlines()[0] == "cannot use these options: 3 problems"
    for text in ("the minimum is 6m", "--pids-limit -5", '"a/b"'):
        assert text in caught.value.message


def test_what_goes_together() -> None:
    check_machine(MachineSpec("i"))
    check_machine(MachineSpec("i", network="host", hostname="h", remove=True, tty=True))
    check_machine(MachineSpec("i", limits=Limits(memory=6 << 20, memory_swap=-1)))
