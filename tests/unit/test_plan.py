"""Ops, wire form and text form of plans."""

from __future__ import annotations

import dataclasses
import json
import re
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cove.errors import UsageError
from cove.plan import ops, text, wire
from cove.plan.flags import Capability, CloneFlags, MountAttr, SeccompFlags

ROOT = Path(__file__).parents[2]
ROW = re.compile(r'^X\((\w+),\s*([hmbg]),\s*"([^"]*)",\s*"([^"]*)"\)$', re.M)
ROWS = ROW.findall((ROOT / "init" / "ops.def").read_text())


def test_a_class_for_each_row_of_the_table_in_its_order() -> None:
    assert len(ROWS) > 40
    assert list(ops.OPS) == [name for name, *_ in ROWS]


@pytest.mark.parametrize(("name", "sides", "signature", "doc"), ROWS, ids=[r[0] for r in ROWS])
def test_class_is_its_row(name: str, sides: str, signature: str, doc: str) -> None:
    cls = ops.OPS[name]
    assert cls.__name__ == "".join(part.capitalize() for part in name.split("_"))
    assert (name, sides, signature) == (cls.NAME, cls.SIDES, cls.SIGNATURE)
    assert " ".join((cls.__doc__ or "").split()) == doc
    assert len(cls.FIELDS) == len(signature.rstrip("*"))
    if cls is ops.Execve:
        return
    hints = get_type_hints(cls)
    for field, letter, repeated in cls.FIELDS:
        kind = hints[field]
        if repeated:
            assert kind == tuple[str, ...], field
        elif letter in "sfF":
            assert kind is str, field
        else:
            assert issubclass(kind, (int, bytes)), field


def _values(cls: type[ops.Op]) -> st.SearchStrategy[ops.Op]:
    word = st.sampled_from(("", "a", "-", "two words", "line\nfeed", "é\udcff", "\x1b[2J"))
    if cls is ops.Execve:
        return st.builds(ops.Execve, st.lists(word).map(tuple), st.lists(word).map(tuple))
    hints = get_type_hints(cls)
    made = []
    for field, _, repeated in cls.FIELDS:
        kind = hints[field]
        if repeated:
            made.append(st.lists(word, max_size=4).map(tuple))
        elif kind is bytes:
            made.append(st.binary(max_size=32))
        elif issubclass(kind, IntEnum):
            made.append(st.sampled_from(list(kind)))
        elif issubclass(kind, IntFlag):
            made.append(
                st.lists(st.sampled_from(list(kind)), max_size=4).map(lambda ms, k=kind: _or(k, ms))
            )
        elif kind is int:
            made.append(st.integers(0, 2**32 - 1))
        else:
            made.append(word)
    return st.tuples(*made).map(lambda values: cls(*values))


def _or(kind: type[IntFlag], members: list[IntFlag]) -> IntFlag:
    value = kind(0)
    for member in members:
        value |= member
    return value


PLANS = st.lists(st.one_of([_values(cls) for cls in ops.OPS.values()]), max_size=8).map(tuple)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(PLANS)
def test_decode_gives_back_what_encode_was_given(plan: tuple[ops.Op, ...]) -> None:
    assert wire.decode(wire.encode(plan)) == plan


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_decode_refuses_or_reads_but_never_breaks(data: bytes) -> None:
    try:
        wire.decode(wire.MAGIC + data)
    except UsageError as error:
        assert error.message.startswith("cannot read the plan: ")


def test_wire_form_is_readable() -> None:
    data = wire.encode((ops.Umask(0o22), ops.Execve(("true", "x"), ("A=b",))))
    assert data.split(b"\0") == b"cove-plan 1|umask|1|22|execve|4|2|true|x|A=b|".split(b"|")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it does not begin with 'cove-plan 1'"),
        (b"cove-plan 2\0", "it does not begin with 'cove-plan 1'"),
        (b"cove-plan 1\0umask", "it ends inside a word"),
        (b"cove-plan 1\0umask\0", "op 0 has no number of words"),
        (b"cove-plan 1\0umask\0one\0", "op 0: 'one' is not a number"),
        (b"cove-plan 1\0umask\x001\0", "op 0 (umask) wants 1 words, has 0"),
        (b"cove-plan 1\0umask\x002\x0022\x0022\0", "op 0 (umask) wants 1 words, has 2"),
        (b"cove-plan 1\0umask\x001\x0089\0", "op 0 (umask): '89' is not a number"),
        (b"cove-plan 1\0rm\x000\0", "op 0 is 'rm', which is no op"),
        (b"cove-plan 1\0prctl\x002\x0099\x001\0", "op 0 (prctl): 99 is no PrctlOption"),
        (b"cove-plan 1\0seccomp\x002\x000\0zz\0", "op 0 (seccomp): 'zz' is not hexadecimal"),
        (b"cove-plan 1\0execve\x002\x002\0a\0", "op 0 (execve) wants more words than it has"),
        (b"cove-plan 1\0umask\x001\x00-1\0", "op 0 (umask): '-1' is not a number"),
    ],
)
def test_what_is_no_plan_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(
        UsageError, match="(?m)^" + re.escape(f"cannot read the plan: {message}") + "$"
    ):
        wire.decode(data)


def test_a_nul_byte_cannot_travel() -> None:
    with pytest.raises(UsageError, match=r"(?m)^cannot plan sethostname: a NUL byte$") as caught:
        wire.encode((ops.Sethostname("a\0b", why="--hostname"),))
    assert caught.value.origin == "--hostname"


def test_text_shows_names_of_flags_and_why() -> None:
    flags = CloneFlags.CLONE_NEWNS | CloneFlags.CLONE_NEWPID
    plan = ops.Plan(
        (ops.Unshare(flags, why="--pid \x1b[31m"),),
        (
            ops.Seccomp(SeccompFlags.SECCOMP_FILTER_FLAG_LOG, b"x" * 16),
            ops.Capset(Capability.CAP_CHOWN | Capability.CAP_KILL),
            ops.Fsmount("tmp", "tmpfs", MountAttr(0), ("mode=0755",)),
            ops.Execve(("sh", "-c", "echo 'a b'\n"), ("A=1",)),
        ),
    )
    host, machine = text.render(plan).split("\n\n")
    assert host.splitlines()[1].split("  #") == [
        "unshare        CLONE_NEWNS|CLONE_NEWPID".ljust(76),
        " --pid \\x1b[31m",
    ]
    lines = machine.splitlines()[1:]
    assert re.fullmatch(
        r"seccomp +SECCOMP_FILTER_FLAG_LOG <2 instructions, sha256:\w{12}>", lines[0]
    )
    assert lines[1:] == [
        "capset         CAP_CHOWN|CAP_KILL",
        "fsmount        tmp tmpfs 0 mode=0755",
        "execve         sh -c 'echo '\"'\"'a b'\"'\"'\\n' env A=1",
    ]
    data = json.loads(text.to_json(plan))
    assert data["host"] == [
        {"op": "unshare", "flags": "CLONE_NEWNS|CLONE_NEWPID", "why": "--pid \x1b[31m"}
    ]
    assert data["machine"][0]["filter"] == (b"x" * 16).hex()


def test_ops_are_frozen_and_why_is_no_part_of_their_equality() -> None:
    op = ops.Umask(0o22, why="a")
    assert op == ops.Umask(0o22, why="b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        op.mode = 0  # type: ignore[misc]
