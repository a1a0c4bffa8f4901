"""The runner of the guest, without a guest."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.host61 import qemu
from tests.host61.__main__ import result
from tests.host61.guest_disk import Guest
from tests.host61.newc import archive

GUEST = Guest(Path("vmlinuz"), Path("initrd"), Path("root"))


def test_the_archive_is_what_cpio_reads() -> None:
    made = archive(("dev", "root"), {"init": (0o755, b"#!/busybox sh\n"), "odd": (0o644, b"12345")})
    ran = subprocess.run(
        [shutil.which("busybox") or "busybox", "cpio", "-tv"],
        input=made,
        capture_output=True,
        check=True,
    )
    rows = [line.split() for line in ran.stdout.decode().splitlines()]
    assert [(row[0], row[-1]) for row in rows] == [
        ("drwxr-xr-x", "dev"),
        ("drwxr-xr-x", "root"),
        ("crw-------", "dev/console"),
        ("-rwxr-xr-x", "init"),
        ("-rw-r--r--", "odd"),
    ]


def run(monkeypatch: pytest.MonkeyPatch, script: str, seconds: float = 180) -> tuple[int, bytes]:
    """A guest that is a shell: descriptor 3 is its channel, $CONSOLE its console."""

    def command(guest: Guest, checkout: Path, memory: str, fd: int, console: str) -> list[str]:
        return ["bash", "-c", f"exec 3<&{fd} 4>{console}; read task <&3; {script}"]

    monkeypatch.setattr(qemu, "command", command)
    return qemu.run_in_guest(
        GUEST, Path("checkout"), argv=["true"], environment={}, memory="1G", seconds=seconds
    )


def test_the_exit_code_and_what_was_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    script = r"printf 'one\ntwo\n\n--- host61 ends with 3\n' >&3; read forever <&3"
    assert run(monkeypatch, script) == (3, b"one\ntwo\n")


def test_a_guest_that_ends_by_itself_shows_its_console(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(qemu.GuestDied, match="without an exit code") as error:
        run(monkeypatch, "echo Kernel panic >&4")
    assert str(error.value).endswith("the end of its console:\nKernel panic\n")


def test_a_guest_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(qemu.GuestDied, match="the guest took too long"):
        run(monkeypatch, "while echo . >&3; do sleep 0.1; done", seconds=1)
    monkeypatch.setattr(qemu, "SILENT", 1)
    with pytest.raises(qemu.GuestDied, match="the guest said nothing for 1 s"):
        run(monkeypatch, "read forever <&3")


def test_the_end_is_one_line() -> None:
    began = b"\n682 tests on Linux 6.1.0-1\n....\n"
    passed = began + b"680 passed, 2 xfailed in 834.21s (0:13:54)\n"
    assert result(0, passed, 900) == (
        "host61: passed; 680 passed, 2 xfailed; Linux 6.1.0-1; 15.0 min"
    )
    failed = began + b"1 failed, 681 passed in 9.00s\n\n1 tests on Linux 6.1.0-1\n"
    again = failed + b"1 passed in 3.2s\nUNSTEADY: failed once, passed alone: tests/a.py::b\n"
    assert result(0, again, 30) == (
        "host61: passed; 1 failed, 681 passed; 1 of them unsteady; Linux 6.1.0-1; 0.5 min"
    )
    assert result(2, b"", 6) == "host61: FAILED with exit code 2; no test has run; 0.1 min"


def test_the_counter_is_counted_right() -> None:
    first, second = qemu.tsc_khz(), qemu.tsc_khz()
    assert abs(first - second) < first * 0.01
    assert 500_000 < first < 10_000_000
