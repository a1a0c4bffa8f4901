"""QEMU's command line for each recorded guest on each recorded host; ``make golden`` rewrites
them.
"""

from __future__ import annotations

import dataclasses
import difflib
import re

import pytest

from cove.errors import Bug, Unsupported
from cove.planner.virtual.qemu import Disk, Guest, Nic, Share, argv, plan_qemu
from tests.golden.cases import HERE, load_facts
from tests.golden.guests import GuestCase, guest_cases

CASES = list(guest_cases())
FD = re.compile(r"(?<![a-z-])fd=([0-9]+)|/proc/self/fd/([0-9]+)")


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.name}/{c.host}")
def test_the_line_is_the_golden_one(case: GuestCase) -> None:
    have, want = case.text(), case.golden.read_text() if case.golden.exists() else ""
    diff = difflib.unified_diff(
        want.splitlines(), have.splitlines(), str(case.golden.relative_to(HERE)), "planned now"
    )
    assert have == want, "\n".join(["the line changed; read the diff, then: make golden", *diff])


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.name}/{c.host}")
def test_every_option_and_every_word_of_the_kernel_says_why(case: GuestCase) -> None:
    for option in case.options():
        assert option.why and all(why for _, why in option.parts)
        if option.parts:
            assert option.words[-1] == " ".join(word for word, _ in option.parts)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.name}/{c.host}")
def test_no_path_but_descriptors(case: GuestCase) -> None:
    """Whoever starts QEMU opens everything; its line could name no file of the host."""
    guest, line = case.guest(), argv(case.options())
    given = {guest.agent, guest.console, guest.qmp, guest.memory_fd}
    given |= {disk.fd for disk in guest.disks}
    given |= {nic.tap for nic in guest.nics}
    given |= {guest.share.fd} if guest.share is not None else set()
    if guest.kernel is not None:
        given |= {guest.kernel.kernel, guest.kernel.initrd}
    used = {int(a or b) for word in line for a, b in FD.findall(word)}
    assert used == given - {-1}
    for word in line:
        for path in re.findall(r"/[^,=]*", word):
            assert re.fullmatch(r"/proc/self/fd/[0-9]+|/dev/fdset/[0-9]+", path)


def test_a_clone_has_the_devices_of_its_template() -> None:
    def devices(name: str) -> list[str]:
        options = GuestCase(name, "debian12-hybrid").options()
        return [w for o in options for w, n in zip(o.words[1:], o.words, strict=False) if n in
                ("-device", "-M", "-m", "-smp", "-cpu")]  # fmt: skip

    assert devices("vm-template") == devices("vm-clone")


def test_no_golden_is_left_over() -> None:
    assert set(HERE.glob("*/*.qemu")) == {case.golden for case in CASES}


PLAIN = Guest("x86_64", 64 << 20, 1, agent=3, console=4, qmp=5)
FACTS = load_facts("debian12-hybrid")


@pytest.mark.parametrize(
    "guest",
    [
        dataclasses.replace(PLAIN, disks=(Disk("root,id=x", 6, read_only=True),)),
        dataclasses.replace(PLAIN, disks=(Disk("r" * 21, 6, read_only=True),)),
        dataclasses.replace(PLAIN, nics=(Nic("02:00:00:00:00:01,romfile=/x"),)),
        dataclasses.replace(PLAIN, memory=(64 << 20) + 1),
        dataclasses.replace(PLAIN, shared=True),
        dataclasses.replace(PLAIN, share=Share("share", 6)),
        dataclasses.replace(PLAIN, share=Share("a,b", 6), shared=True, memory_fd=7),
    ],
)
def test_what_would_say_more_than_itself_is_refused(guest: Guest) -> None:
    with pytest.raises(Bug):
        plan_qemu(guest, FACTS)


def test_what_no_machine_has_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="riscv64"):
        plan_qemu(dataclasses.replace(PLAIN, arch="riscv64"), FACTS)
    with pytest.raises(Unsupported, match="65 CPUs: at most 64"):
        plan_qemu(dataclasses.replace(PLAIN, cpus=65), FACTS)
    disks = tuple(Disk(f"volume{i}", 6 + i, read_only=False) for i in range(8))
    with pytest.raises(Unsupported, match="9 devices: this guest kernel finds 8"):
        plan_qemu(dataclasses.replace(PLAIN, disks=disks, acpi=False), FACTS)
