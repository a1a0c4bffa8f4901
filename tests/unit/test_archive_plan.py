"""The plans of cp, export, diff and commit: what stands around the process that reads a machine's
files.
"""

from __future__ import annotations

import dataclasses

import pytest

from cove.plan import ops, wire
from cove.plan.flags import Capability, CloneFlags, MountAttr, PrctlOption
from cove.plan.ops import Plan
from cove.planner.files.archive import plan_layer, plan_running, plan_stopped
from cove.spec.machine import MachineSpec, Mount, Security
from tests.golden.cases import load_facts, make_place

FACTS = load_facts("debian12-hybrid")
PLACE = dataclasses.replace(make_place(FACTS, {}), binds=())
HOSTED = dataclasses.replace(PLACE, views=("/usr", "/var/lib/dpkg"))
SPEC = MachineSpec(image="bb", mounts=(Mount("tmpfs", "/t"),))
OUT = ("out", "/etc", "etc", "0")

PLANS = {
    "running": plan_running(SPEC, FACTS, PLACE, OUT),
    "running bare": plan_running(SPEC, FACTS, HOSTED, OUT, bare=True),
    "stopped": plan_stopped(SPEC, FACTS, PLACE, OUT),
    "stopped bare": plan_stopped(SPEC, FACTS, HOSTED, OUT, bare=True),
    "layer": plan_layer(PLACE, "layer"),
    "layer of the host image": plan_layer(HOSTED, "diff"),
}


@pytest.fixture(params=PLANS)
def plan(request: pytest.FixtureRequest) -> Plan:
    return PLANS[request.param]


def test_it_travels(plan: Plan) -> None:
    assert wire.decode(wire.encode(plan.host)) == plan.host
    assert wire.decode(wire.encode(plan.machine)) == plan.machine
    assert all(op.why for op in (*plan.host, *plan.machine))


def test_privileges_go_before_a_file_is_read(plan: Plan) -> None:
    *_, stdio, capbset, capset, privileges, archive = plan.machine
    assert isinstance(stdio, ops.Stdio) and isinstance(archive, ops.Archive)
    assert isinstance(capbset, ops.Capbset) and isinstance(capset, ops.Capset)
    assert isinstance(privileges, ops.Prctl)
    assert privileges.option == PrctlOption.PR_SET_NO_NEW_PRIVS
    assert bin(int(capset.mask)).count("1") <= 6
    never = Capability.CAP_SYS_PTRACE | Capability.CAP_SYS_MODULE | Capability.CAP_MKNOD
    assert not capset.mask & never


def test_the_machine_does_not_see_it(plan: Plan) -> None:
    """It joins ids and mounts, never processes, and no group that could be frozen."""
    joined = [op.flags for op in plan.machine if isinstance(op, ops.Setns)]
    assert not any(kinds & CloneFlags.CLONE_NEWPID for kinds in joined)
    assert not [op for op in plan.machine if isinstance(op, ops.CgroupAttach)]


def test_it_leaves_the_hosts_root(plan: Plan) -> None:
    kinds = {type(op) for op in plan.machine}
    assert ops.PivotRoot in kinds or ops.Setns in kinds


def test_only_a_layer_is_read_outside_a_user_namespace() -> None:
    for name, made in PLANS.items():
        mapped = any(isinstance(op, ops.IdMap) for op in made.host)
        joined = any(
            isinstance(op, ops.Setns) and op.flags & CloneFlags.CLONE_NEWUSER for op in made.machine
        )
        assert (mapped or joined) == (not name.startswith("layer")), name
    shut = [op for op in PLANS["layer"].machine if isinstance(op, ops.MountSetattr)][1:]
    assert len(shut) == 2
    for op in shut:
        assert (
            op.attr_set & MountAttr.MOUNT_ATTR_RDONLY and op.attr_set & MountAttr.MOUNT_ATTR_NODEV
        )


def test_a_stopped_machine_gets_no_tmpfs() -> None:
    """What is copied into one would be gone with it."""
    assert not [op for op in PLANS["stopped"].machine if isinstance(op, ops.Fsmount)]


def test_a_privileged_machine_is_entered_as_it_is() -> None:
    spec = MachineSpec(image="bb", security=Security(privileged=True))
    made = plan_running(spec, FACTS, PLACE, OUT)
    (joined,) = (op.flags for op in made.machine if isinstance(op, ops.Setns))
    assert joined == CloneFlags.CLONE_NEWNS
    stopped = plan_stopped(spec, FACTS, PLACE, OUT)
    assert any(isinstance(op, ops.IdMap) for op in stopped.host)
