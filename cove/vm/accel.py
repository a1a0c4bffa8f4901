"""Whether KVM works here: a trial boot, remembered.

That ``/dev/kvm`` opens says little: on a host that is itself a guest a kernel may hang in its first
microseconds. So a real guest kernel is started under KVM, and must come as far as a program of its
own; the answer is kept until kernel, QEMU or CPU are others.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import struct
import subprocess
from dataclasses import dataclass

import msgspec

from cove.errors import NOT_JSON
from cove.linux.virtual import probe_virtual, qemu_version
from cove.plan.facts import Facts
from cove.planner.virtual.qemu import EXIT_PORT, Guest, argv, plan_qemu, program
from cove.planner.virtual.qemu import Kernel as Boot
from cove.store.layout import Layout
from cove.vm.initrd import initrd
from cove.vm.kernels import Kernels
from cove.vm.record import Kernel

SECONDS = 10.0
"""In which a guest under KVM has long come to its end: it takes one."""
MEMORY = 128 << 20
PROOF = 42
"""What the guest's program says with its last breath."""
POWER_DOWN = "reboot: Power down"
"""What an arm64 kernel says when the program has it end the machine; x86-64 has a port for it."""
KVM = "/dev/kvm"


class Trial(msgspec.Struct, frozen=True):
    """``kvm.json``: what came of it, and on what it depends."""

    usable: bool
    reason: str
    """Why not; empty: it is."""
    host: dict[str, str]
    """Kernel, QEMU and CPU with which it was made."""


# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
_decode_trial = msgspec.json.Decoder(Trial).decode


def trial(kernels: Kernels, kernel: Kernel, facts: Facts, *, again: bool = False) -> Trial:
    """The remembered answer, or a new one: then it takes up to ten seconds."""
    if not again and (answer := known(kernels.layout, facts, kernel.arch)) is not None:
        return answer
    with_kvm = msgspec.structs.replace(facts, kvm=True)
    reason = _device() or boot_trial(kernels, kernel, with_kvm)
    found = Trial(not reason, reason, _host(facts, kernel.arch))
    _remember(kernels.layout, found)
    return found


def facts_with_kvm(kernels: Kernels, kernel: Kernel, facts: Facts) -> tuple[Facts, Trial]:
    """What the planner is given for a virtual machine, and what ``info`` says of KVM. Another CPU
    than this host's is no matter of trial.
    """
    virtual = probe_virtual(facts, kernel.arch)
    if kernel.arch != facts.arch:
        reason = f"{kernel.arch} is emulated on {facts.arch}"
        return virtual, Trial(False, reason, _host(virtual, kernel.arch))
    found = trial(kernels, kernel, virtual)
    return msgspec.structs.replace(virtual, kvm=found.usable), found


def known(layout: Layout, facts: Facts, cpu: str) -> Trial | None:
    """The remembered answer, if nothing has changed on which it depends."""
    answer = remembered(layout)
    return answer if answer is not None and answer.host == _host(facts, cpu) else None


def remembered(layout: Layout) -> Trial | None:
    try:
        with open(layout.kvm, "rb") as file:
            return _decode_trial(file.read(1 << 16))
    except (OSError, *NOT_JSON):
        return None


def _remember(layout: Layout, found: Trial) -> None:
    new = f"{layout.tmp}/kvm-{os.getpid()}"
    with contextlib.suppress(OSError):  # a full disk costs the next one a boot, and no more
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(found) + b"\n")
        os.rename(new, layout.kvm)


def _host(facts: Facts, cpu: str) -> dict[str, str]:
    version = ".".join(map(str, facts.qemu.get(cpu) or qemu_version(f"qemu-system-{cpu}")))
    return {"kernel": platform.release(), "qemu": version, "cpu": _cpu()}


def _cpu() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        lines = dict(line.split(":", 1) for line in file.read(1 << 13).splitlines() if ":" in line)
        fields = {name.strip(): value.strip() for name, value in lines.items()}
        return " ".join(fields.get(name, "") for name in ("model name", "stepping", "microcode"))
    return ""


