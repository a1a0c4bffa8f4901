"""A plan as people read it (one op a line, flags by name, ``# why`` behind it), and as JSON.

A seccomp filter is shown by length and hash in text, and whole in JSON.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable
from enum import IntEnum, IntFlag

from cove.errors import printable
from cove.plan.flags import Capability
from cove.plan.ops import KEEP, Execve, Op, Plan

_WHY_COLUMN = 76
_INSTRUCTION = 8  # bytes of one struct sock_filter


def render(plan: Plan) -> str:
    """Both parts, headed, one op a line."""
    machine = "machine: run by the child, inside its new namespaces"
    if plan.guest is not None:
        machine = "jail: run by the child, inside its new namespaces, around the emulator"
    parts = [("host: run by the launcher, outside", plan.host), (machine, plan.machine)]
    if plan.guest is not None:
        parts += [
            ("guest: run by the agent, in the virtual machine", plan.guest.host),
            ("machine: run by its child, inside its new namespaces", plan.guest.machine),
        ]
    return "\n".join(f"# {head}\n" + "".join(_lines(ops)) for head, ops in parts)


def to_data(plan: Plan) -> dict[str, object]:
    """The plan as JSON data: for each op its name, its words by field name, and why."""
    data: dict[str, object] = {
        "host": [_data(op) for op in plan.host],
        "machine": [_data(op) for op in plan.machine],
    }
    if plan.guest is not None:
        data["guest"] = to_data(plan.guest)
    return data


def to_json(plan: Plan) -> str:
    """``to_data`` as text."""
    return json.dumps(to_data(plan), indent=2, ensure_ascii=False) + "\n"


def _lines(ops: Iterable[Op]) -> Iterable[str]:
    for op in ops:
        line = f"{op.NAME:<14} {' '.join(_shown(op))}".rstrip()
        yield f"{line:<{_WHY_COLUMN}}  # {printable(op.why)}\n" if op.why else f"{line}\n"


def _shown(op: Op) -> list[str]:
    if isinstance(op, Execve):
        return [*(_quote(w) for w in op.argv), *(["env", *map(_quote, op.env)] if op.env else [])]
    shown: list[str] = []
    for name, letter, repeated in op.FIELDS:
        value = getattr(op, name)
        if repeated:
            shown.extend(_quote(word) for word in value)
        elif isinstance(value, bytes):
            count = len(value) // _INSTRUCTION
            shown.append(f"<{count} instructions, sha256:{hashlib.sha256(value).hexdigest()[:12]}>")
        elif isinstance(value, (IntFlag, IntEnum)):
            shown.append(_symbols(value))
        elif value == KEEP:
            shown.append("-")
        elif letter == "o":
            shown.append(f"{value:04o}")
        else:
            shown.append(_quote(str(value)))
    return shown


def _symbols(value: IntFlag | IntEnum) -> str:
    if isinstance(value, IntEnum):
        return str(value.name)
    if not value:
        return "0"
    known = [m for m in type(value) if m & value]
    rest = int(value) & ~sum(int(m) for m in known)
    if isinstance(value, Capability) and len(known) == len(Capability):
        return f"{int(value):#x}"
    return "|".join([*(str(m.name) for m in known), *([f"{rest:#x}"] if rest else [])])


def _quote(word: str) -> str:
    return shlex.quote(printable(word).replace("\n", "\\n")) if word else "''"


def _data(op: Op) -> dict[str, object]:
    data: dict[str, object] = {"op": op.NAME}
    names = ("argv", "env") if isinstance(op, Execve) else tuple(f[0] for f in op.FIELDS)
    for name in names:
        value = getattr(op, name)
        if isinstance(value, bytes):
            data[name] = value.hex()
        elif isinstance(value, tuple):
            data[name] = list(value)
        elif isinstance(value, (IntFlag, IntEnum)):
            data[name] = _symbols(value)
        else:
            data[name] = value
    data["why"] = op.why
    return data
