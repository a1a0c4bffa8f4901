"""Filters: the compiler against libseccomp as witness, the default rules, Docker's profiles."""

from __future__ import annotations

import itertools
import json
import os
import re
import struct
import tempfile
from functools import cache
from typing import Any

import pyseccomp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cove.errors import Unsupported, UsageError
from cove.planner import capabilities
from cove.planner.seccomp import bpf
from cove.planner.seccomp import filters as seccomp
from cove.planner.seccomp import rules as syscall_rules
from cove.planner.seccomp.numbers import AUDIT_ARCH, name_of, numbers
from cove.planner.seccomp.profile import compile_profile

DEFAULT = frozenset(capabilities.DEFAULT)
ALLOW, EPERM, ENOSYS = bpf.ALLOW, bpf.errno(1), bpf.errno(38)
U64 = (1 << 64) - 1


def run(program: bytes, arch: str, number: int, args: tuple[int, ...] = ()) -> int:
    """What the kernel would answer: a small interpreter of classic BPF."""
    words = (*args, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, AUDIT_ARCH[arch], 0, *words)
    at = a = 0
    while True:
        code, jt, jf, k = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        match code:
            case 0x20:
                (a,) = struct.unpack_from("<I", data, k)
            case 0x15:
                at += jt if a == k else jf
            case 0x25:
                at += jt if a > k else jf
            case 0x35:
                at += jt if a >= k else jf
            case 0x45:
                at += jt if a & k else jf
            case 0x05:
                at += k
            case 0x54:
                a &= k
            case 0x06:
                return k
            case _:
                raise AssertionError(f"instruction {code:#x} at {at - 1}")


def verdict(name: str, *args: int, arch: str = "x86_64", caps: frozenset[str] = DEFAULT) -> int:
    """Of both default filters together: the kernel takes the stricter one."""
    machine = "aarch64" if arch == "aarch64" else "x86_64"
    number = numbers(arch)[name]
    both = [
        run(seccomp.compile_missing(machine, caps), arch, number, args),
        run(seccomp.compile_default(machine, caps), arch, number, args),
    ]
    return min(both, key=lambda v: v if v < 0x80000000 else -1)


# ---- the compiler, against libseccomp ----

ARCHES = {
    "x86_64": pyseccomp.Arch.X86_64,
    "i386": pyseccomp.Arch.X86,
    "aarch64": pyseccomp.Arch.AARCH64,
}
OPERATORS = {
    "SCMP_CMP_NE": pyseccomp.NE,
    "SCMP_CMP_LT": pyseccomp.LT,
    "SCMP_CMP_LE": pyseccomp.LE,
    "SCMP_CMP_EQ": pyseccomp.EQ,
    "SCMP_CMP_GE": pyseccomp.GE,
    "SCMP_CMP_GT": pyseccomp.GT,
    "SCMP_CMP_MASKED_EQ": pyseccomp.MASKED_EQ,
}
EDGES = (
    0,
    1,
    2,
    7,
    8,
    9,
    0xFFFFFFFE,
    0xFFFFFFFF,
    1 << 32,
    (1 << 32) + 1,
    (1 << 32) + 8,
    1 << 63,
    U64,
)


def witness(profile: dict[str, Any]) -> bytes:
    """The same profile through libseccomp, for x86-64."""
    actions = {"SCMP_ACT_ALLOW": pyseccomp.ALLOW, "SCMP_ACT_ERRNO": pyseccomp.ERRNO(1)}
    made = pyseccomp.SyscallFilter(actions[profile["defaultAction"]])
    for rule in profile["syscalls"]:
        action = actions[rule["action"]]
        if "errnoRet" in rule:
            action = pyseccomp.ERRNO(rule["errnoRet"])
        args = []
        for arg in rule.get("args", ()):
            second = (arg["valueTwo"],) if arg["op"] == "SCMP_CMP_MASKED_EQ" else ()
            args.append(pyseccomp.Arg(arg["index"], OPERATORS[arg["op"]], arg["value"], *second))
        for name in rule["names"]:
            made.add_rule_exactly(action, name, *args)
    with tempfile.TemporaryFile() as out:
        made.export_bpf(out)
        out.seek(0)
        return out.read()


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("value", [0, 8, 0xFFFFFFFF, (1 << 32) + 8, U64])
def test_comparisons_agree_with_libseccomp(operator: str, value: int) -> None:
    arg = {"index": 1, "op": operator, "value": value}
    if operator == "SCMP_CMP_MASKED_EQ":
        arg = {"index": 1, "op": operator, "value": value, "valueTwo": value & 0x1_0000_0008}
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["ioctl", "lseek"], "action": "SCMP_ACT_ALLOW", "args": [arg]},
        ],
    }
    ours = compile_profile(json.dumps(profile), "x86_64", DEFAULT, (6, 1))
    theirs = witness(profile)
    for edge in EDGES:
        for number in (0, 8, 16):
            args = (5, edge, 9)
            assert run(ours, "x86_64", number, args) == run(theirs, "x86_64", number, args), edge


