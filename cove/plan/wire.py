"""The wire form of one part of a plan: ``cove-plan 1\\0``, then ``name\\0argc\\0arg\\0...``.

``decode`` gives back what ``encode`` was given, but for each op's ``why``, which does not travel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum, IntFlag
from typing import get_type_hints

import cove.plan.vm_ops  # noqa: F401  (puts its ops into the table)
from cove.errors import UsageError
from cove.plan.ops import OPS, Execve, Op

MAGIC = b"cove-plan 1\0"


def encode(ops: Iterable[Op]) -> bytes:
    """One part of a plan as bytes."""
    return MAGIC + b"".join([op._wire or op.wire() for op in ops])


def decode(data: bytes) -> tuple[Op, ...]:
    """The ops of one part; anything that is not exactly a plan is refused."""
    if not data.startswith(MAGIC):
        raise _bad("it does not begin with 'cove-plan 1'")
    if not data.endswith(b"\0"):
        raise _bad("it ends inside a word")
    words = data[len(MAGIC) : -1].decode("utf-8", "surrogateescape").split("\0")
    if words == [""] and len(data) == len(MAGIC):
        return ()
    ops: list[Op] = []
    at = 0
    while at < len(words):
        if at + 2 > len(words):
            raise _bad(f"op {len(ops)} has no number of words")
        name, argc = words[at], _number(words[at + 1], 10, f"op {len(ops)}")
        at += 2
        if at + argc > len(words):
            raise _bad(f"op {len(ops)} ({name}) wants {argc} words, has {len(words) - at}")
        ops.append(_op(name, words[at : at + argc], len(ops)))
        at += argc
    return tuple(ops)


def _op(name: str, words: Sequence[str], index: int) -> Op:
    cls = OPS.get(name)
    if cls is None:
        raise _bad(f"op {index} is {name!r}, which is no op")
    where = f"op {index} ({name})"
    if cls is Execve:
        if not words or _number(words[0], 10, where) >= len(words):
            raise _bad(f"{where} wants more words than it has")
        split = 1 + int(words[0])
        return Execve(tuple(words[1:split]), tuple(words[split:]))
    repeated = bool(cls.FIELDS) and cls.FIELDS[-1][2]
    fixed = len(cls.FIELDS) - repeated
    if len(words) < fixed or (len(words) > fixed and not repeated):
        raise _bad(f"{where} wants {fixed} words, has {len(words)}")
    values: list[object] = []
    types = _types(cls)
    for (field, letter, _), word in zip(cls.FIELDS, words[:fixed], strict=False):
        values.append(_value(types[field], letter, word, where))
    if repeated:
        values.append(tuple(words[fixed:]))
    return cls(*values)


def _value(kind: type, letter: str, word: str, where: str) -> object:
    if letter == "x" and kind is bytes:
        try:
            return bytes.fromhex(word)
        except ValueError:
            raise _bad(f"{where}: {word!r} is not hexadecimal") from None
    if letter in "uox":
        number = _number(word, {"u": 10, "o": 8, "x": 16}[letter], where)
        if issubclass(kind, (IntFlag, IntEnum)):
            try:
                return kind(number)
            except ValueError:
                raise _bad(f"{where}: {word} is no {kind.__name__}") from None
        return number
    return word


def _number(word: str, base: int, where: str) -> int:
    digits = "0123456789abcdef"[:base]
    if not word or any(c not in digits for c in word):
        raise _bad(f"{where}: {word!r} is not a number")
    return int(word, base)


def _types(cls: type[Op]) -> dict[str, type]:
    return get_type_hints(cls)


def _bad(reason: str) -> UsageError:
    return UsageError(f"cannot read the plan: {reason}")
