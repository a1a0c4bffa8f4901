"""What may be asked of a machine that begins with another one's memory: its processes run already,
and stay what they are. Pure.
"""

from __future__ import annotations

import msgspec

from cove.errors import Conflict
from cove.spec.machine import MachineSpec

FREE = {
    "image", "name", "hostname", "domainname", "extra_hosts", "dns", "dns_search", "dns_options",
    "remove", "labels", "annotations", "snapshot", "limits", "stop_signal", "stop_timeout",
    "timeout", "log_driver", "log_max", "log_files", "detach_keys", "isolation", "restart",
    "health", "attached", "stdin_once",
}  # fmt: skip
"""Fields of a spec that are the machine's on the host, or are renewed in a copy."""
LIMITS = ("memory", "cpus", "cpuset_cpus", "shm", "ulimits")
"""Limits that the guest was made with."""


def check_resumable(
    spec: MachineSpec, of: MachineSpec, name: str, *, warm: bool, exit_code: int = 1
) -> None:
    """Whether a machine with ``spec`` can begin from the snapshot of one with ``of``.

    Raises:
        Conflict: it cannot; which field is why.
    """
    if of.remove and not spec.remove:
        raise Conflict(
            f"cannot keep a machine that begins from {name}: that was one to be removed at its "
            "end, with a disk that does not outlive it",
            hint="add --rm",
            exit_code=exit_code,
        )
    if spec.limits.storage != of.limits.storage:
        raise _other(name, "storage limit", exit_code)
    if not warm:
        return
    for field in msgspec.structs.fields(MachineSpec):
        same = getattr(spec, field.name) == getattr(of, field.name)
        if field.name not in FREE and not same:
            raise _other(name, field.name.replace("_", " "), exit_code)
    for limit in LIMITS:
        if getattr(spec.limits, limit) != getattr(of.limits, limit):
            raise _other(name, f"limit of {limit.replace('_', ' ')}", exit_code)


def _other(name: str, what: str, exit_code: int) -> Conflict:
    return Conflict(
        f"cannot begin from {name} with another {what}: its processes run already",
        hint="leave it out, or make a machine of the image: cove run --vm IMAGE",
        exit_code=exit_code,
    )