ARGS = st.lists(
    st.builds(
        lambda index, op, value: {"index": index, "op": op, "value": value},
        st.integers(0, 5),
        st.sampled_from([op for op in OPERATORS if op != "SCMP_CMP_MASKED_EQ"]),
        st.sampled_from(EDGES),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda arg: arg["index"],
)


@settings(max_examples=80, deadline=None)
@given(ARGS, st.lists(st.sampled_from(EDGES), min_size=6, max_size=6))
def test_conditions_together_agree_with_libseccomp(
    args: list[dict[str, Any]], values: list[int]
) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ["mmap"], "action": "SCMP_ACT_ALLOW", "args": args}],
    }
    ours = compile_profile(json.dumps(profile), "x86_64", DEFAULT, (6, 1))
    assert run(ours, "x86_64", 9, tuple(values)) == run(
        witness(profile), "x86_64", 9, tuple(values)
    )


def test_whole_profile_agrees_with_libseccomp_on_every_call() -> None:
    """The default's unconditional rules and those by value, as a JSON profile, call by call."""
    allowed = sorted(
        {n for rule in syscall_rules.ALLOWED for n in rule.names} & set(numbers("x86_64"))
    )
    allowed = [n for n in allowed if numbers("x86_64")[n] <= 450 and n != "uretprobe"]
    rules: list[dict[str, Any]] = [{"names": allowed, "action": "SCMP_ACT_ALLOW"}]
    for family in syscall_rules.FAMILIES:
        arg = {"index": 0, "op": "SCMP_CMP_EQ", "value": family}
        rules.append({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [arg]})
    arg = {
        "index": 0,
        "op": "SCMP_CMP_MASKED_EQ",
        "value": syscall_rules.NAMESPACES,
        "valueTwo": 0,
    }
    rules.append({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [arg]})
    rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38})
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}
    ours = compile_profile(json.dumps(profile), "x86_64", DEFAULT, (6, 1))
    theirs = witness(profile)
    newest = max(numbers("x86_64")[n] for r in rules for n in r["names"])
    for number in numbers("x86_64").values():
        if number > newest:
            continue
        for value in (0, 1, 2, 10, 38, 40, 0x10000000, 0x10000011, (1 << 32) + 1):
            have, want = (
                run(ours, "x86_64", number, (value,)),
                run(theirs, "x86_64", number, (value,)),
            )
            assert have == want, (number, value)


@pytest.mark.parametrize("arch", ARCHES)
def test_tables_agree_with_libseccomp(arch: str) -> None:
    agree = 0
    for name, number in numbers(arch).items():
        theirs = pyseccomp.resolve_syscall(ARCHES[arch], name)
        if theirs >= 0:
            assert theirs == number, name
            agree += 1
    assert agree > 300


def test_far_jumps() -> None:
    """A tree whose halves are larger than a conditional jump reaches."""
    leaves = {
        n: bpf.Leaf(bpf.errno(n % 100 + 1), (bpf.Branch((bpf.Arg(0, "eq", n),), ALLOW),))
        for n in range(0, 900, 2)
    }
    default = bpf.Leaf(ENOSYS)
    program = bpf.assemble({AUDIT_ARCH["x86_64"]: leaves}, default=default, beyond=default)
    assert len(program) // 8 < 4096
    for n in range(900):
        want = bpf.errno(n % 100 + 1) if n % 2 == 0 else ENOSYS
        assert run(program, "x86_64", n, (1 << 40,)) == want
        assert run(program, "x86_64", n, (n,)) == (ALLOW if n % 2 == 0 else ENOSYS)


