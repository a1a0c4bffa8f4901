"""Which devices a machine may open, wherever a node of one lies: a program for its control group.

Its own /dev has no other nodes, but directories of the host that are bound into it may. Rules are
Docker's, and those of devices.allow in cgroup v1: ``c 1:3 rwm``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from cove.errors import HostError
from cove.plan.ops import AnyDevice, DeviceList, Op
from cove.planner.files.devices import NODES, TTY
from cove.planner.place import Place
from cove.planner.walls import Walls
from cove.planner.why import default
from cove.spec.machine import MachineSpec

ANY: Final = -1

MKNOD, READ, WRITE = 1, 2, 4  # BPF_DEVCG_ACC_*
ACCESS: Final = {"m": MKNOD, "r": READ, "w": WRITE}
WHOLE: Final = MKNOD | READ | WRITE


class Rule(NamedTuple):
    """Of devices that may be used."""

    kind: str
    """``c``, ``b``, or ``a`` for both."""
    major: int
    """``ANY``, or a number; so is ``minor``."""
    minor: int
    access: int = WHOLE


OWN: Final = (
    *(Rule("c", major, minor) for _, major, minor, *_ in (*NODES, TTY)),
    Rule("c", 5, 2),  # ptmx
    Rule("c", 136, ANY),  # terminals
    Rule("a", ANY, ANY, MKNOD),  # as in Docker: a node that cannot be opened does no harm
)
"""Of every machine."""

EVERYTHING: Final = Rule("a", ANY, ANY)


def parse_rule(text: str) -> Rule:
    """``c 188:* rwm``, a rule whose form has been checked."""
    kind, numbers, access = text.split(" ")
    major, minor = (ANY if n == "*" else int(n) for n in numbers.split(":"))
    return Rule(kind, major, minor, _bits(access))


def _bits(access: str) -> int:
    return sum(ACCESS[letter] for letter in set(access))


def lifted(spec: MachineSpec, walls: Walls) -> str:
    """Why this machine has no list; empty: it has."""
    if walls.privileged:
        return "--privileged"
    every = (text for text in spec.device_rules if parse_rule(text) == EVERYTHING)
    return next((f"--device-cgroup-rule '{text}'" for text in every), "")


@lru_cache(maxsize=4)
def own_list(why_not: str, *, cgroup_into: bool) -> tuple[Op, ...]:
    """Of a machine for which nothing is asked; ``why_not``: what lifted it."""
    if not cgroup_into:
        return ()
    if why_not:
        return (AnyDevice("cgroup", why=f"{why_not}: every device"),)
    names = " ".join(name for name, *_ in (*NODES, TTY))
    why = default(f"only {names} and terminals open, whatever nodes a bind shows")
    return (DeviceList("cgroup", program(OWN), why=why),)


def asked_list(spec: MachineSpec, place: Place, walls: Walls) -> tuple[Op, ...]:
    """In the place of the default one, for who has devices of the host's."""
    if lifted(spec, walls):
        return ()
    rules = (*_given(spec, place), *map(parse_rule, spec.device_rules))
    if not place.cgroup_into:
        _refuse_part(spec)
    if not rules or not place.cgroup_into:
        return ()
    asked = [device.origin for device in spec.devices]
    asked += [f"--device-cgroup-rule '{text}'" for text in spec.device_rules]
    why = ", ".join(asked) or "--isolation vm: and KVM"
    return (DeviceList("cgroup", program((*OWN, *rules)), why=why),)


def _refuse_part(spec: MachineSpec) -> None:
    """Without a list a node opens as its mode says."""
    for device in spec.devices:
        if not {"r", "w"} <= set(device.access):
            raise HostError(
                f'cannot give {device.source} with the access "{device.access}" alone',
                origin=device.origin,
                host="cgroup2 is not mounted: no device can be kept from a machine's group",
            )


def _given(spec: MachineSpec, place: Place) -> Iterator[Rule]:
    """A jail's device is in its place alone."""
    accesses = [_bits(device.access) for device in spec.devices] or [WHOLE] * len(place.devices)
    for (_, kind, major, minor, _), access in zip(place.devices, accesses, strict=True):
        yield Rule(kind, major, minor, access)


# ---- the program, in eBPF ----

_KIND = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*
_LOAD, _AND, _SHIFT, _SET, _JNE, _JSET, _EXIT = 0x61, 0x57, 0x77, 0xB7, 0x55, 0x45, 0x95
_VERDICT, _CONTEXT, _TYPE, _WISH, _MAJOR, _MINOR = 0, 1, 2, 3, 4, 5  # registers
_BEGIN = (
    (_LOAD, _TYPE, _CONTEXT, 0, 0),  # struct bpf_cgroup_dev_ctx: access << 16 | type
    (_LOAD, _WISH, _CONTEXT, 0, 0),
    (_AND, _TYPE, 0, 0, 0xFFFF),
    (_SHIFT, _WISH, 0, 0, 16),
    (_LOAD, _MAJOR, _CONTEXT, 4, 0),
    (_LOAD, _MINOR, _CONTEXT, 8, 0),
)

Instruction = tuple[int, int, int, int, int]
"""Operation, two registers, distance or place, number."""


@lru_cache(maxsize=64)
def program(rules: tuple[Rule, ...]) -> bytes:
    """As struct bpf_insn: 1 for what a rule allows whole, else 0. Rules for one device add up."""
    accesses: dict[tuple[str, int, int], int] = {}
    for kind, major, minor, access in rules:
        for one in "bc" if kind == "a" else kind:
            device = one, major, minor
            accesses[device] = accesses.get(device, 0) | access
    code = list(_BEGIN)
    for (kind, major, minor), access in accesses.items():
        code += _allow(kind, major, minor, access)
    code += [(_SET, _VERDICT, 0, 0, 0), (_EXIT, 0, 0, 0, 0)]
    return b"".join(
        struct.pack("<BBhI", operation, one | other << 4, distance, number)
        for operation, one, other, distance, number in code
    )


def _allow(kind: str, major: int, minor: int, access: int) -> list[Instruction]:
    refused = WHOLE & ~access
    tests = [(_JNE, _TYPE, _KIND[kind])]
    tests += [(_JNE, _MAJOR, major)] if major != ANY else []
    tests += [(_JNE, _MINOR, minor)] if minor != ANY else []
    tests += [(_JSET, _WISH, refused)] if refused else []
    last = len(tests) + 1  # verdict and exit are behind the tests
    return [
        *(
            (operation, register, 0, last - index, number)
            for index, (operation, register, number) in enumerate(tests)
        ),
        (_SET, _VERDICT, 0, 0, 1),
        (_EXIT, 0, 0, 0, 0),
    ]
