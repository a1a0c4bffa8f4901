"""Docker's seccomp profiles in JSON (``--security-opt seccomp=FILE``) as filters.

The text comes from the user; every part of it that is not understood is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Literal

import msgspec

from cove.errors import Unsupported, UsageError
from cove.planner.seccomp import bpf
from cove.planner.seccomp.bpf import Arg, Branch, Comparison, Leaf
from cove.planner.seccomp.filters import ENOSYS, EPERM, arches_of
from cove.planner.seccomp.numbers import AUDIT_ARCH, numbers

ORIGIN = "--security-opt seccomp=FILE"

Action = Literal[
    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP", "SCMP_ACT_TRACE", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY",
]  # fmt: skip
Operator = Literal[
    "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
]  # fmt: skip

_COMPARISONS: Final[dict[str, Comparison]] = {
    "SCMP_CMP_NE": "ne",
    "SCMP_CMP_LT": "lt",
    "SCMP_CMP_LE": "le",
    "SCMP_CMP_EQ": "eq",
    "SCMP_CMP_GE": "ge",
    "SCMP_CMP_GT": "gt",
    "SCMP_CMP_MASKED_EQ": "masked_eq",
}
_GO_ARCH: Final = {"x86_64": "amd64", "i386": "x86", "aarch64": "arm64"}
_SCMP_ARCH: Final = {
    "x86_64": "SCMP_ARCH_X86_64",
    "i386": "SCMP_ARCH_X86",
    "aarch64": "SCMP_ARCH_AARCH64",
}


class ProfileArg(msgspec.Struct, frozen=True, rename="camel"):
    index: int
    value: int
    op: Operator
    value_two: int = 0


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """``includes`` or ``excludes`` of a rule."""

    caps: tuple[str, ...] | None = None
    arches: tuple[str, ...] | None = None
    min_kernel: str | None = None


class ProfileRule(msgspec.Struct, frozen=True, rename="camel"):
    action: Action
    names: tuple[str, ...] | None = None
    name: str = ""
    args: tuple[ProfileArg, ...] | None = None
    errno_ret: int | None = None
    comment: str = ""
    includes: Condition | None = None
    excludes: Condition | None = None


class ArchMap(msgspec.Struct, frozen=True, rename="camel"):
    architecture: str
    sub_architectures: tuple[str, ...] | None = None


class Profile(msgspec.Struct, frozen=True, rename="camel"):
    default_action: Action
    default_errno_ret: int | None = None
    arch_map: tuple[ArchMap, ...] | None = None
    architectures: tuple[str, ...] | None = None
    syscalls: tuple[ProfileRule, ...] | None = None
    flags: tuple[str, ...] | None = None


# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
_decode = msgspec.json.Decoder(Profile).decode


@lru_cache(maxsize=32)
def compile_profile(
    text: str, machine: str, caps: frozenset[str], kernel: tuple[int, int]
) -> bytes:
    """The filter of a profile for a machine with these capabilities on this kernel."""
    try:
        profile = _decode(text)
    except msgspec.DecodeError as error:
        raise UsageError(f"cannot read the seccomp profile: {error}", origin=ORIGIN) from None
    default = Leaf(_verdict(profile.default_action, profile.default_errno_ret))
    arches = arches_of(machine)
    rules = [
        rule for rule in profile.syscalls or () if _holds(rule, _GO_ARCH[arches[0]], caps, kernel)
    ]
    tables = {
        AUDIT_ARCH[arch]: _leaves(arch, rules, profile, default)
        for arch in arches
        if arch in _wanted(profile, arches)
    }
    beyond = Leaf(bpf.errno(ENOSYS))
    return bpf.assemble(
        tables, default=beyond if default.verdict != bpf.ALLOW else default, beyond=beyond
    )


def _wanted(profile: Profile, arches: tuple[str, ...]) -> set[str]:
    """The native architecture, and the others the profile names beside it."""
    named = set(profile.architectures or ())
    for entry in profile.arch_map or ():
        if entry.architecture == _SCMP_ARCH[arches[0]]:
            named.update(entry.sub_architectures or ())
    return {arch for arch in arches if arch == arches[0] or _SCMP_ARCH[arch] in named}


def _holds(rule: ProfileRule, arch: str, caps: frozenset[str], kernel: tuple[int, int]) -> bool:
    """As Docker reads it: every capability of ``includes``, none of ``excludes``."""
    includes, excludes = rule.includes or Condition(), rule.excludes or Condition()
    if any(_bare(cap) not in caps for cap in includes.caps or ()):
        return False
    if any(_bare(cap) in caps for cap in excludes.caps or ()):
        return False
    if includes.arches and arch not in includes.arches:
        return False
    if arch in (excludes.arches or ()):
        return False
    if includes.min_kernel and kernel < _kernel(includes.min_kernel):
        return False
    return not (excludes.min_kernel and kernel >= _kernel(excludes.min_kernel))


def _bare(cap: str) -> str:
    return cap.removeprefix("CAP_")


def _kernel(text: str) -> tuple[int, int]:
    try:
        major, minor = text.split(".")
        return int(major), int(minor)
    except ValueError:
        raise UsageError(
            f'cannot read the seccomp profile: minKernel "{text}" is not MAJOR.MINOR',
            origin=ORIGIN,
        ) from None


def _leaves(
    arch: str, rules: list[ProfileRule], profile: Profile, default: Leaf
) -> Mapping[int, Leaf]:
    """Known calls to leaves. Beyond the newest call the profile knows, calls are ENOSYS: it was
    written before they were, and programs fall back (runc does the same).
    """
    known = numbers(arch)
    branches: dict[int, list[Branch]] = {}
    always: dict[int, int] = {}
    for rule in rules:
        verdict = _verdict(
            rule.action, rule.errno_ret if rule.errno_ret is not None else profile.default_errno_ret
        )
        for name in rule.names or ((rule.name,) if rule.name else ()):
            number = known.get(name)
            if number is None:
                continue
            if rule.args:
                branches.setdefault(number, []).extend(
                    Branch(args, verdict) for args in _alternatives(rule.args)
                )
            else:
                always.setdefault(number, verdict)
    named = {n for rule in profile.syscalls or () for n in (rule.name, *(rule.names or ()))}
    newest = max((known.get(name, 0) for name in named), default=0)
    leaves: dict[int, Leaf] = {}
    for number in known.values():
        if number in always or number in branches:
            verdict = always.get(number, default.verdict)
            found = tuple(b for b in branches.get(number, ()) if b.verdict != verdict)
            leaves[number] = Leaf(verdict, found)
        elif number <= newest or default.verdict == bpf.ALLOW:
            leaves[number] = default
    return leaves


def _alternatives(args: tuple[ProfileArg, ...]) -> list[tuple[Arg, ...]]:
    """All conditions must hold; but two on one argument mean either, as in runc."""
    made = tuple(_arg(arg) for arg in args)
    indexes = [arg.index for arg in made]
    if len(set(indexes)) < len(indexes):
        return [(arg,) for arg in made]
    return [made]


def _arg(arg: ProfileArg) -> Arg:
    if not 0 <= arg.index <= 5:
        raise UsageError(
            f"cannot read the seccomp profile: there is no argument {arg.index}", origin=ORIGIN
        )
    if arg.op == "SCMP_CMP_MASKED_EQ":
        return Arg(arg.index, "masked_eq", arg.value_two & _U64, arg.value & _U64)
    return Arg(arg.index, _COMPARISONS[arg.op], arg.value & _U64)


_U64 = (1 << 64) - 1


def _verdict(action: Action, number: int | None) -> int:
    if action == "SCMP_ACT_NOTIFY":
        raise Unsupported(
            "cannot use this seccomp profile: SCMP_ACT_NOTIFY needs an agent", origin=ORIGIN
        )
    if action == "SCMP_ACT_ERRNO":
        return bpf.errno(EPERM if number is None else number)
    if action == "SCMP_ACT_TRACE":
        return bpf.TRACE | ((EPERM if number is None else number) & 0xFFFF)
    return {
        "SCMP_ACT_ALLOW": bpf.ALLOW,
        "SCMP_ACT_LOG": bpf.LOG,
        "SCMP_ACT_TRAP": bpf.TRAP,
        "SCMP_ACT_KILL": bpf.KILL_THREAD,
        "SCMP_ACT_KILL_THREAD": bpf.KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS": bpf.KILL_PROCESS,
    }[action]
