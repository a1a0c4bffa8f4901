"""What others sent, damaged or made up, is an error in cove's words: never one of the reader's own,
never without end.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cove.cli.images import history
from cove.engine.machines.causes import Evidence, cause_of
from cove.engine.visits import copying
from cove.engine.visits.room import Room
from cove.engine.vms import virtual
from cove.errors import HostError, NotFound, Unsupported
from cove.executor import archiver
from cove.executor.messages import ExitRecord
from cove.oci import doubt
from cove.plan.ops import Plan
from cove.roots.scratch import make_scratch
from cove.shown import units
from cove.spec.machine import Limits
from cove.store.layout import Layout
from cove.store.lock import open_layout
from cove.vm import qmp, templates
from cove.vm.accel import remembered
from cove.vm.kernels import Kernels
from tests.conftest import need

DEEP = b"[" * 100_000
DAMAGED = (b"", b"{", b"\xff\xfe", b'{"name": "\xff"}', DEEP, b"[]", b"7", b"\0" * 64)


# ---- numbers and addresses ----


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "0x1", "1_0", "\u00b2", "\u0661", "9" * 19, "1.0"]
)
def test_what_is_no_number(text: str) -> None:
    assert doubt.number(text) is None


@pytest.mark.parametrize(
    ("value", "found"),
    [(5, 5.0), ("60", 60.0), (1.5, 1.5), (10**400, 0.0), (-1, 0.0), (True, 0.0), (None, 0.0),
     ([], 0.0), (float("nan"), 0.0), (float("inf"), 0.0), ("\u00b2", 0.0)],
)  # fmt: skip
def test_spans_of_time(value: object, found: float) -> None:
    assert doubt.seconds(value) == found


# ---- records that a crash has damaged ----


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return open_layout(tmp_path / "state")


@pytest.mark.parametrize("data", DAMAGED, ids=lambda data: repr(data[:12]))
def test_a_damaged_record_is_named(layout: Layout, data: bytes) -> None:
    place = Path(layout.kernel("fast"))
    place.mkdir(parents=True)
    (place / "meta.json").write_bytes(data)
    with pytest.raises(HostError, match="cannot use kernel fast: its record is damaged"):
        Kernels(layout).find("fast")
    assert Kernels(layout).all() == ()
    key = "0" * 32
    kept = Path(layout.template(key))
    kept.mkdir(parents=True)
    (kept / "meta.json").write_bytes(data)
    with pytest.raises((HostError, NotFound), match=f"template {key}: "):
        templates.find(layout, key)
    assert templates.all_of(layout) == ()
    Path(layout.kvm).write_bytes(data)
    assert remembered(layout) is None


# ---- QEMU ----


@pytest.fixture
def control() -> Any:
    ours, theirs = socket.socketpair()
    yield SimpleNamespace(ask=qmp.Control(ours, patience=0.3), qemu=theirs)
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    "line", [DEEP, b"\xff", b"7", b'"x"', b"[]"], ids=lambda line: repr(line[:8])
)
def test_an_emulator_that_speaks_no_qmp(control: Any, line: bytes) -> None:
    control.qemu.sendall(line + b"\n")
    with pytest.raises(HostError, match="it does not speak QMP"):
        control.ask.answer("stop")


def test_an_emulator_that_tells_without_end(control: Any) -> None:
    """Of everything but what it was asked: whoever asked is not held for good."""
    over = threading.Event()

    def tell() -> None:
        control.qemu.setblocking(False)
        while not over.is_set():
            try:
                control.qemu.send(b'{"event": "RESUME"}\n' * 100)
            except BlockingIOError:
                over.wait(0.001)
            except OSError:
                return

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        with pytest.raises(HostError, match="no answer in"):
            control.ask.answer("stop")
    finally:
        over.set()
        thread.join()


def test_a_hub_that_takes_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a neighbour of its guest in the jail: who calls it is not held."""
    monkeypatch.setattr(virtual, "PATIENCE", virtual.struct.pack("ll", 0, 100_000))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    run = os.open(tmp_path, os.O_RDONLY)
    listener.bind(f"/proc/self/fd/{run}/7.guest")
    listener.listen(0)
    home: Any = SimpleNamespace(run_fd=run)
    first = virtual.connect_hub(home, 7)
    with socket.socket(fileno=first) as there:
        assert there.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16) == virtual.FOREVER
        with pytest.raises(HostError, match="its hub takes nobody any more"):
            virtual.connect_hub(home, 7)
    listener.close()
    os.close(run)


# ---- the archiver, which in a virtual machine is the guest's ----


def said_by(code: str) -> archiver.Archiver:
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", f"import os, sys; {code}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    return archiver.Archiver(Plan((), ()), child, "diff x", None)


def closed(one: archiver.Archiver) -> None:
    child = one._child
    child.kill()
    child.wait()
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    child.stderr.close()


def test_a_list_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiver, "RESULT_MAX", 1 << 20)
    one = said_by("\nwhile True: os.write(1, b'A/x\\0' * 4096)")
    with pytest.raises(Unsupported, match="there is too much to tell"):
        one.read_result()
    assert one._child.wait() == -9
    closed(one)


def test_a_complaint_without_end() -> None:
    one = said_by("os.close(1)\nwhile True: os.write(2, b'x' * 4096)")
    assert one.read_result() == b""
    with pytest.raises(HostError, match="it complains without end"):
        one.finish()
    closed(one)