def _device() -> str:
    """Empty: it can be opened."""
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{KVM}: {(error.strerror or 'i/o error').lower()}"
    return ""


# ---- the boot ----


@dataclass(slots=True)
class _Ends:
    """What QEMU is given, and what is closed afterwards."""

    stack: contextlib.ExitStack
    passed: list[int]

    def pair(self) -> int:
        """A socket on which nobody listens."""
        ours, theirs = socket.socketpair()
        self.stack.enter_context(ours)
        self.stack.enter_context(theirs)
        self.passed.append(theirs.fileno())
        return theirs.fileno()

    def fd(self, fd: int) -> int:
        self.stack.callback(os.close, fd)
        self.passed.append(fd)
        return fd


def boot_trial(kernels: Kernels, kernel: Kernel, facts: Facts, *, seconds: float = SECONDS) -> str:
    """Start ``kernel`` with a program that ends it again, under KVM where ``facts`` say so; why
    that failed, or nothing.
    """
    if kernel.arch != facts.arch:
        return f"kernel {kernel.name} is for {kernel.arch}"
    with contextlib.ExitStack() as stack:
        ends = _Ends(stack, [])
        image = os.memfd_create("trial", os.MFD_CLOEXEC)
        boot = Boot(
            ends.fd(kernels.open_kernel(kernel)),
            ends.fd(image),
            kernel.hz,
            frozenset(kernel.options),
        )
        os.write(image, initrd(trial_program(facts.arch), ()))
        console, console_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        stack.callback(os.close, console)
        guest = Guest(
            facts.arch, MEMORY, 1, ends.pair(), ends.fd(console_fd), ends.pair(), boot,
            acpi=boot.needs_acpi,
        )  # fmt: skip
        line = argv(plan_qemu(guest, facts))
        return _judge(program(guest), line, ends.passed, console, seconds)


def _judge(
    name: str,
    line: tuple[str, ...],
    passed: list[int],
    console: int,
    seconds: float,
) -> str:
    try:
        child = subprocess.Popen(
            [name, *line],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=passed,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"},
        )
    except OSError as error:
        return f"{name}: {(error.strerror or 'i/o error').lower()}"
    with child:
        try:
            _, said = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            return f"a guest did not start within {seconds:.0f} seconds{_last(_heard(console))}"
    heard = _heard(console)
    if child.returncode == PROOF * 2 + 1 or (child.returncode == 0 and POWER_DOWN in heard):
        return ""
    text = said.decode("utf-8", "replace").strip().splitlines()
    last = text[-1] if text else "it says nothing"
    return f"QEMU ended with code {child.returncode}: {last}{_last(heard)}"


def _heard(console: int) -> str:
    try:
        return os.read(console, 1 << 16).decode("utf-8", "replace")
    except BlockingIOError:
        return ""


def _last(heard: str) -> str:
    """The guest's last line, if it came so far as to say one."""
    lines = [line.strip() for line in heard.split("\n") if line.strip()]
    return f': "{lines[-1][:200]}"' if lines else ", and said nothing"


# mov edi,3; mov eax,172 (iopl); syscall; mov dx,port; mov al,PROOF; out dx,al; jmp self
X86_64 = (
    b"\xbf\x03\0\0\0\xb8\xac\0\0\0\x0f\x05\x66\xba"
    + struct.pack("<H", EXIT_PORT)
    + b"\xb0%c\xee\xeb\xfe" % PROOF
)
# reboot(0xfee1dead, 672274793, 0x4321fedc): power off; b self
AARCH64 = struct.pack(
    "<9I",
    0xD29BD5A0, 0xF2BFDC20, 0xD2832D21, 0xF2A50241, 0xD29FDB82, 0xF2A86422, 0xD28011C8,
    0xD4000001, 0x14000000,
)  # fmt: skip


def trial_program(arch: str) -> bytes:
    """The smallest static program: one segment, and code that ends the machine."""
    code, machine = (X86_64, 62) if arch == "x86_64" else (AARCH64, 183)
    at = 64 + 56
    base = 0x400000
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, base + at, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = at + len(code)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x10000)
    return header + segment + code