# ---- the default rules ----


@pytest.mark.parametrize("arch", ["x86_64", "i386", "aarch64"])
def test_every_call_has_one_of_three_answers(arch: str) -> None:
    seen = {verdict(name, 0x7FFF, arch=arch) for name in numbers(arch)}
    assert seen == {ALLOW, EPERM, ENOSYS}


def test_every_name_in_a_rule_is_a_call_somewhere() -> None:
    known = set().union(*(numbers(arch) for arch in ("x86_64", "i386", "aarch64")))
    rules = (*syscall_rules.ALLOWED, *syscall_rules.CONDITIONAL, *syscall_rules.BY_CAPABILITY)
    named = {name for rule in rules for name in rule.names}
    assert named - known == set()
    assert all(rule.reason for rule in rules)
    assert set(syscall_rules.REFUSED) & named == set()


@pytest.mark.parametrize("arch", ["x86_64", "i386", "aarch64"])
@pytest.mark.parametrize("name", syscall_rules.REFUSED)
def test_refused_calls(name: str, arch: str) -> None:
    if name in numbers(arch):
        assert verdict(name, arch=arch) == EPERM


@pytest.mark.parametrize(
    ("name", "args", "want"),
    [
        ("clone", (0x01200011,), ALLOW),
        ("clone", (0x10000011,), EPERM),
        ("clone", (0x00020011,), EPERM),
        ("clone", (0x40000011,), EPERM),
        ("clone", ((1 << 32) | 0x11,), ALLOW),
        ("clone3", (), ENOSYS),
        ("unshare", (0x600,), ALLOW),
        ("unshare", (0x10000000,), EPERM),
        ("unshare", (0x80,), EPERM),
        ("setns", (), EPERM),
        ("socket", (1,), ALLOW),
        ("socket", (2,), ALLOW),
        ("socket", (10,), ALLOW),
        ("socket", (16,), ALLOW),
        ("socket", (38,), EPERM),
        ("socket", (40,), EPERM),
        ("socket", ((1 << 32) | 40,), EPERM),
        ("socketpair", (30,), EPERM),
        ("personality", (0,), ALLOW),
        ("personality", (0xFFFFFFFF,), ALLOW),
        ("personality", (0x40000,), EPERM),
        ("ioctl", (0, 0x5401), ALLOW),
        ("ioctl", (0, 0x5412), EPERM),
        ("ioctl", (0, (7 << 32) | 0x5412), EPERM),
        ("ioctl", (0, 0x541C), EPERM),
        ("chroot", (), ALLOW),
        ("mount", (), EPERM),
        ("bpf", (), EPERM),
        ("perf_event_open", (), EPERM),
        ("open_by_handle_at", (), EPERM),
        ("ptrace", (), ALLOW),
        ("reboot", (), EPERM),
    ],
)
@pytest.mark.parametrize("arch", ["x86_64", "i386", "aarch64"])
def test_default_rules(arch: str, name: str, args: tuple[int, ...], want: int) -> None:
    assert verdict(name, *args, arch=arch) == want


@pytest.mark.parametrize(
    ("cap", "names"),
    [
        ("SYS_ADMIN", "mount umount2 setns unshare clone3 fsopen bpf perf_event_open sethostname"),
        ("BPF", "bpf"),
        ("PERFMON", "perf_event_open"),
        ("SYS_MODULE", "init_module finit_module delete_module"),
        ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
        ("SYS_TIME", "settimeofday clock_settime"),
        ("SYS_NICE", "mbind set_mempolicy"),
        ("DAC_READ_SEARCH", "open_by_handle_at"),
        ("SYSLOG", "syslog"),
        ("SYS_BOOT", "reboot"),
        ("SYS_PACCT", "acct"),
        ("SYS_RAWIO", "iopl ioperm"),
        ("SYS_TTY_CONFIG", "vhangup"),
    ],
)
def test_calls_that_come_with_a_capability(cap: str, names: str) -> None:
    for name in names.split():
        assert verdict(name, 0x10000000) != ALLOW, name
        assert verdict(name, 0x10000000, caps=DEFAULT | {cap}) == ALLOW, name


