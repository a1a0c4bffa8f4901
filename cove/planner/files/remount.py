"""The plans that mount something in a machine that runs, or unmount it: by a process that joins the
machine's ids and mounts, and that nobody in it can see.
"""

from __future__ import annotations

from cove.plan.facts import Facts
from cove.plan.flags import Capability, CloneFlags, OpenTreeFlags, PrctlOption
from cove.plan.ops import (
    NONE,
    Archive,
    Capbset,
    Capset,
    Clone3,
    Op,
    OpenTree,
    Plan,
    Prctl,
    Recv,
    Send,
    Setids,
    Setns,
    Stdio,
    Umount,
)
from cove.planner.files.archive import ends_with_daemon
from cove.planner.files.mounts import ROOT, attach, set_attributes
from cove.planner.place import Place
from cove.planner.process import die_with_monitor
from cove.planner.walls import walls_of
from cove.spec.machine import MachineSpec

_WHY = "update: mounts of a machine that runs"


def plan_attach(spec: MachineSpec, facts: Facts, place: Place) -> Plan:
    """``spec``: the machine's, with the new mounts alone, whose sources are registers; so are
    ``userns``, the machine's user namespace, and ``target``, its first process.
    """
    userns = walls_of(spec, facts).userns
    here = OpenTree(ROOT, NONE, "/", OpenTreeFlags(0), why=_WHY)
    changes = (here, *attach(spec, place))
    return _plan(changes, set_attributes(spec, place, userns=userns), userns=userns)


def plan_detach(spec: MachineSpec, facts: Facts, targets: tuple[str, ...]) -> Plan:
    changes = tuple(Umount(target, why=f"--mount-rm {target}") for target in targets)
    return _plan(changes, (), userns=walls_of(spec, facts).userns)


def _plan(changes: tuple[Op, ...], before: tuple[Op, ...], *, userns: bool) -> Plan:
    kinds = CloneFlags.CLONE_NEWNS | (CloneFlags.CLONE_NEWUSER if userns else CloneFlags(0))
    none = Capability(0)
    return ends_with_daemon(
        Plan(
            host=(*before, Clone3(CloneFlags(0), NONE, why=_WHY), Send(why=_WHY)),
            machine=(
                *die_with_monitor(),
                Recv(why=_WHY),
                Setns("target", kinds, why=_WHY),
                *((Setids(0, 0, why=_WHY),) if userns else ()),
                *changes,
                Stdio(why=_WHY),
                Capbset(none, why=_WHY),
                Capset(none, why=_WHY),
                Prctl(PrctlOption.PR_SET_NO_NEW_PRIVS, 1, why=_WHY),
                Archive("stat", ("/",), why=_WHY),
            ),
        )
    )
