"""A system call that seccomp refuses is told by the kernel, with its number and its process."""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cove.linux.audit import Audit, Refusal, open_audit, parse
from tests.conftest import need_root
from tests.leaks import leaks

REFUSED = {"x86_64": 248, "aarch64": 217}[os.uname().machine]  # add_key
UID = 1879048192 + 1000

CHILD = f"""
import ctypes, os, struct, sys
os.setresuid({UID}, {UID}, {UID})
code = [(0x20, 0, 0, 0), (0x15, 0, 1, {REFUSED}), (6, 0, 0, 0x50001), (6, 0, 0, 0x7fff0000)]
filter = b"".join(struct.pack("HBBI", *i) for i in code)
buffer = ctypes.create_string_buffer(filter)
program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
assert libc.syscall({{"x86_64": 317, "aarch64": 277}}["{os.uname().machine}"], 1, 2, program) == 0
for _ in range(int(sys.argv[1])):
    assert libc.syscall({REFUSED}, 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() == 1
"""


def refuse(count: int) -> int:
    """The pid of a process that was refused ``count`` times."""
    with subprocess.Popen([sys.executable, "-c", CHILD, str(count)]) as process:
        assert process.wait() == 0
    return process.pid


def collect(audit: Audit, pid: int, count: int) -> list[Refusal]:
    found: list[Refusal] = []
    while len(found) < count and select.select([audit], [], [], 180)[0]:
        found += [refusal for refusal in audit.read() if refusal.pid == pid]
    return found


@pytest.fixture
def audit() -> Iterator[Audit]:
    need_root()
    found = open_audit()
    if found is None:
        pytest.skip("this kernel has no audit records")
    yield found
    found.close()


def test_each_refused_call_is_told(audit: Audit) -> None:
    with leaks():
        pid = refuse(200)
        found = collect(audit, pid, 200)
    assert len(found) == 200
    first = found[0]
    assert (first.uid, first.syscall) == (UID, REFUSED)
    assert first.arch in (0xC000003E, 0xC00000B7)
    assert os.path.basename(first.program) == os.path.basename(os.path.realpath(sys.executable))


def test_reading_ends_in_a_flood(audit: Audit) -> None:
    pid = refuse(50)
    assert select.select([audit], [], [], 180)[0]
    assert len(audit.read(10)) <= 10
    assert len(collect(audit, pid, 40)) >= 40


def record(text: str, *, kind: int = 1326, sender: int = 0) -> bytes:
    body = text.encode() + b"\0"
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, sender) + body


LINE = (
    "audit(1700000000.123:45): auid=4294967295 uid=1000 gid=1000 ses=4294967295 pid=7 "
    'comm="sh" exe="/bin/sh" sig=0 arch=c000003e syscall=165 compat=0 ip=0x7f code=0x50000'
)


class TestParse:
    def test_a_record(self) -> None:
        assert parse(record(LINE)) == Refusal(1000, 7, 165, 0xC000003E, "sh", "/bin/sh")

    def test_a_name_that_would_forge_fields_comes_in_hexadecimal(self) -> None:
        name = b"x uid=0".hex().upper()
        refusal = parse(record(LINE.replace('"sh"', name)))
        assert refusal is not None
        assert (refusal.uid, refusal.name) == (1000, "x uid=0")

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\0" * 15,
            record(LINE, kind=1300),
            record(LINE, sender=4711),
            record("nothing"),
            record(LINE.replace("165", "x")),
        ],
    )
    def test_what_is_not_one(self, data: bytes) -> None:
        assert parse(data) is None


def test_catching_up_waits_for_the_kernels_own_thread(audit: Audit) -> None:
    for _ in range(20):
        pid = refuse(3)
        assert audit.catch_up(5)
        assert len([refusal for refusal in audit.read() if refusal.pid == pid]) == 3