def test_a_report_with_numbers_that_nobody_has() -> None:
    one = said_by(f"os.write(2, b'guest host {'9' * 400} x {'9' * 400} y'); os._exit(125)")
    assert one.read_result() == b""
    with pytest.raises(HostError):
        one.finish()
    closed(one)


class Playing:
    """An archiver that says what it is told to."""

    def __init__(self, said: bytes) -> None:
        self.said = said

    def __enter__(self) -> Playing:
        return self

    def __exit__(self, *words: object) -> None:
        pass

    def read_result(self) -> bytes:
        return self.said

    def finish(self) -> None:
        pass


@pytest.mark.parametrize(
    "said",
    [b"", b"\0\0\0", b"100644 1 1 1 0", b"100644 1 1 1 0\0\0", b"8 1 1 1 0\0\0\0",
     b"100644 " + b"9" * 5000 + b" 1 1 0\0\0\0", b"100644 1 1 -1 0\0\0\0", b"\xff 1 1 1 0\0\0\0"],
    ids=lambda said: repr(said[:16]),
)  # fmt: skip
def test_what_is_no_entry(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(copying, "visit", lambda *words, **more: Playing(said))
    record: Any = SimpleNamespace(name="web")
    with pytest.raises(HostError, match="what the guest says of it makes no sense"):
        copying.path_info(SimpleNamespace(), record, b"/x", SimpleNamespace())  # type: ignore[arg-type]


@pytest.mark.parametrize("said", [b"X/a\0", b"\xff/a\0", b"\0", b"A/a\0\0"])
def test_what_is_no_change(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(copying, "visit_layer", lambda *words, **more: Playing(said))
    record: Any = SimpleNamespace(name="web")
    with pytest.raises(HostError, match="what the guest says of it makes no sense"):
        copying.diff(SimpleNamespace(), record, SimpleNamespace())  # type: ignore[arg-type]


# ---- room in a machine that does not run ----


def test_room_is_measured_less_often_than_asked(tmp_path: Path) -> None:
    upper = tmp_path / "u1"
    upper.mkdir()
    home: Any = SimpleNamespace(
        store=SimpleNamespace(layout=SimpleNamespace(upper=lambda key: upper))
    )
    spec = SimpleNamespace(limits=Limits(storage=4 << 20))
    room = Room(home, SimpleNamespace(upper=1, name="web", spec=spec))  # type: ignore[arg-type]
    room.check(1)
    (upper / "f").write_bytes(os.urandom(6 << 20))
    room.check(2)  # no more can have come than the archive was long
    with pytest.raises(HostError, match=r"cannot copy to web: .* storage limit of 4m"):
        room.check(5 << 20)
    with pytest.raises(HostError):
        room.check_all()


# ---- disks that two want first ----


def test_many_make_one_scratch_disk(tmp_path: Path) -> None:
    need("mkfs.ext4")
    template, count = str(tmp_path / "scratch-16777216.ext4"), 6
    begin, failed = threading.Barrier(count), list[BaseException]()

    def make(number: int) -> None:
        begin.wait()
        try:
            os.close(make_scratch(template, str(tmp_path / f"d{number}"), 16 << 20, journal=False))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    whole = (tmp_path / "scratch-16777216.ext4").read_bytes()
    assert whole[1080:1082] == b"\x53\xef"  # the magic of ext4
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["scratch-16777216.ext4", *(f"d{number}" for number in range(count))]
    )
    for number in range(count):
        assert (tmp_path / f"d{number}").read_bytes()[1080:1082] == b"\x53\xef"


def test_half_a_scratch_disk_is_none(tmp_path: Path) -> None:
    """What a killed daemon left is made anew."""
    need("mkfs.ext4")
    (tmp_path / "scratch.new").write_bytes(b"half" * 1000)
    os.close(
        make_scratch(str(tmp_path / "t.ext4"), str(tmp_path / "scratch"), 16 << 20, journal=False)
    )
    assert (tmp_path / "scratch").stat().st_size == 16 << 20
    assert not (tmp_path / "scratch.new").exists()


# ---- times that no calendar has ----


@pytest.mark.parametrize("moment", [1e300, -1e300, 253402300799.9, -62135596800.0, 0.0])
def test_any_moment_is_shown(moment: float) -> None:
    for zone in (None, units.UTC):
        assert units.clock_text(moment, zone)
        assert history._stamp(moment, zone)
    assert units.stamp(moment).endswith("Z")


def test_a_time_that_was_over_before_its_program_began() -> None:
    lost = Evidence(ExitRecord(137, 9, False, 0, 1), asked="timeout", timeout=0.5, lost_guest=True)
    cause = cause_of(lost, Limits())
    assert (cause.kind, cause.signal) == ("timeout", 9)
    assert cause.text == "timeout: 0.5 s were over before its program began"
    ran = Evidence(ExitRecord(137, 9, False, 1, 2), asked="timeout", timeout=0.5)
    assert cause_of(ran, Limits()).text == "timeout: it ran longer than 0.5 s"


def test_json_of_anything() -> None:
    for data in DAMAGED:
        found = doubt.json_of(data)
        assert found in (None, [], 7)
    assert doubt.json_of(json.dumps({"a": 1}).encode()) == {"a": 1}
