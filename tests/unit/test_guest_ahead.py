"""What a template has run is the beginning of every machine's plan in a guest that asks for nothing
special; it reads no disk and knows no machine.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cove.oci.config import ImageConfig
from cove.plan.facts import Facts
from cove.plan.ops import Mount, Plan
from cove.plan.vm_ops import Reseed, Settime
from cove.planner.virtual.guest import (
    Identity,
    guest_facts,
    plan_guest,
    plan_guest_ahead,
    plan_warm,
)
from cove.spec.machine import Limits, MachineSpec, Security

HOST = Path(__file__).parent.parent / "facts/debian12-hybrid.json"
INSIDE = guest_facts(msgspec.json.decode(HOST.read_bytes(), type=Facts), (6, 1), "x86_64")
TEXTS = {"hosts": "h", "hostname": "n", "resolv": "r"}
PLAIN = MachineSpec(image="x", command=("true",))


def planned(spec: MachineSpec, *, machine_id: str = "0" * 32) -> Plan:
    identity = Identity(bytes(64), 1, "1" * 36, machine_id)
    return plan_guest(spec, ImageConfig(), INSIDE, identity, TEXTS, hostname="m")


@pytest.mark.parametrize(
    "spec",
    [
        PLAIN,
        msgspec.structs.replace(PLAIN, remove=True, tty=True, hostname="own"),
        msgspec.structs.replace(PLAIN, limits=Limits(memory=1 << 28, pids=7, cpus=0.5)),
        msgspec.structs.replace(PLAIN, security=Security(read_only=True, cap_drop=("ALL",))),
    ],
)
def test_a_machine_goes_on_where_the_template_stands(spec: MachineSpec) -> None:
    ahead = plan_guest_ahead(INSIDE)
    for machine_id in ("0" * 32, ""):
        plan = planned(spec, machine_id=machine_id)
        rest = plan.after(ahead)
        assert rest is not None
        assert (*ahead.host, *rest.host) == plan.host
        assert (*ahead.machine, *rest.machine) == plan.machine
        assert [type(op) for op in rest.host[:2]] == [Reseed, Settime]


@pytest.mark.parametrize(
    "spec",
    [
        msgspec.structs.replace(PLAIN, limits=Limits(shm=1 << 23)),
        msgspec.structs.replace(PLAIN, sysctls=(("net.ipv4.ip_forward", "1"),)),
        msgspec.structs.replace(PLAIN, security=Security(privileged=True)),
    ],
)
def test_one_that_begins_otherwise_is_told_apart(spec: MachineSpec) -> None:
    assert planned(spec).after(plan_guest_ahead(INSIDE)) is None


def test_what_a_template_has_run_reads_no_disk() -> None:
    ahead = plan_guest_ahead(INSIDE)
    warm, rest = plan_warm(ImageConfig(), INSIDE, TEXTS, command=("/probe",))
    for plan in (ahead, warm):
        assert not [op for op in (*plan.host, *plan.machine) if isinstance(op, Mount)]
    assert {op.type for op in rest.host if isinstance(op, Mount)} == {"erofs", "ext4", "overlay"}
    assert not [op for op in rest.host if isinstance(op, (Reseed, Settime))]
