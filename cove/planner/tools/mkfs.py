"""The tools of volumes that are disks: mkfs.ext4, which reads a tree with names and files of
strangers, and e2fsck, which reads a file system that a guest wrote.
"""

from __future__ import annotations

from cove.plan.facts import Facts
from cove.plan.ops import Plan
from cove.planner.place import Place
from cove.planner.tools.alone import plan_alone
from cove.spec.machine import MachineSpec, Mount

MKFS, FSCK = "/usr/sbin/mkfs.ext4", "/usr/sbin/e2fsck"
TREE, OUT = "tree", "out"
"""Directories: what becomes the root of the disk, and where a file ``disk`` is, of its size."""
CAPABILITIES = ("DAC_READ_SEARCH", "DAC_OVERRIDE")
_WHY = "a volume's disk: who reads what strangers wrote sees nothing else of the host"
_WORDS = ("-q", "-F", "-m", "0", "-O", "^resize_inode",
          "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0")  # fmt: skip


def mkfs_spec(tree: str, out: str) -> MachineSpec:
    return MachineSpec(
        image="",
        mounts=(
            Mount("bind", f"/{TREE}", tree, read_only=True, origin=_WHY),
            Mount("bind", f"/{OUT}", out, origin=_WHY),
        ),
    )


def plan_mkfs(spec: MachineSpec, facts: Facts, place: Place) -> Plan:
    argv = (MKFS, *_WORDS, "-d", f"/{TREE}", f"/{OUT}/disk")
    return plan_alone(spec, facts, place, argv=argv, capabilities=CAPABILITIES, why=_WHY)


def replay_spec(disk: str) -> MachineSpec:
    return MachineSpec(image="", mounts=(Mount("bind", "/disk", disk, origin=_WHY),))


def plan_replay(spec: MachineSpec, facts: Facts, place: Place) -> Plan:
    """Its journal, into its place: who only reads a disk cannot do that."""
    argv = (FSCK, "-y", "-E", "journal_only", "/disk")
    return plan_alone(spec, facts, place, argv=argv, capabilities=CAPABILITIES, why=_WHY)
