"""One run of the guest: start QEMU, hand it the command, show what it prints, say how it ended."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.driver import ROOT
from tests.host61.guest_disk import Guest

END = b"\n--- host61 ends with "
"""What the guest's first process says last, with the exit code."""
SILENT = 900
"""Seconds without a byte after which the guest is taken for dead."""


class GuestDied(Exception):
    """It gave no exit code."""


def run_in_guest(
    guest: Guest,
    checkout: Path,
    *,
    argv: list[str],
    environment: dict[str, str],
    memory: str,
    seconds: float,
    show: bool = True,
) -> tuple[int, bytes]:
    """Exit code and output of a command there."""
    ours, theirs = socket.socketpair()
    with tempfile.NamedTemporaryFile(prefix="host61-console-") as console, ours, theirs:
        words = command(guest, checkout, memory, theirs.fileno(), console.name)
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
        ) as process:
            theirs.close()
            try:
                task = {"root": str(ROOT), "argv": argv, "environment": environment}
                ours.sendall(json.dumps(task).encode() + b"\n")
                output, why = _collect(ours, time.monotonic() + seconds, show=show)
            finally:
                process.kill()
        text, found, code = output.rpartition(END)
        if found and code.split()[:1]:
            return int(code.split()[0]), text
        tail = Path(console.name).read_text(errors="replace")[-4000:]
        raise GuestDied(f"{why}; the end of its console:\n{tail}")


def _collect(channel: socket.socket, late: float, *, show: bool) -> tuple[bytes, str]:
    """All of the output, and why there is no more."""
    output = bytearray()
    while (left := late - time.monotonic()) > 0:
        if not select.select([channel], [], [], min(left, SILENT))[0]:
            if left < SILENT:
                break
            return bytes(output), f"the guest said nothing for {SILENT} s"
        try:
            part = channel.recv(65536)
        except ConnectionResetError:  # it had not read everything
            part = b""
        if not part:
            return bytes(output), "the guest ended without an exit code"
        output += part
        if show:
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
        if END in output[-200:] and output.endswith(b"\n"):
            return bytes(output), "it ended"
    return bytes(output), "the guest took too long"


def command(guest: Guest, checkout: Path, memory: str, fd: int, console: str) -> list[str]:
    khz = tsc_khz()
    append = (
        # Under TCG a guest that calibrates its clocks on a busy host hangs.
        f"tsc_early_khz={khz} lpj={khz * 4} no_timer_check tsc=reliable "
        "mitigations=off panic=-1 console=ttyS0 loglevel=4 audit_backlog_limit=4096"
    )
    return [
        *("setpriv", "--pdeathsig", "KILL"),  # it outlives nobody
        *("qemu-system-x86_64", "-M", "microvm", "-accel", "tcg,thread=multi,tb-size=512"),
        *("-cpu", "max", "-smp", "2", "-m", memory),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"),
        *("-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", append),
        *_drive("root", guest.disk),
        *_drive("checkout", checkout),
        *("-chardev", f"socket,id=channel,fd={fd}", "-device", "virtio-serial-device"),
        *("-device", "virtserialport,chardev=channel,name=host61"),
        *("-chardev", f"file,id=console,path={console}", "-serial", "chardev:console"),
    ]


def _drive(name: str, image: Path) -> list[str]:
    """Writes go to a temporary file that nobody keeps."""
    drive = f"if=none,id={name},format=raw,snapshot=on,cache=unsafe,file={image}"
    return ["-drive", drive, "-device", f"virtio-blk-device,drive={name}"]


def tsc_khz() -> int:
    """How fast this host's time stamp counter runs: QEMU gives the guest the same one."""
    if os.uname().machine != "x86_64":
        sys.exit("host61: its guest is one for x86-64 hosts")
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("0f31 48c1e220 4809d0 c3"))  # rdtsc; shl rdx,32; or rax,rdx; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    counter = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)
    first, begin = _moment(counter)
    time.sleep(0.2)
    last, end = _moment(counter)
    return round((last - first) * 1_000_000 / (end - begin))


def _moment(counter: Callable[[], int]) -> tuple[int, int]:
    """The counter, and the time: of many readings that with the fewest ticks around the clock's, as
    this process may lose its CPU between any two of them.
    """
    readings = [(counter(), time.monotonic_ns(), counter()) for _ in range(50)]
    before, now, after = min(readings, key=lambda reading: reading[2] - reading[0])
    return (before + after) // 2, now
