"""KVM is used where a guest was started under it, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from cove.plan.facts import Facts
from cove.store.layout import Layout
from cove.store.lock import open_layout
from cove.vm import accel
from cove.vm.accel import Trial, boot_trial, remembered, trial
from cove.vm.kernels import Kernels
from tests.driver import busybox_tar, new_cove
from tests.shared import give_guests
from tests.vm.conftest import Stored

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def own(one_stored: Stored, tmp_path: Path) -> Kernels:
    """A state directory in which no trial was made."""
    layout = open_layout(tmp_path / "state")
    name = one_stored.kernel.name
    shutil.copytree(one_stored.kernels.layout.kernel(name), layout.kernel(name))
    return Kernels(layout)


def test_the_program_of_a_trial_ends_a_guest(stored: Stored, emulating: Facts) -> None:
    """Under emulation, which works everywhere: what a trial under KVM is judged by."""
    assert boot_trial(stored.kernels, stored.kernel, emulating, seconds=60) == ""


def test_a_guest_that_hangs_is_no_success(one_stored: Stored, emulating: Facts) -> None:
    said = boot_trial(one_stored.kernels, one_stored.kernel, emulating, seconds=0.05)
    assert said.startswith("a guest did not start within 0 seconds")


def test_qemu_that_refuses_says_why(
    one_stored: Stored, emulating: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accel, "argv", lambda options: ("-accel", "nonsense"))
    said = boot_trial(one_stored.kernels, one_stored.kernel, emulating)
    assert said.startswith("QEMU ended with code 1: qemu-system-")
    assert said.endswith("invalid accelerator nonsense, and said nothing")


def test_a_trial_has_an_answer_that_is_remembered(
    own: Kernels, one_stored: Stored, emulating: Facts
) -> None:
    first = trial(own, one_stored.kernel, emulating)
    assert first.usable is not bool(first.reason)
    if not os.path.exists(accel.KVM):
        assert first.reason == "/dev/kvm: no such file or directory"
    seen = os.stat(own.layout.kvm)
    assert trial(own, one_stored.kernel, emulating) == first == remembered(own.layout)
    assert os.stat(own.layout.kvm).st_ino == seen.st_ino, "no second boot"


def test_another_host_is_tried_anew(own: Kernels, one_stored: Stored, emulating: Facts) -> None:
    now = msgspec.structs.replace(emulating, qemu={emulating.arch: (99, 9, 9)})
    write(own.layout, Trial(True, "", {"kernel": "other", "qemu": "0", "cpu": ""}))
    again = trial(own, one_stored.kernel, now)
    assert again.host["qemu"] == "99.9.9" and again == remembered(own.layout)


def test_a_remembered_answer_that_is_damaged_is_none(own: Kernels) -> None:
    Path(own.layout.kvm).write_bytes(b'{"usable": "perhaps"}')
    assert remembered(own.layout) is None


def test_an_emulator_opens_the_device_in_its_jail() -> None:
    """Where a trial passed. Whether guests boot under KVM is the trial's matter: here they may not,
    but it is the guest that hangs, and not QEMU that ends.
    """
    with contextlib.closing(new_cove()) as cove:
        cove.env |= {"COVE_VM_PATIENCE": "2"}
        give_guests(cove)
        shutil.rmtree(cove.root / "templates")
        known = msgspec.json.decode((cove.root / "kvm.json").read_bytes(), type=Trial)
        usable = msgspec.structs.replace(known, usable=True, reason="")
        (cove.root / "kvm.json").write_bytes(msgspec.json.encode(usable))
        cove("image", "import", "-q", str(busybox_tar(cove.root / "bb.tar")), "bb")
        done = cove("run", "--rm", "--vm", "bb", "true", code=None)
    said = done.err.partition("\n")[0]
    if os.path.exists(accel.KVM):
        assert said in ("", "cove: cannot start machine: its guest did not answer within 2 s")
    else:
        assert "failed to initialize kvm: No such device" in said


def write(layout: Layout, found: Trial) -> None:
    Path(layout.kvm).write_bytes(msgspec.json.encode(found))
