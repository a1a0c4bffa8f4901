"""Programs of other CPUs: how they are known, and what is refused by name. No root, no network."""

from __future__ import annotations

import dataclasses
import os
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cove.engine.images.foreign import emulation
from cove.errors import CoveError
from cove.executor.explain import explain
from cove.executor.messages import Report
from cove.linux import interpreters
from cove.oci.config import ImageConfig
from cove.plan.facts import Facts
from cove.plan.ops import Binfmt, Plan
from cove.planner import plan_ahead, plan_machine
from cove.planner.foreign import CPUS, foreign_architectures
from cove.spec.machine import MachineSpec, Security
from tests.golden.cases import load_facts, make_place

QEMU = (("arm64", "/usr/bin/qemu-aarch64-static"),)
ARM64 = ImageConfig(architecture="arm64", variant="v8")
SPEC = MachineSpec(image="web", command=("true",))


@pytest.fixture(scope="module")
def facts() -> Facts:
    return load_facts("debian12-hybrid")


def planned(spec: MachineSpec, image: ImageConfig, facts: Facts, **place: Any) -> Plan:
    parts = {"interpreters": QEMU} | place
    return plan_machine(spec, image, facts, dataclasses.replace(make_place(facts, {}), **parts))


def handlers(plan: Plan) -> list[str]:
    return [op.handler for op in plan.machine if isinstance(op, Binfmt)]


def refused(spec: MachineSpec, image: ImageConfig, facts: Facts, **place: Any) -> CoveError:
    with pytest.raises(CoveError) as caught:
        planned(spec, image, facts, **place)
    return caught.value


@pytest.mark.parametrize("name", [n for n in CPUS if CPUS[n].qemu != os.uname().machine])
def test_the_programs_of_a_cpu_are_known_by_what_qemu_says(name: str) -> None:
    """A Debian package's own handler is the witness; it has none for the host's own CPU."""
    listed = Path(f"/usr/lib/binfmt.d/qemu-{CPUS[name].qemu}.conf")
    if not listed.exists():
        pytest.skip(f"needs {listed}")
    words = listed.read_text().strip().split(":")
    magic, mask = (w.encode().decode("unicode_escape").encode("latin1") for w in words[4:6])
    ours = CPUS[name].magic(), CPUS[name].mask()
    both = bytes(a & b for a, b in zip(mask, ours[1], strict=True))
    assert [m & b for m, b in zip(magic, both, strict=True)] == [
        m & b for m, b in zip(ours[0], both, strict=True)
    ]


def test_a_program_of_this_cpu_is_none_of_them() -> None:
    head = Path(sys.executable).read_bytes()[:20]
    own = struct.unpack_from("<H", head, 18)[0]
    for cpu in CPUS.values():
        matches = all(
            (a ^ b) & m == 0 for a, b, m in zip(head, cpu.magic(), cpu.mask(), strict=True)
        )
        assert matches == (cpu.machine == own)


def test_the_handler(facts: Facts) -> None:
    (handler,) = handlers(planned(SPEC, ARM64, facts))
    assert handler.startswith(r":qemu-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00")
    assert handler.endswith(":/usr/bin/qemu-aarch64-static:POF")
    assert len(handler) < 1920, "binfmt_misc takes no more"


def test_set_user_id_programs_get_their_rights_only_where_they_were_asked_for(
    facts: Facts,
) -> None:
    spec = msgspec.structs.replace(SPEC, security=Security(no_new_privileges=False))
    (handler,) = handlers(planned(spec, ARM64, facts))
    assert handler.endswith(":POCF")


@pytest.mark.parametrize("architecture", ["amd64", "386", ""])
def test_what_this_cpu_runs_is_not_emulated(facts: Facts, architecture: str) -> None:
    image = ImageConfig(architecture=architecture)
    assert foreign_architectures(SPEC, image, facts) == ()
    assert planned(SPEC, image, facts) == planned(SPEC, ImageConfig(), facts)
    assert emulation(SPEC, image, facts) == ""


def test_on_arm64_it_is_the_other_way_round() -> None:
    arm = load_facts("debian12-arm64")
    assert foreign_architectures(SPEC, ARM64, arm) == ()
    assert foreign_architectures(SPEC, ImageConfig(architecture="386"), arm) == ("386",)
    image = ImageConfig(architecture="amd64")
    assert emulation(SPEC, image, arm) == "linux/amd64 by qemu-x86_64 on aarch64"


def test_a_virtual_machine_has_no_handlers(facts: Facts) -> None:
    assert foreign_architectures(msgspec.structs.replace(SPEC, isolation="vm"), ARM64, facts) == ()