def test_what_stays_closed_even_with_every_capability() -> None:
    everything = frozenset(capabilities.NAMES)
    for name in ("io_uring_setup", "userfaultfd", "keyctl", "kexec_load"):
        assert verdict(name, caps=everything) == EPERM


def test_chroot_goes_with_its_capability() -> None:
    assert verdict("chroot", caps=frozenset()) == EPERM


def test_unknown_numbers_and_x32_do_not_exist() -> None:
    missing = seccomp.compile_missing("x86_64", DEFAULT)
    for number in (1000, 0x40000000, 0x40000000 | 59, 0x40000000 | 520, 0xFFFFFFFF, 0x7FFFFFFF):
        assert run(missing, "x86_64", number) == ENOSYS, number
    for program in (missing, seccomp.compile_missing("aarch64", DEFAULT)):
        assert run(program, "arm", 1) == ENOSYS
    assert run(seccomp.compile_missing("aarch64", DEFAULT), "x86_64", 0) == ENOSYS


def test_only_refusals_are_logged() -> None:
    """The logged filter never answers ENOSYS: what a program merely probes for makes no noise."""
    program = seccomp.compile_default("x86_64", DEFAULT)
    for arch, number in itertools.product(("x86_64", "i386"), range(600)):
        assert run(program, arch, number) in (ALLOW, EPERM)


def test_32_bit_programs_run_but_for_socketcall() -> None:
    for name in ("open", "mmap2", "socket", "execve", "waitpid", "_llseek", "clock_gettime64"):
        assert verdict(name, 2, arch="i386") == ALLOW, name
    assert verdict("socketcall", arch="i386") == EPERM


def test_names_of_numbers() -> None:
    assert name_of(AUDIT_ARCH["x86_64"], 59) == "execve"
    assert name_of(AUDIT_ARCH["i386"], 11) == "execve"
    assert name_of(AUDIT_ARCH["x86_64"], 9999) == ""
    assert name_of(1, 1) == ""


def test_an_architecture_without_a_table_is_refused() -> None:
    with pytest.raises(
        Unsupported, match=r"(?m)^cannot filter system calls of s390x: no table for it$"
    ):
        seccomp.compile_default("s390x", DEFAULT)


# ---- Docker's profiles ----


@cache
def _profile(**parts: Any) -> str:
    return json.dumps(parts)


def check(profile: dict[str, Any], name: str, *args: int, **where: Any) -> int:
    arch = where.get("arch", "x86_64")
    program = compile_profile(
        json.dumps(profile),
        where.get("machine", "x86_64"),
        where.get("caps", DEFAULT),
        where.get("kernel", (6, 1)),
    )
    return run(program, arch, numbers(arch)[name], args)


def rule(names: str, action: str = "SCMP_ACT_ALLOW", **parts: Any) -> dict[str, Any]:
    return {"names": names.split(), "action": action, **parts}


def test_profile_actions_and_errnos() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 13,
        "syscalls": [
            rule("read"),
            rule("write", "SCMP_ACT_ERRNO", errnoRet=5),
            rule("open", "SCMP_ACT_ERRNO"),
            rule("kill", "SCMP_ACT_KILL_PROCESS"),
            rule("tkill", "SCMP_ACT_KILL"),
            rule("fork", "SCMP_ACT_TRAP"),
            rule("vfork", "SCMP_ACT_LOG"),
            rule("ptrace", "SCMP_ACT_TRACE", errnoRet=7),
            rule("clone3", "SCMP_ACT_ERRNO", errnoRet=38),
        ],
    }
    want = {
        "read": ALLOW, "write": bpf.errno(5), "open": bpf.errno(13), "kill": 0x80000000, "tkill": 0,
        "fork": 0x30000, "vfork": 0x7FFC0000, "ptrace": 0x7FF00007, "clone3": ENOSYS,
        "close": bpf.errno(13),
    }  # fmt: skip
    assert {name: check(profile, name) for name in want} == want


def test_profile_does_not_know_newer_calls() -> None:
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule("openat2")]}
    assert check(profile, "openat2") == ALLOW
    assert check(profile, "io_uring_setup") == EPERM
    assert check(profile, "futex_waitv") == ENOSYS


