"""Control groups of machines: one group a machine, below one directory a state root, on cgroup v1,
v2 and the hybrid of both. Nothing outside ``cove-<hash of the state root>`` is ever touched.

Groups are made ahead by ``fill``, because making one in several v1 hierarchies costs as much as
half a machine's start.
"""

from __future__ import annotations

from cove.linux.cgroups.driver import Cgroups, Counters, Event, Group, Stats
from cove.linux.cgroups.limits import check_limits, check_online
from cove.linux.cgroups.v1 import CgroupsV1
from cove.linux.cgroups.v2 import CgroupsV2
from cove.plan.facts import Facts

__all__ = [
    "Cgroups",
    "Counters",
    "Event",
    "Group",
    "Stats",
    "check_limits",
    "check_online",
    "open_cgroups",
]


def open_cgroups(facts: Facts, root: str) -> Cgroups:
    """The driver for this host."""
    driver = CgroupsV2 if facts.cgroup == "v2" else CgroupsV1
    return driver(facts, root)
