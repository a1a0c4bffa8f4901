"""Seccomp filters: cove's default, and Docker's JSON profiles, compiled by the same code.

Two filters make the default. The first, not logged, answers ENOSYS to what does not exist here
(unknown numbers, x32, clone3), so that programs fall back and the audit log stays quiet. The
second, logged, refuses with EPERM what no rule allows, so that a refusal can be named.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Final

import cove.planner.capabilities as capabilities
from cove.errors import Unsupported
from cove.planner.seccomp.bpf import ALLOW, Arg, Branch, Leaf, assemble, errno
from cove.planner.seccomp.numbers import AUDIT_ARCH, numbers
from cove.planner.seccomp.rules import (
    ALLOWED,
    BY_CAPABILITY,
    CONDITIONAL,
    MISSING,
    TERMINAL_INJECTION,
    Rule,
)

EPERM, ENOSYS = 1, 38
ALL_CAPABILITIES = capabilities.NAMES

ARCHES: Final = {"x86_64": ("x86_64", "i386"), "aarch64": ("aarch64",)}
"""What a host of an architecture runs: i386 programs too, by their own table; no 32-bit ARM."""

_ALLOWED = Leaf(ALLOW)
_REFUSED = Leaf(errno(EPERM))
_MISSING = Leaf(errno(ENOSYS))


def arches_of(machine: str) -> tuple[str, ...]:
    """Tables for a host, its own first."""
    found = ARCHES.get(machine)
    if found is None:
        raise Unsupported(
            f"cannot filter system calls of {machine}: no table for it",
            hint="--security-opt seccomp=unconfined runs without a filter",
        )
    return found


@cache
def compile_missing(machine: str, caps: frozenset[str]) -> bytes:
    """The first filter: ENOSYS for what does not exist here; everything else passes."""
    allowed_anyway = {name for rule in _rules(caps) for name in rule.names}
    tables: dict[int, dict[int, Leaf]] = {}
    for arch in arches_of(machine):
        table = dict.fromkeys(numbers(arch).values(), _ALLOWED)
        for name in MISSING:
            if name in numbers(arch) and name not in allowed_anyway:
                table[numbers(arch)[name]] = _MISSING
        tables[AUDIT_ARCH[arch]] = table
    return assemble(tables, default=_MISSING, beyond=_MISSING)


@cache
def compile_default(machine: str, caps: frozenset[str]) -> bytes:
    """The second filter: what the rules allow a machine with these capabilities."""
    tables = {AUDIT_ARCH[arch]: default_leaves(arch, _rules(caps)) for arch in arches_of(machine)}
    return assemble(tables, default=_ALLOWED, beyond=_ALLOWED)


def default_leaves(arch: str, rules: Iterable[Rule]) -> dict[int, Leaf]:
    """Every known call of an architecture to its leaf."""
    known = numbers(arch)
    branches: dict[str, list[Branch]] = {}
    open_calls: set[str] = set()
    for rule in rules:
        for name in rule.names:
            if rule.args:
                branches.setdefault(name, []).append(Branch(rule.args, ALLOW))
            else:
                open_calls.add(name)
    leaves: dict[int, Leaf] = {}
    for name, number in known.items():
        if name in open_calls or name in MISSING:
            leaves[number] = _ALLOWED
        elif name in branches:
            leaves[number] = Leaf(errno(EPERM), tuple(branches[name]))
        else:
            leaves[number] = _REFUSED
    leaves[known["ioctl"]] = Leaf(
        ALLOW,
        tuple(Branch((Arg(1, "low_eq", request),), errno(EPERM)) for request in TERMINAL_INJECTION),
    )
    return leaves


def _rules(caps: frozenset[str]) -> tuple[Rule, ...]:
    """The rules that hold for these capabilities."""
    chosen = []
    for rule in (*ALLOWED, *CONDITIONAL, *BY_CAPABILITY):
        if rule.caps and not caps.intersection(rule.caps):
            continue
        if rule.unless_caps and caps.intersection(rule.unless_caps):
            continue
        chosen.append(rule)
    return tuple(chosen)
