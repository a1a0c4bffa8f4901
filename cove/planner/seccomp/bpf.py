"""Classic BPF for seccomp: a balanced tree over call numbers, and comparisons of arguments.

Pure code generation: which calls and which verdicts is decided elsewhere.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

ALLOW = 0x7FFF0000
LOG = 0x7FFC0000
TRACE = 0x7FF00000
TRAP = 0x00030000
KILL_THREAD = 0x00000000
KILL_PROCESS = 0x80000000
X32_BIT = 0x40000000

_NR, _ARCH, _ARGS = 0, 4, 16  # struct seccomp_data
_LD, _JEQ, _JGT, _JGE, _JSET, _JA, _AND, _RET = 0x20, 0x15, 0x25, 0x35, 0x45, 0x05, 0x54, 0x06
_LOW = 0xFFFFFFFF
_NEAR = 255
"""A conditional jump reaches this far; further ones go through an unconditional one."""

Comparison = Literal["eq", "ne", "lt", "le", "gt", "ge", "masked_eq", "low_eq", "low_masked_eq"]

Instruction = tuple[int, int, int, int]
Block = list[Instruction]


def errno(number: int) -> int:
    """The verdict: the call fails with this errno."""
    return 0x00050000 | (number & 0xFFFF)


@dataclass(frozen=True, slots=True)
class Arg:
    """A comparison of one argument. ``low_*`` look at 32 bits, as the kernel does with an int."""

    index: int
    op: Comparison
    value: int
    mask: int = 0


@dataclass(frozen=True, slots=True)
class Branch:
    """A verdict under conditions, all of which must hold."""

    args: tuple[Arg, ...]
    verdict: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """What happens to a call: the first branch that holds, else ``verdict``."""

    verdict: int
    branches: tuple[Branch, ...] = ()


def assemble(tables: Mapping[int, Mapping[int, Leaf]], *, default: Leaf, beyond: Leaf) -> bytes:
    """A filter: by AUDIT_ARCH the leaves of its call numbers.

    ``default`` is for numbers without a leaf, ``beyond`` for x32 and for other architectures.
    """
    code: Block = [_ret(beyond.verdict)]
    for arch, leaves in tables.items():
        section = [(_LD, 0, 0, _NR), *_tree(_ranges(leaves, default, beyond))]
        code = [*_if_equal(arch, section), *code]
    return pack([(_LD, 0, 0, _ARCH), *code])


def pack(code: Block) -> bytes:
    """As struct sock_filter."""
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _ret(verdict: int) -> Instruction:
    return (_RET, 0, 0, verdict)


def _if_equal(value: int, block: Block) -> Block:
    """Run ``block``, which returns, if the accumulator is ``value``; else go on behind it."""
    return [(_JEQ, 1, 0, value), (_JA, 0, 0, len(block)), *block]


def _ranges(leaves: Mapping[int, Leaf], default: Leaf, beyond: Leaf) -> list[tuple[int, Leaf]]:
    """Starts of ranges of numbers that share a leaf, ascending, beginning with 0."""
    ranges: list[tuple[int, Leaf]] = [(0, default)]
    for number in sorted(leaves):
        for at, leaf in ((number, leaves[number]), (number + 1, default)):
            if ranges[-1][0] == at:
                ranges.pop()
            if not ranges or ranges[-1][1] != leaf:
                ranges.append((at, leaf))
    ranges.append((X32_BIT, beyond))
    return ranges


def _tree(ranges: Sequence[tuple[int, Leaf]]) -> Block:
    if len(ranges) == 1:
        return _leaf(ranges[0][1])
    middle = len(ranges) // 2
    left, right = _tree(ranges[:middle]), _tree(ranges[middle:])
    pivot = ranges[middle][0]
    if len(left) <= _NEAR:
        return [(_JGE, len(left), 0, pivot), *left, *right]
    return [(_JGE, 0, 1, pivot), (_JA, 0, 0, len(left)), *left, *right]


def _leaf(leaf: Leaf) -> Block:
    code: Block = []
    for branch in leaf.branches:
        code += _branch(branch)
    return [*code, _ret(leaf.verdict)]


def _branch(branch: Branch) -> Block:
    """The verdict if all comparisons hold; else fall through to what follows."""
    code: Block = [_ret(branch.verdict)]
    for arg in reversed(branch.args):
        code = [*_compare(arg, len(code)), *code]
    return code


def _compare(arg: Arg, rest: int) -> Block:
    """Fall through when it holds, else jump over the ``rest`` instructions that follow."""
    low, high = _ARGS + 8 * arg.index, _ARGS + 8 * arg.index + 4
    value_low, value_high = arg.value & _LOW, arg.value >> 32
    if arg.op == "low_eq":
        return [(_LD, 0, 0, low), (_JEQ, 0, rest, value_low)]
    if arg.op == "low_masked_eq":
        mask = (_AND, 0, 0, arg.mask & _LOW)
        return [(_LD, 0, 0, low), mask, (_JEQ, 0, rest, value_low)]
    if arg.op == "eq":
        second = [(_LD, 0, 0, low), (_JEQ, 0, rest, value_low)]
        return [(_LD, 0, 0, high), (_JEQ, 0, rest + 2, value_high), *second]
    if arg.op == "ne":
        second = [(_LD, 0, 0, low), (_JEQ, rest, 0, value_low)]
        return [(_LD, 0, 0, high), (_JEQ, 0, 2, value_high), *second]
    if arg.op == "masked_eq":
        return [
            (_LD, 0, 0, high),
            (_AND, 0, 0, arg.mask >> 32),
            (_JEQ, 0, rest + 3, value_high),
            (_LD, 0, 0, low),
            (_AND, 0, 0, arg.mask & _LOW),
            (_JEQ, 0, rest, value_low),
        ]
    jump = _JGE if arg.op in ("ge", "lt") else _JGT
    first: Block = [(_LD, 0, 0, high)]
    if arg.op in ("gt", "ge"):
        first += [(_JGT, 3, 0, value_high), (_JEQ, 0, rest + 2, value_high)]
        return [*first, (_LD, 0, 0, low), (jump, 0, rest, value_low)]
    first += [(_JGT, rest + 3, 0, value_high), (_JEQ, 0, 2, value_high)]
    return [*first, (_LD, 0, 0, low), (jump, rest, 0, value_low)]