def test_profile_conditions() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            rule("mount", includes={"caps": ["CAP_SYS_ADMIN"]}),
            rule("umount2", excludes={"caps": ["CAP_SYS_ADMIN"]}),
            rule("ptrace", includes={"minKernel": "4.8"}),
            rule("bpf", includes={"minKernel": "6.5"}),
            rule("arch_prctl", includes={"arches": ["amd64", "x32"]}),
            rule("set_tid_address", includes={"arches": ["arm64"]}),
            rule("futex", excludes={"arches": ["s390"]}),
            rule("statx", excludes={"minKernel": "6.0"}),
        ],
    }
    admin = DEFAULT | {"SYS_ADMIN"}
    assert (check(profile, "mount"), check(profile, "mount", caps=admin)) == (EPERM, ALLOW)
    assert (check(profile, "umount2"), check(profile, "umount2", caps=admin)) == (ALLOW, EPERM)
    assert (check(profile, "ptrace"), check(profile, "bpf")) == (ALLOW, EPERM)
    assert check(profile, "bpf", kernel=(6, 18)) == ALLOW
    assert (check(profile, "arch_prctl"), check(profile, "set_tid_address")) == (ALLOW, EPERM)
    assert (check(profile, "futex"), check(profile, "statx")) == (ALLOW, EPERM)


def test_profile_two_conditions_on_one_argument_mean_either() -> None:
    values = [{"index": 0, "value": v, "op": "SCMP_CMP_EQ"} for v in (1, 2)]
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [rule("socket", args=values)],
    }
    assert [check(profile, "socket", family) for family in (0, 1, 2, 3)] == [
        EPERM,
        ALLOW,
        ALLOW,
        EPERM,
    ]


def test_profile_architectures() -> None:
    plain = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule("read")]}
    both = plain | {
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        ]
    }
    listed = plain | {"architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]}
    assert check(plain, "read", arch="i386") == ENOSYS
    assert check(both, "read", arch="i386") == ALLOW
    assert check(listed, "read", arch="i386") == ALLOW
    assert check(both, "read", arch="aarch64", machine="aarch64") == ALLOW


def test_profile_that_allows_by_default() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            rule("mkdir mkdirat", "SCMP_ACT_ERRNO"),
            {"name": "rmdir", "action": "SCMP_ACT_ERRNO"},
        ],
    }
    assert check(profile, "mkdir") == check(profile, "rmdir") == EPERM
    assert check(profile, "read") == ALLOW


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read the seccomp profile: Input data was truncated"),
        ("[]", "cannot read the seccomp profile: Expected `object`, got `array`"),
        ("{}", "cannot read the seccomp profile: Object missing required field `defaultAction`"),
        (
            '{"defaultAction": "ALLOW"}',
            "cannot read the seccomp profile: Invalid enum value 'ALLOW' - at `$.defaultAction`",
        ),
        (
            json.dumps(
                {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [
                        rule("read", args=[{"index": 9, "value": 0, "op": "SCMP_CMP_EQ"}])
                    ],
                }
            ),
            "cannot read the seccomp profile: there is no argument 9",
        ),
        (
            json.dumps(
                {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [rule("read", includes={"minKernel": "six"})],
                }
            ),
            'cannot read the seccomp profile: minKernel "six" is not MAJOR.MINOR',
        ),
    ],
)
def test_profiles_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UsageError, match="(?m)^" + re.escape(message) + "$") as caught:
        compile_profile(text, "x86_64", DEFAULT, (6, 1))
    assert caught.value.origin == "--security-opt seccomp=FILE"


def test_profile_with_an_agent_is_refused() -> None:
    text = json.dumps({"defaultAction": "SCMP_ACT_NOTIFY"})
    message = r"(?m)^cannot use this seccomp profile: SCMP_ACT_NOTIFY needs an agent$"
    with pytest.raises(Unsupported, match=message):
        compile_profile(text, "x86_64", DEFAULT, (6, 1))


@pytest.mark.skipif(
    not os.path.exists("/usr/share/containers/seccomp.json"), reason="no containers-common"
)
def test_a_real_profile_compiles() -> None:
    with open("/usr/share/containers/seccomp.json") as file:
        text = file.read()
    program = compile_profile(text, "x86_64", DEFAULT, (6, 1))
    assert len(program) // 8 < 4096
    assert run(program, "x86_64", 0) == ALLOW
    assert run(program, "x86_64", numbers("x86_64")["kexec_load"]) == EPERM
