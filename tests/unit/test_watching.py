"""What watching says, worked out from given numbers: no machine is needed."""

from __future__ import annotations

import os
from datetime import UTC, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from cove.cli.machines.watch import FIELDS, Seen
from cove.engine import calls
from cove.engine.calls import Event
from cove.engine.events import WAITING, Events, Subscription
from cove.engine.looking.top import parse
from cove.engine.looking.watching import matcher
from cove.errors import CoveError
from cove.linux.cgroups.v1 import MOVED, CgroupsV1
from cove.linux.processes import host_cpu, interfaces, read_process
from cove.shown.events import line, parse_moment, stamp

SECOND = 1_000_000_000


# ---- events ----


def event(action: str = "start", **labels: str) -> Event:
    return Event("container", action, "abc123", {"name": "web", "image": "bb:1", **labels}, 0)


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        ({}, True),
        ({"type": ("container",)}, True),
        ({"type": ("machine",)}, True),
        ({"type": ("image", "container")}, True),
        ({"type": ("image",)}, False),
        ({"event": ("start",)}, True),
        ({"event": ("sta",)}, False),
        ({"container": ("we",)}, True),  # Docker: the beginning of a name or id
        ({"container": ("/web",)}, True),
        ({"machine": ("abc",)}, True),
        ({"container": ("eb",)}, False),
        ({"image": ("bb",)}, True),
        ({"image": ("bb:1",)}, True),
        ({"image": ("bb:2",)}, False),
        ({"label": ("kind",)}, True),
        ({"label": ("kind=x", "more")}, True),
        ({"label": ("kind=x", "other")}, False),
        ({"label": ("kind=y",)}, False),
        ({"scope": ("local",)}, True),
        ({"scope": ("swarm",)}, False),
        ({"network": ("web",)}, False),
        ({"type": ("container",), "event": ("die",)}, False),
    ],
)
def test_filters(filters: dict[str, tuple[str, ...]], matches: bool) -> None:
    assert matcher(filters)(event(kind="x", more="")) is matches


def test_actions_with_words_of_their_own() -> None:
    one = event(action="exec_start: sh -c true")
    assert matcher({"event": ("exec_start",)})(one)
    assert matcher({"event": ("exec_start: sh",)})(one)
    assert not matcher({"event": ("exec_create",)})(one)
    with pytest.raises(CoveError, match='by "colour": no such filter'):
        matcher({"colour": ("red",)})


NOW = 1_795_320_000 * SECOND + 123_456_789


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("0s", NOW),
        ("10m", NOW - 600 * SECOND),
        ("1.5h", NOW - 5400 * SECOND),
        ("-10s", NOW + 10 * SECOND),
        ("1795320094.499580184", 1_795_320_094_499_580_184),
        ("1795320094", 1_795_320_094 * SECOND),
        ("2026-11-22T04:01:34.499580184Z", 1_795_320_094_499_580_184),
        ("2026-11-22T04:01:34.5+01:00", 1_795_316_494_500_000_000),
        ("2026-11-22", 1_795_305_600 * SECOND),
    ],
)
def test_moments_lose_no_nanosecond(text: str, moment: int) -> None:
    assert parse_moment(text, NOW, UTC) == moment


def test_a_line_is_dockers() -> None:
    assert stamp(1_795_320_094_499_580_184, UTC) == "2026-11-22T04:01:34.499580184Z"
    east = timezone(timedelta(hours=5, minutes=30))
    assert stamp(1_795_320_094_499_580_184, east) == "2026-11-22T09:31:34.499580184+05:30"
    shown = line(Event("container", "die", "ab", {"name": "w", "exitCode": "1"}, SECOND), UTC)
    assert shown == "1970-01-01T00:00:01.000000000Z container die ab (exitCode=1, name=w)\n"
    forged = line(Event("image", "tag", "x", {"name": "a\n1970 \x1b[2J"}, 0), UTC)
    assert forged.count("\n") == 1 and "\x1b" not in forged


def test_what_does_not_fit_is_counted_where_it_is_missing() -> None:
    listener = Subscription()
    for number in range(WAITING + 7):
        listener.put(Event("container", "start", str(number), {}, 0))
    listener.wake()  # has no room either, and nobody sleeps
    assert [listener.get(0) for _ in range(WAITING)][-1].id == str(WAITING - 1)  # type: ignore[union-attr]
    for number in (1, 2):
        listener.put(Event("container", "start", f"later {number}", {}, 0))
    told = [listener.get(0) for _ in range(3)]
    assert [one.action for one in told if one] == ["missed", "start", "start"]
    assert told[0] and told[0].attributes == {"count": "7"}
    assert listener.get(0) is None


