"""Limits as control groups of every version take them: checked by the flag they came from, and in
the kernel's units. It writes nothing.
"""

from __future__ import annotations

from cove.errors import Unsupported, UsageError
from cove.linux.cgroups.files import read_lines
from cove.plan.facts import Facts
from cove.spec.machine import Limits

PERIOD = 100_000
"""Microseconds in which a share of CPU time is counted."""
MEMORY_MIN = 6 << 20
"""Bytes; Docker's minimum."""


def check_limits(limits: Limits, facts: Facts) -> None:
    """Refuse what no group could enforce, by the flag it came from."""
    memory, swap = limits.memory, limits.memory_swap
    if 0 < memory < MEMORY_MIN:
        raise _refused("memory", memory, "--memory", memory, "the minimum is 6m")
    if swap > 0 and not memory:
        raise UsageError(
            "cannot limit memory and swap: it needs a memory limit as well",
            origin=f"--memory-swap {swap}",
            hint="add --memory",
        )
    if 0 < swap < memory:
        raise _refused(
            "memory and swap", swap, "--memory-swap", swap, "it is less than the memory limit"
        )
    if limits.memory_reservation and 0 < memory < limits.memory_reservation:
        value = limits.memory_reservation
        raise _refused(
            "memory", memory, "--memory-reservation", value, "the reservation is greater than it"
        )
    if swap > 0 and swap != memory and not facts.swap:
        raise Unsupported(
            "cannot limit swap: this kernel does not count swap of control groups",
            origin=f"--memory-swap {swap}",
            host="swapaccount is off",
        )
    if limits.cpus and not 0.01 <= limits.cpus <= facts.cpus:
        raise UsageError(
            f"cannot limit CPUs to {limits.cpus:g}: this host has {facts.cpus}",
            origin=f"--cpus {limits.cpus:g}",
            hint=f"from 0.01 to {facts.cpus}",
        )
    if limits.pids < -1:
        raise UsageError(
            "cannot limit processes: less than -1", origin=f"--pids-limit {limits.pids}"
        )


def check_online(limits: Limits) -> None:
    """Refuse CPUs and memory nodes that this host does not have."""
    for kind, place, value in (
        ("cpus", "cpu", limits.cpuset_cpus),
        ("mems", "node", limits.cpuset_mems),
    ):
        have = "".join(read_lines(f"/sys/devices/system/{place}/online")).strip()
        if value and have and numbers(value) - numbers(have):
            raise UsageError(
                f"cannot use {kind} {value} of this host's {have}: out of range",
                origin=f"--cpuset-{kind} {value}",
            )


def numbers(text: str) -> set[int]:
    """``0-2,5`` as a set."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def controller(facts: Facts, name: str, *, flag: str) -> str:
    """The hierarchy of a controller some flag needs."""
    path = facts.controllers.get(name)
    if path is None:
        raise Unsupported(
            f"cannot use {flag}: this host has no {name} control groups",
            origin=flag,
            host=f"cgroup {facts.cgroup} with {', '.join(sorted(facts.controllers)) or 'nothing'}",
        )
    return path


def size_text(size: int) -> str:
    """As Docker takes it: 512m, 1g, 4096."""
    for shift, unit in ((30, "g"), (20, "m"), (10, "k")):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return str(size)


def swap_limit(limits: Limits) -> int:
    """Memory and swap together, as Docker has it: twice the memory unless said. -1: unlimited."""
    if limits.memory <= 0:
        return -1
    return limits.memory_swap or 2 * limits.memory


def _refused(what: str, amount: int, flag: str, value: int, why: str) -> UsageError:
    return UsageError(
        f"cannot limit {what} to {size_text(amount)}: {why}", origin=f"{flag} {size_text(value)}"
    )
