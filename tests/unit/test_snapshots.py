"""What lies between two snapshots, and a spec over another one's: the pure halves."""

from __future__ import annotations

import pytest

from cove.engine.snapshots.differences import Entry, combine
from cove.spec.inherit import inherit
from cove.spec.machine import Limits, MachineSpec, Mount, Security

A, C, D = "A", "C", "D"


def entries(**said: str) -> dict[bytes, Entry]:
    """``x_y="C2"``: /x/y, changed, as sign 2."""
    return {
        b"/" + name.replace("_", "/").encode(): Entry(text[0], text[1:].encode())
        for name, text in said.items()
    }


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ({}, {}, {}),
        ({}, {"x": "A1"}, {"/x": A}),
        ({"x": "A1"}, {}, {"/x": D}),
        ({"x": "A1"}, {"x": "A1"}, {}),
        ({"x": "A1"}, {"x": "A2"}, {"/x": C}),
        ({"x": "D"}, {}, {"/x": A}),
        ({"x": "D"}, {"x": "D"}, {}),
        ({"x": "D"}, {"x": "C1"}, {"/x": A}),
        ({"x": "C1"}, {"x": "D"}, {"/x": D}),
        # a directory that went as a whole, and what was in it
        ({"d": "A1", "d_f": "A1"}, {}, {"/d": D}),
        ({"d": "C1", "d_f": "A1"}, {"d": "D"}, {"/d": D}),
        ({"d": "D"}, {"d": "C1", "d_f": "C1"}, {"/d": A, "/d/f": A}),
        # what is in a directory changes it
        ({"d": "C1", "d_f": "A1"}, {"d": "C1", "d_f": "A2"}, {"/d": C, "/d/f": C}),
        ({"d": "C1", "d_f": "A1"}, {"d": "C1", "d_f": "A1"}, {}),
    ],
)
def test_two_lists_of_changes_are_compared(
    one: dict[str, str], other: dict[str, str], found: dict[str, str]
) -> None:
    said = combine(entries(**one), entries(**other))
    assert {path.decode(): kind for path, kind in said.items()} == found


OTHER = MachineSpec(
    image="bb",
    command=("sleep", "9"),
    name="other",
    env=("A=1", "B=2"),
    labels={"x": "1"},
    remove=True,
    tty=True,
    network="host",
    mounts=(Mount("bind", "/a", "/host/a"),),
    limits=Limits(memory=1 << 20, pids=5),
    security=Security(read_only=True),
)


def test_what_is_typed_holds_over_what_the_other_was_made_with() -> None:
    typed = MachineSpec(
        image="-",
        env=("B=3",),
        labels={"y": "2"},
        mounts=(Mount("tmpfs", "/t"),),
        limits=Limits(memory=2 << 20),
        snapshot="base",
    )
    found = inherit(OTHER, typed, (".env", "labels", "mounts", "limits.memory", "network"))
    assert found.env == ("A=1", "B=3")
    assert found.labels == {"x": "1", "y": "2"}
    assert [mount.target for mount in found.mounts] == ["/a", "/t"]
    assert found.limits == Limits(memory=2 << 20, pids=5)
    assert found.network == "none"  # typed, though it is the default
    assert found.security.read_only
    assert found.command == ("sleep", "9")


def test_what_is_the_callers_own_is_never_inherited() -> None:
    found = inherit(OTHER, MachineSpec(image="-", snapshot="base"), ())
    assert (found.name, found.remove, found.tty, found.snapshot) == ("", False, False, "base")
    assert inherit(OTHER, MachineSpec(image="-", command=("ls",)), ()).command == ("ls",)
    entrypoint = MachineSpec(image="-", entrypoint=("/bin/x",))
    assert inherit(OTHER, entrypoint, ("entrypoint",)).command == ()
