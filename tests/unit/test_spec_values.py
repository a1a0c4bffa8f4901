"""Docker-style values: what is read from them, and what is said about wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cove.errors import CoveError, Unsupported, UsageError
from cove.spec import environment, flags, grants, mounts, suggest, values
from cove.spec.machine import Device, Ulimit

GOOD: list[tuple[Callable[[str], Any], str, Any]] = [
    (values.parse_size, "64m", 64 << 20),
    (values.parse_size, "1.5g", 3 << 29),
    (values.parse_size, "4096", 4096),
    (values.parse_size, "512KiB", 512 << 10),
    (values.parse_size, "2 GB", 2 << 30),
    (values.parse_size, "10b", 10),
    (values.parse_swap, "-1", -1),
    (values.parse_cpus, "0.5", 0.5),
    (values.parse_cpus, ".5", 0.5),
    (values.parse_cpus, "0", 0.0),
    (values.parse_cpuset, "0-3,5", "0-3,5"),
    (values.parse_duration, "1h30m", 5400.0),
    (values.parse_duration, "250ms", 0.25),
    (values.parse_duration, "90", 90.0),
    (values.parse_duration, "1.5s", 1.5),
    (values.parse_name, "web_1.a-b", "web_1.a-b"),
    (values.parse_name, "/web", "web"),
    (values.parse_hostname, "db.example.org", "db.example.org"),
    (values.parse_user, "1000:1000", "1000:1000"),
    (values.parse_user, "www-data", "www-data"),
    (values.parse_absolute, "/a/../b//c/", "/b/c"),
    (values.parse_signal, "TERM", 15),
    (values.parse_signal, "sigkill", 9),
    (values.parse_signal, "10", 10),
    (values.parse_signal, "SIGRTMIN+3", 37),
    (values.parse_signal, "RTMAX-1", 63),
    (values.parse_detach_keys, "ctrl-p,ctrl-q", b"\x10\x11"),
    (values.parse_detach_keys, "ctrl-@,a,ctrl-]", b"\x00a\x1d"),
    (values.parse_detach_keys, "", b""),
    (values.parse_label, "a=b=c", ("a", "b=c")),
    (values.parse_label, "a", ("a", "")),
    (values.parse_bool, "T", True),
    (values.parse_oom_score, "-1000", -1000),
    (grants.parse_capability, "cap_net_admin", "NET_ADMIN"),
    (grants.parse_capability, "all", "ALL"),
    (
        grants.parse_device,
        "/dev/fuse",
        Device("/dev/fuse", "/dev/fuse", "rwm", "--device /dev/fuse"),
    ),
    (
        grants.parse_device,
        "/dev/a:/dev/b:rw",
        Device("/dev/a", "/dev/b", "rw", "--device /dev/a:/dev/b:rw"),
    ),
    (grants.parse_device, "/dev/a:rw", Device("/dev/a", "/dev/a", "rw", "--device /dev/a:rw")),
    (grants.parse_ulimit, "nofile=1024:2048", Ulimit("nofile", 1024, 2048)),
    (grants.parse_ulimit, "core=0", Ulimit("core", 0, 0)),
    (grants.parse_ulimit, "memlock=-1:-1", Ulimit("memlock", -1, -1)),
    (grants.parse_sysctl, "net.ipv4.ip_forward=1", ("net.ipv4.ip_forward", "1")),
    (grants.parse_sysctl, "kernel.shmmax=1", ("kernel.shmmax", "1")),
    (grants.parse_host, "db:10.0.0.5", "db:10.0.0.5"),
    (grants.parse_host, "db=10.0.0.5", "db:10.0.0.5"),
    (grants.parse_host, "six:[::1]", "six:::1"),
    (grants.parse_host, "gw:host-gateway", "gw:host-gateway"),
    (grants.parse_domain, "corp.example.", "corp.example"),
    (grants.parse_domain, ".", "."),
    (grants.parse_dns_option, "ndots:2", "ndots:2"),
    (grants.parse_storage_opt, "size=1g", (("limits.storage", 1 << 30), ("storage_opt", "1g"))),
    (grants.parse_security_opt, "no-new-privileges", (("security.no_new_privileges", True),)),
    (grants.parse_security_opt, "no-new-privileges:true", (("security.no_new_privileges", True),)),
    (
        grants.parse_security_opt,
        "no-new-privileges=false",
        (("security.no_new_privileges", False),),
    ),
    (grants.parse_security_opt, "seccomp=unconfined", (("security.seccomp", "unconfined"),)),
    (grants.parse_security_opt, "seccomp:unconfined", (("security.seccomp", "unconfined"),)),
    (grants.parse_security_opt, "seccomp=builtin", (("security.seccomp", "default"),)),
    (grants.parse_security_opt, "seccomp=my.json", (("security.seccomp", "@my.json"),)),
    (grants.parse_security_opt, "systempaths=unconfined", (("security.masked", False),)),
    (grants.parse_security_opt, "label=disable", ()),
    (grants.parse_security_opt, "label:type:svirt_t", ()),
    (grants.parse_security_opt, "apparmor=unconfined", ()),
    (flags.parse_platform, "linux/amd64", "linux/amd64"),
    (flags.parse_platform, "Linux/x86_64", "linux/amd64"),
    (flags.parse_platform, "arm64", "linux/arm64"),
    (flags.parse_platform, "linux/arm/v7", "linux/arm/v7"),
    (grants.parse_userns, "host", "host"),
    (grants.parse_userns, "", "machine"),
    (grants.parse_log_opt, "max-size=1m", (("log_max", 1 << 20),)),
    (grants.parse_log_opt, "max-size=-1", (("log_max", 0),)),
    (grants.parse_log_opt, "max-file=3", (("log_files", 3),)),
    (grants.parse_log_opt, "compress=true", ()),
    (grants.parse_log_driver, "none", (("log_driver", "none"),)),
    (environment.parse_env, "A=b", "A=b"),
    (environment.parse_env, "A", "A"),
]


@pytest.mark.parametrize(("parse", "text", "value"), GOOD, ids=lambda v: str(v)[:40])
def test_good_values(parse: Callable[[str], Any], text: str, value: Any) -> None:
    assert parse(text) == value


BAD: list[tuple[Callable[[str], Any], str, str, str]] = [
    (values.parse_size, "64x", 'cannot read size "64x": not a number with a unit', "64m"),
    (values.parse_size, "", 'cannot read size "": not a number with a unit', "64m"),
    (values.parse_size, "-5m", 'cannot read size "-5m": not a number with a unit', "64m"),
    (values.parse_int, "two", 'cannot read number "two": not a whole number', ""),
    (values.parse_bool, "yes", 'cannot read switch "yes": neither true nor false', "true or false"),
    (values.parse_cpus, "0.001", "not a number of at least 0.01", "0.5, 1 or 2.5"),
    (values.parse_cpus, "-1", "not a number of at least 0.01", ""),
    (values.parse_cpuset, "3-1", "the range 3-1 runs backwards", ""),
    (values.parse_cpuset, "a", "not a list of numbers and ranges", "0-3"),
    (values.parse_duration, "5 minutes", "not a time with a unit", "90s"),
    (values.parse_name, "-x", 'cannot read name "-x": only letters, digits', ""),
    (values.parse_name, "a", "two at least", ""),
    (values.parse_name, "a/b", "only letters, digits", ""),
    (values.parse_name, "a\x1b[31m", "only letters, digits", ""),
    (values.parse_hostname, "a b", "only letters, digits", ""),
    (values.parse_hostname, "x" * 65, "longer than 64 characters, the most the kernel takes", ""),
    (values.parse_user, "a:b:c", "not a user or user:group", "1000:1000"),
    (values.parse_user, "70000", "70000 is not one of the machine's ids, which end at 65535", ""),
    (values.parse_absolute, "data", 'cannot read path "data": not absolute', "write /data"),
    (
        values.parse_signal,
        "TREM",
        'cannot read signal "TREM": no such signal',
        "did you mean SIGTERM?",
    ),
    (values.parse_signal, "99", "no such signal", ""),
    (values.parse_signal, "0", "no such signal", ""),
    (values.parse_detach_keys, "ctrl-1", '"ctrl-1" is not a key', "ctrl-p,ctrl-q"),
    (values.parse_label, "=x", "it has no name", "name=value"),
    (values.parse_oom_score, "1001", "not between -1000 and 1000", ""),
    (
        grants.parse_capability,
        "net_admn",
        'cannot read capability "net_admn": no such capability',
        "did you mean NET_ADMIN?",
    ),
    (grants.parse_device, "fuse", "not SOURCE[:TARGET][:rwm] with absolute paths", "/dev/fuse"),
    (grants.parse_device, "/dev/a:/dev/b:x", 'the access "x" is not made of r, w and m', ""),
    (grants.parse_ulimit, "nofle=5", 'no limit is called "nofle"', "did you mean nofile?"),
    (grants.parse_ulimit, "nofile=9:5", "the soft limit 9 is above the hard limit 5", ""),
    (grants.parse_ulimit, "nofile", "not NAME=SOFT[:HARD]", "nofile=1024"),
    (
        grants.parse_sysctl,
        "kernel.panic=1",
        "kernel.panic belongs to the whole host: no machine may set it",
        "",
    ),
    (grants.parse_sysctl, "net.ipv4", "not NAME=VALUE", "net.ipv4.ip_forward=1"),
    (
        grants.parse_sysctl,
        "kernel.hostname=a",
        "the host name has an option of its own",
        "--hostname",
    ),
    (grants.parse_host, "db", "not NAME:ADDRESS", "db:10.0.0.5"),
    (grants.parse_host, "db:300.1.1.1", '"300.1.1.1" is not an IP address', ""),
    (grants.parse_domain, "a b", "not labels with dots between them", ""),
    (grants.parse_dns_option, "ndots 1", "not NAME or NAME:NUMBER", ""),
    (grants.parse_security_opt, "apparmor=mine", 'cannot use the AppArmor profile "mine"', ""),
    (
        grants.parse_security_opt,
        "no-new-privs",
        'no option is called "no-new-privs"',
        "did you mean no-new-privileges?",
    ),
    (
        grants.parse_security_opt,
        "mask=/proc/x",
        "cannot mask single paths",
        "systempaths=unconfined",
    ),
    (grants.parse_security_opt, "systempaths=all", "systempaths is unconfined", ""),
    (grants.parse_storage_opt, "sise=1g", 'no option is called "sise"', "size=10g"),
    (grants.parse_userns, "keep-id", "it is host or nothing", "--userns host"),
    (grants.parse_log_driver, "syslog", "cannot use the log driver syslog", "json-file"),
    (grants.parse_log_opt, "max-file=0", "max-file is a number from 1 to 1000", ""),
    (grants.parse_log_opt, "labels=a", 'no option is called "labels"', "max-file=5"),
    (flags.parse_platform, "windows/amd64/a", "not linux/ARCHITECTURE", "linux/amd64"),
    (flags.parse_platform, "linux//", "not linux/ARCHITECTURE", ""),
    (environment.parse_env, "=x", 'cannot read variable "=x": it has no name', "NAME=value"),
]


@pytest.mark.parametrize(("parse", "text", "message", "hint"), BAD, ids=lambda v: str(v)[:40])
def test_bad_values(parse: Callable[[str], Any], text: str, message: str, hint: str) -> None:
    with pytest.raises((UsageError, Unsupported)) as caught:
        parse(text)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 125


TIMES = [
    ("10m", 1_000_000 - 600),
    ("1700000000.5", 1_700_000_000.5),
    ("1970-01-02", 86400),
    ("1970-01-02T01:02:03", 86400 + 3723),
    ("1970-01-02T01:02:03.5Z", 86400 + 3723.5),
    ("1970-01-02T01:02:03+01:00", 86400 + 123),
    ("1970-01-02T01:02", 86400 + 3720),
]


@pytest.mark.parametrize(("text", "moment"), TIMES)
def test_moments(text: str, moment: float) -> None:
    assert values.parse_time(text, 1_000_000) == moment


@pytest.mark.parametrize("text", ["yesterday", "1970-13-01", "1970-01-01T25:00"])
def test_bad_moments(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read time"):
        values.parse_time(text, 0.0)


@given(st.text(max_size=40))
def test_parsers_give_a_value_or_an_error_of_cove(text: str) -> None:
    for parse in (
        *(row[0] for row in GOOD),
        mounts.parse_volume,
        mounts.parse_mount,
        mounts.parse_tmpfs,
    ):
        try:
            parse(text)
        except CoveError as error:
            assert error.message


@given(st.integers(min_value=0, max_value=1 << 60))
def test_a_size_shown_is_the_size_read(size: int) -> None:
    assert values.parse_size(values.format_size(size)) == size


def test_capabilities_are_in_the_kernels_order() -> None:
    assert len(grants.CAPABILITIES) == 41
    assert grants.CAPABILITIES.index("SYS_ADMIN") == 21
    assert grants.CAPABILITIES.index("CHECKPOINT_RESTORE") == 40


def test_signals_are_the_kernels() -> None:
    import signal

    for name, number in values.SIGNALS.items():
        if name != "STKFLT" or hasattr(signal, "SIGSTKFLT"):
            assert getattr(signal, f"SIG{name}", number) == number


@pytest.mark.parametrize(
    ("word", "found"),
    [("rnu", "run"), ("strat", "start"), ("inspct", "inspect"), ("zzz", ""), ("insp", "inspect")],
)
def test_did_you_mean(word: str, found: str) -> None:
    assert suggest.nearest(word, ("run", "start", "inspect", "rm", "exec")) == found


# ---- environment ----


def test_env_file_as_docker_reads_it() -> None:
    text = '\ufeff# a comment\n\n  LEADING=1\nQUOTED="x"\nEQ=a=b\nFROM_CALLER\nCRLF=1\r\nSP= x \n'
    assert environment.parse_env_file(text, "f") == (
        "LEADING=1", 'QUOTED="x"', "EQ=a=b", "FROM_CALLER", "CRLF=1", "SP= x ",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\nB C=2\n", 'cannot read vars:2: the variable "B C" contains white space'),
        ("=x\n", "cannot read vars:1: no variable name"),
        ("A=\udcff\n", "cannot read vars:1: it is not UTF-8"),
    ],
)
def test_bad_env_files(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        environment.parse_env_file(text, "vars")
    assert caught.value.message == message


def test_the_callers_own_variables() -> None:
    words = ("A=1", "HOME", "UNSET", "A=2", "EMPTY=")
    resolved = ("A=2", "HOME=/root", "UNSET", "EMPTY=")
    assert environment.resolve_env(words, {"HOME": "/root"}) == resolved
    assert environment.needs_caller(words)
    assert not environment.needs_caller(("A=1",))


def test_label_files() -> None:
    assert environment.parse_label_file("a=b\n# no\nc\n", "f") == (("a", "b"), ("c", ""))
    with pytest.raises(UsageError, match="cannot read f:1: a label without a name"):
        environment.parse_label_file("=b\n", "f")