def test_further_cpus_that_a_spec_names(facts: Facts) -> None:
    spec = msgspec.structs.replace(SPEC, emulate=("arm64", "amd64"))
    native = ImageConfig(architecture="amd64")
    assert len(handlers(planned(spec, native, facts))) == 1
    assert emulation(spec, native, facts) == "", "the machine's own programs run as they are"


def test_its_plan_begins_as_every_plan(facts: Facts) -> None:
    """So that a warm slot serves it."""
    plan, ahead = planned(SPEC, ARM64, facts), plan_ahead(SPEC, facts, make_place(facts, {}))
    assert plan.machine[: len(ahead.machine)] == ahead.machine


def test_the_mount_of_the_handlers_is_read_only_and_covered(facts: Facts) -> None:
    names = [(op.NAME, *op.words()[:3]) for op in planned(SPEC, ARM64, facts).machine]
    at = names.index(("move_mount", "binfmt", "root", "dev"))
    shut = names.index(("mount_setattr", "binfmt", "", "4096"))
    assert names.index(("fsmount", "binfmt", "binfmt_misc", "14")) < shut < at
    assert at < names.index(("move_mount", "dev", "root", "dev"))


def test_an_unknown_cpu(facts: Facts) -> None:
    error = refused(SPEC, ImageConfig(architecture="mips64le"), facts)
    assert error.message == ("cannot run web: it is for linux/mips64le, and this host is x86_64")
    assert error.hint.startswith("what can be emulated: amd64, arm64, arm, riscv64")


def test_a_kernel_without_handlers_of_a_namespace(facts: Facts) -> None:
    older = load_facts("debian12-v2")
    error = refused(SPEC, ARM64, older)
    assert error.message == (
        "cannot run web: it is for linux/arm64/v8, and this host is x86_64: programs of other CPUs "
        "need Linux 6.7 with binfmt_misc"
    )
    assert error.host == "Linux 6.1: before 6.7 their handlers are the whole host's"
    assert "--isolation vm" in error.hint
    bare = msgspec.structs.replace(facts, binfmt=False)
    assert refused(SPEC, ARM64, bare).host == "Linux 6.18 has no binfmt_misc"


def test_no_emulator(facts: Facts) -> None:
    error = refused(SPEC, ARM64, facts, interpreters=(("arm64", ""),))
    assert error.message.endswith("qemu-aarch64-static is not installed")
    assert error.hint == "apt-get install qemu-user-static"


@pytest.mark.parametrize(
    "security, origin",
    [(Security(privileged=True), "--privileged"), (Security(userns="host"), "--userns=host")],
)
def test_not_in_the_host_s_user_namespace(facts: Facts, security: Security, origin: str) -> None:
    error = refused(msgspec.structs.replace(SPEC, security=security), ARM64, facts)
    assert error.origin == origin
    assert "would change which programs the whole host runs" in error.message


def test_a_handler_that_is_refused_is_told(facts: Facts) -> None:
    plan = planned(SPEC, ARM64, facts)
    index = next(i for i, op in enumerate(plan.machine) if isinstance(op, Binfmt))
    said = explain(plan, Report(1, index, 2, ""))
    assert said.message == (
        "cannot run programs of another CPU with /usr/bin/qemu-aarch64-static: "
        "it is not in the monitor's view of the host"
    )


# ---- the host's interpreters ----


def elf(*kinds: int) -> bytes:
    head = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64,
                                                    56, len(kinds), 0, 0, 0)  # fmt: skip
    return head + b"".join(struct.pack("<I", kind) + bytes(52) for kind in kinds)


@pytest.mark.parametrize(
    "data, static",
    [(elf(1), True), (elf(6, 3, 1), False), (elf(1)[:66], False), (b"#!/bin/sh\n", False),
     (b"", False)],
)  # fmt: skip
def test_only_a_program_that_stands_alone_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, static: bool
) -> None:
    program = tmp_path / "qemu-aarch64-static"
    program.write_bytes(data)
    program.chmod(0o755)
    monkeypatch.setattr(interpreters, "DIRECTORIES", (str(tmp_path / "none"), str(tmp_path)))
    assert interpreters.find_interpreter("aarch64") == (str(program) if static else "")
    program.chmod(0o644)
    assert interpreters.find_interpreter("riscv64") == ""


def test_a_name_without_static_serves_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newer distributions call the static programs so."""
    (tmp_path / "qemu-arm").write_bytes(elf(1))
    (tmp_path / "qemu-arm").chmod(0o755)
    monkeypatch.setattr(interpreters, "DIRECTORIES", (str(tmp_path),))
    assert interpreters.find_interpreter("arm") == str(tmp_path / "qemu-arm")


def test_a_loader_is_found_in_real_programs() -> None:
    dynamic = shutil.which("ls")
    assert dynamic and not interpreters.is_static(dynamic)