def test_nothing_is_lost_or_doubled_between_the_past_and_the_present() -> None:
    events = Events()
    events.publish("create", ("1", "a", "bb"))
    with events.follow() as (mine, past):
        events.publish("pull", ("2", "b", "bb"))
        assert [one.id for one in past] == ["1"]
        heard = mine.get(0)
        assert heard and (heard.id, heard.type, heard.attributes) == ("2", "image", {"name": "b"})
    events.publish("start", ("3", "a", "bb"))
    assert mine.get(0) is None


# ---- stats ----


def shown(**numbers: Any) -> dict[str, str]:
    seen = Seen(calls.Stats("a" * 64, "web", "running", 1, **numbers), "", False)
    return {name: field(seen) for name, field in FIELDS.items()}


def test_dockers_formulae() -> None:
    cells = shown(
        cpus=4, cpu=3 * SECOND, cpu_before=2 * SECOND, host_cpu=108 * SECOND,
        host_cpu_before=100 * SECOND, memory=100 << 20, memory_inactive_file=36 << 20,
        memory_limit=128 << 20, pids=7, read=1500, written=2_000_000,
        networks={"eth0": calls.NetworkStats(1000, 1, 0, 0, 5, 1, 0, 0),
                  "eth1": calls.NetworkStats(24, 1, 0, 0, 5, 1, 0, 0)},
    )  # fmt: skip
    assert cells == {
        "ID": "a" * 12, "Container": "a" * 64, "Name": "web", "CPUPerc": "50.00%",
        "MemUsage": "64MiB / 128MiB", "MemPerc": "50.00%", "NetIO": "1.02kB / 10B",
        "BlockIO": "1.5kB / 2MB", "PIDs": "7",
    }  # fmt: skip


def test_numbers_that_are_not_there() -> None:
    """The first reading has nothing to compare with, and a counter may be set back."""
    assert shown(cpu=5, host_cpu=9, cpus=1)["CPUPerc"] == "0.00%"
    assert shown(cpu=5, cpu_before=6, host_cpu=9, host_cpu_before=8, cpus=1)["CPUPerc"] == "0.00%"
    assert shown(memory=5, memory_inactive_file=9)["MemUsage"] == "5B / 0B"
    assert shown(read=-1, written=-1)["BlockIO"] == "--"


def test_bytes_of_disks_on_cgroup_v1(tmp_path: Any) -> None:
    (tmp_path / "7").mkdir()
    lines = "8:0 Read 4096\n8:0 Write 10\n8:0 Sync 9\n8:16 Read 4\nTotal 4110\n"
    (tmp_path / "7" / MOVED).write_text(lines)
    driver, group = SimpleNamespace(_blkio=str(tmp_path)), SimpleNamespace(name="7")
    moved: Any = CgroupsV1._moved
    assert moved(driver, group) == (4100, 10)
    assert moved(SimpleNamespace(_blkio=""), group) == (-1, -1)


def test_the_host() -> None:
    total, cpus = host_cpu()
    assert total > 0 and cpus >= 1
    pid = os.getpid()
    me = read_process(pid)
    assert me is not None and me.parent == os.getppid() and me.command
    assert read_process(1 << 22) is None
    other = os.pidfd_open(os.getppid())
    assert "lo" not in interfaces(pid, other)
    os.close(other)


# ---- top ----


def test_the_rows_of_a_machine() -> None:
    text = (
        "USER   PID COMMAND\nroot  1 init\nroot 77 sh -c  x\nroot  - thread\nada 5 no\nada - no\n"
    )
    titles, rows = parse(text, [77])
    assert titles == ("USER", "PID", "COMMAND")
    assert rows == [("root", "77", "sh -c x"), ("root", "-", "thread")]
    # a space that is none of ASCII's does not part a name from what follows
    assert parse("COMMAND PID\na\u20031 77\n", [77])[1] == [("a\u20031", "77")]
    with pytest.raises(CoveError, match="the column PID is not among"):
        parse("COMMAND\nsh\n", [77])
