"""Watching machines: top, stats and events tell what is, also of hostile machines and to slow
listeners.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from cove.client.transport import Http
from cove.client.verbs import VERBS
from cove.engine import calls
from cove.engine.calls import Event
from cove.engine.engine import Engine
from cove.engine.events import WAITING
from tests.driver import Cove, wait_until
from tests.kernel.conftest import open_engine
from tests.shared import container_only, no_scenario

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d)"


@contextmanager
def running(cove: Cove, name: str, *words: str, flags: tuple[str, ...] = ()) -> Iterator[str]:
    cove("run", "-d", "--name", name, *flags, "bb", *(words or ("sleep", "1000")))
    try:
        yield name
    finally:
        cove("rm", "-f", name, code=None)


# ---- top ----


def test_top(cove: Cove) -> None:
    def shown() -> list[list[str]]:
        return [line.split(None, 7) for line in cove("top", "top-1").out.splitlines()]

    with running(cove, "top-1", "sh", "-c", "sleep 1001 & exec sleep 1002"):
        # By number; those of a host begin anew once they have been used up.
        both = {"sleep 1001", "sleep 1002"}
        wait_until(lambda: {row[7] for row in shown()[1:]} == both, "both")
        head, *rows = shown()
        second, first = sorted(rows, key=lambda row: row[7])
        assert head == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        assert first[0] == "root" and second[2] == first[1]
        if cove.isolation == "container":  # a guest counts its own
            assert int(first[1]) == cove.inspect("top-1")["State"]["Pid"]
    cove("create", "--name", "top-4", "bb", "true")
    assert "it is not running" in cove("top", "top-4", code=1).err
    cove("rm", "top-4")
    assert "no such machine" in cove("top", "nosuch", code=1).err
    assert "MACHINE is missing" in cove("top", code=125).err


@container_only("ps of the host reads no guest, which has processes of its own")
def test_top_with_words_for_ps(cove: Cove) -> None:
    with running(cove, "top-3", "sh", "-c", "sleep 1001 & exec sleep 1002"):
        wait_until(lambda: cove("top", "top-3", "-o", "pid,comm").out.count("sleep") == 2, "both")
        pid = str(cove.inspect("top-3")["State"]["Pid"])
        asked = cove("top", "top-3", "-o", "pid,user,uid,args").out.splitlines()
        assert asked[0].split() == ["PID", "USER", "UID", "COMMAND"]
        assert [pid, "root", "0", "sleep", "1002"] in [line.split() for line in asked[1:]]
        assert cove("top", "top-3", "aux").out.split()[0] == "USER"
        assert "sleep 1001" in cove("top", "top-3", "axjf").out  # ps takes no list with this one
        assert "the column PID is not among" in cove("top", "top-3", "-o", "comm", code=1).err
        assert "calls another column PID" in cove("top", "top-3", "-eo", "comm=PID", code=125).err
        assert "must set personality" in cove("top", "top-3", "-xyz", code=1).err


def test_top_shows_hostile_names_as_text(cove: Cove) -> None:
    evil = "\x1b]0;owned\x07\nroot 1 0 0 00:00 ? 00:00:00 init\u009b2J"
    with running(cove, "top-5", "sh", "-c", "while :; do read x; done < /dev/zero", evil):
        out = cove("top", "top-5").out
        assert "owned" in out and "\x1b" not in out and "\x07" not in out and "\u009b" not in out
        assert len(out.splitlines()) == 2


def test_top_without_ps(bb_tar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cove.engine.looking.top.PLACES", "/nonexistent")
    with open_engine(bb_tar) as engine:
        run = spec_of(engine, "sh", "-c", "sleep 1001 & exec sleep 1002")
        wait_until(lambda: str(rows_of(engine, run)).count("sleep 100") == 2, "two processes")
        wait_until(lambda: "sh -c" not in str(rows_of(engine, run)), "both programs")
        found = engine.top(calls.Top(run), calls.Call())
        assert found.titles == ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
        assert sorted((row[0], row[7]) for row in found.rows) == [
            ("root", "sleep 1001"),
            ("root", "sleep 1002"),
        ]
        assert re.fullmatch(r"\d\d:\d\d|[A-Z][a-z]{2}\d\d", found.rows[0][4])
        with pytest.raises(Exception, match="this host has no ps") as refused:
            engine.top(calls.Top(run, ("aux",)), calls.Call())
        assert "procps" in refused.value.hint  # type: ignore[attr-defined]
        engine.remove(calls.Remove(run, force=True), calls.Call())


def rows_of(engine: Engine, name: str) -> tuple[tuple[str, ...], ...]:
    return engine.top(calls.Top(name), calls.Call()).rows


def spec_of(engine: Engine, *words: str) -> str:
    from cove.spec.machine import MachineSpec

    return engine.run(calls.Run(MachineSpec(image="bb", command=words)), calls.Call()).name


# ---- stats ----


def test_stats(cove: Cove) -> None:
    with running(cove, "stats-1", flags=("-m", "64m", "--pids-limit", "50")):
        head, row = cove("stats", "--no-stream", "stats-1").out.splitlines()
        assert re.split(r"\s{2,}", head) == [
            "MACHINE ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O",
            "PIDS",
        ]  # fmt: skip
        cells = re.split(r"\s{2,}", row)
        assert cells[1] == "stats-1" and re.fullmatch(r"\d+\.\d\d%", cells[2]) and cells[-1] == "1"
        assert re.fullmatch(r"[\d.]+KiB / 64MiB", cells[3])
        assert cells[5] == "0B / 0B"
        shown = json.loads(cove("stats", "--no-stream", "--format", "json", "stats-1").out)
        assert list(shown) == [
            "BlockIO", "CPUPerc", "Container", "ID", "MemPerc", "MemUsage", "Name", "NetIO", "PIDs",
        ]  # fmt: skip
        full = cove("stats", "--no-stream", "--no-trunc", "--format", "{{.ID}}", "stats-1").out
        assert full.strip() == cove.inspect("stats-1")["Id"]


def test_stats_of_all_and_of_none_that_run(cove: Cove) -> None:
    cove("create", "--name", "stats-2", "bb", "true")
    form = ("--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}")
    assert "stats-2 0B / 0B 0\n" in cove("stats", "-a", *form).out
    assert "stats-2" not in cove("stats", *form).out
    assert cove("stats", *form, "stats-2").out == "stats-2 0B / 0B 0\n"
    cove("rm", "stats-2")
    assert "no such machine" in cove("stats", "--no-stream", "stats-2", code=1).err
    assert 'no field "Foo"' in cove("stats", "--format", "{{.Foo}}", code=125).err


def raw_stats(cove: Cove, name: str) -> calls.Stats:
    http = Http(str(cove.root / "run/api.sock"))
    asked = calls.StatsRequest((name,), stream=False)
    (found,) = http.stream(VERBS["machine.stats"], asked, calls.Call())
    (one,) = found.stats
    assert isinstance(one, calls.Stats)
    return one


def test_the_numbers_are_the_kernels(cove: Cove) -> None:
    hold = "head -c 20000000 /dev/zero | tail -c 20000000 >/dev/null; while :; do :; done"
    flags = ("-m", "128m", "--cpus", "0.05" if cove.isolation == "container" else "0.3")
    with running(cove, "stats-3", "sh", "-c", hold, flags=flags):
        wait_until(lambda: raw_stats(cove, "stats-3").throttled > 0, "throttling")
        wait_until(lambda: raw_stats(cove, "stats-3").memory_peak >= 20_000_000, "memory")
        one = raw_stats(cove, "stats-3")
        assert one.cpu > one.cpu_before > 0 and one.host_cpu > one.host_cpu_before > 0
        assert 0 < one.cpu_percent <= 100 * one.cpus
        assert one.periods >= one.throttled_periods > 0
        assert one.memory_limit == 128 << 20
        assert 0 < one.memory_used <= one.memory <= one.memory_peak
        assert one.pids >= 1 and one.state == "running" and one.networks == {}


@container_only("a guest has a network of its own")
def test_the_network_of_the_machine_alone_is_counted(cove: Cove) -> None:
    """Loopback says nothing of what went in and out, and the host's links are not the machine's."""
    with running(cove, "stats-4", flags=("--network", "host")):
        assert raw_stats(cove, "stats-4").networks == {}
    with running(cove, "stats-5"):
        pid = cove.inspect("stats-5")["State"]["Pid"]
        add = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "link", "add", "va", "type", "veth"]
        if subprocess.run([*add, "peer", "name", "vb"], capture_output=True).returncode:
            pytest.skip("needs ip and veth")
        found = raw_stats(cove, "stats-5").networks
        assert sorted(found) == ["va", "vb"] and found["va"].received == 0


def test_stats_while_machines_come_and_go(cove: Cove) -> None:
    process = cove.spawn("stats", "--format", "{{.Name}}")
    assert process.stdout is not None
    for name in ("stats-6", "stats-7"):
        with running(cove, name):
            assert heard(process.stdout.fileno(), name)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=180)
    assert process.returncode == 130  # as Docker's
    assert cove("ps").out  # and nobody else has noticed


def heard(fd: int, text: str) -> bool:
    seen = ""
    while text not in seen:
        if not select.select([fd], [], [], 180)[0]:
            return False
        data = os.read(fd, 65536)
        if not data:
            return False
        seen += data.decode()
    return True


def test_stats_on_a_terminal_are_drawn_in_place(cove: Cove) -> None:
    with running(cove, "stats-8"):
        master, slave = os.openpty()
        process = cove.spawn("stats", stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        assert heard(master, "\x1b[2J\x1b[HMACHINE ID") and heard(master, "\x1b[J\x1b[H")
        process.send_signal(signal.SIGINT)
        process.wait(180)
        os.close(master)


def test_stats_end_with_the_last_machine_named(cove: Cove) -> None:
    with running(cove, "stats-9"):
        process = cove.spawn("stats", "--format", "{{.Name}}", "stats-9")
        assert process.stdout is not None and heard(process.stdout.fileno(), "stats-9")
    process.communicate(timeout=180)
    assert process.returncode == 0


# ---- events ----


def past(cove: Cove, since: str, *filters: str, form: str = "") -> list[str]:
    words = [word for text in filters for word in ("--filter", text)]
    more = ("--format", form) if form else ()
    return cove("events", "--since", since, "--until", "0s", *words, *more).out.splitlines()


def now() -> str:
    return f"{time.time():.6f}"


def test_events_of_a_life(cove: Cove) -> None:
    since = now()
    cove("run", "--name", "ev-1", "-l", "k=v w", "bb", "sh", "-c", "exit 3", code=3)
    cove("rm", "ev-1")
    lines = past(cove, since, "container=ev-1")
    machine = lines[0].split()[3]
    assert all(re.fullmatch(rf"{STAMP} container \S+ {machine} \(.*\)", line) for line in lines)
    assert [line.split()[2] for line in lines if line.split()[2] != "attach"] == [
        "create", "start", "die", "destroy",
    ]  # fmt: skip
    assert lines[0].endswith(f"create {machine} (image=bb, k=v w, name=ev-1)")
    died = next(line for line in lines if " die " in line)
    assert re.search(r"execDuration=\d+, exitCode=3, image=bb", died) and "cause=" not in died


def test_events_of_exec(cove: Cove) -> None:
    with running(cove, "ev-2"):
        since = now()
        cove("exec", "ev-2", "sh", "-c", "exit 4", code=4)
        wait_until(lambda: len(past(cove, since, "container=ev-2")) == 3, "the end of the exec")
        form = "{{.Action}}|{{.Actor.Attributes.execID}}|{{.Actor.Attributes.exitCode}}"
        made, began, ended = past(cove, since, "container=ev-2", form=form)
        assert made.split("|")[0] == "exec_create: sh -c exit 4"
        assert began.split("|")[0] == "exec_start: sh -c exit 4"
        assert ended.split("|")[0] == "exec_die" and ended.split("|")[2] == "4"
        assert len({line.split("|")[1] for line in (made, began, ended)}) == 1
        assert past(cove, since, "event=exec_create", form="{{.Status}}") == [made.split("|")[0]]


def test_the_cause_of_an_end_is_told(cove: Cove) -> None:
    since = now()
    cove("run", "--rm", "--name", "ev-3", "--timeout", "0.2s", "bb", "sleep", "9", code=None)
    cove("run", "--rm", "--name", "ev-4", "bb", "probe", "mount", code=None)
    eat = "x=$(head -c 50000000 /dev/zero | tail -c 50000000)"
    cove("run", "--rm", "--name", "ev-5", "-m", "6m", "bb", "sh", "-c", eat, code=None)
    form = "{{.Actor.Attributes.name}} {{json .Actor.Attributes}}"
    wait_until(lambda: len(past(cove, since, "event=die", "container=ev-")) == 3, "three ends")
    told = dict(line.split(" ", 1) for line in past(cove, since, "event=die", form=form))
    assert json.loads(told["ev-3"])["cause"] == "timeout"
    assert json.loads(told["ev-3"])["reason"].startswith("timeout: ")
    assert json.loads(told["ev-5"])["cause"] == "oom"
    assert past(cove, since, "event=oom", "container=ev-5")


@no_scenario("no machine is made")
def test_events_of_images(cove: Cove, bb_tar: Path) -> None:
    since = now()
    cove("image", "import", "-c", "LABEL kind=new", str(bb_tar), "ev-image:1")
    cove("rmi", "ev-image:1")
    lines = past(cove, since, "type=image")
    actions = [line.split()[2] for line in lines]
    assert {"tag", "import", "untag"} <= set(actions)
    tagged = next(line for line in lines if " tag " in line)
    assert re.search(r" sha256:[0-9a-f]{64} \(kind=new, name=ev-image:1\)", tagged)
    assert past(cove, since, "image=ev-image", "event=tag") == [tagged]
    assert past(cove, since, "label=kind=old") == []


def test_events_as_json_have_dockers_names(cove: Cove) -> None:
    since = now()
    cove("run", "--rm", "--name", "ev-6", "bb", "true")
    wait_until(lambda: bool(past(cove, since, "container=ev-6", "event=die")), "the end")
    for form in ("json", "{{json .}}"):
        shown = json.loads(past(cove, since, "container=ev-6", "event=die", form=form)[0])
        assert list(shown) == [
            "status", "id", "from", "Type", "Action", "Actor", "scope", "time", "timeNano",
        ]  # fmt: skip
        assert shown["from"] == "bb" and shown["Actor"]["Attributes"]["exitCode"] == "0"
        assert shown["timeNano"] // 10**9 == shown["time"]


@no_scenario("no machine is made")
def test_filters_and_times_that_are_wrong(cove: Cove) -> None:
    assert 'filter by "colour": no such filter' in cove("events", "-f", "colour=red", code=125).err
    assert "not NAME=VALUE" in cove("events", "-f", "red", code=125).err
    assert 'read time "soon"' in cove("events", "--since", "soon", code=125).err
    assert 'no field "Foo"' in cove("events", "--format", "{{.Foo}}", code=125).err
    assert cove("events", "--since", "2020-01-01", "--until", "2020-01-02T03:04:05.6Z").out == ""


def test_live_events_until_an_interrupt(cove: Cove) -> None:
    process = cove.spawn("events", "--since", now(), "--filter", "event=start")
    assert process.stdout is not None
    for name in ("ev-7", "ev-8"):
        with running(cove, name):
            assert heard(process.stdout.fileno(), f"name={name}")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=180)
    assert process.returncode == 130


@no_scenario("no machine is made")
def test_events_until_a_moment_to_come(cove: Cove) -> None:
    assert cove("events", "--until", "-100ms", "--filter", "container=nosuch").out == ""


def test_hostile_labels_are_one_line_of_text(cove: Cove) -> None:
    evil = "\x1b[2J\n2026-01-01T00:00:00.000000000Z container start forged"
    since = now()
    cove("create", "--name", "ev-9", "-l", f"k={evil}", "bb", "true")
    cove("rm", "ev-9")
    lines = past(cove, since, "container=ev-9")
    assert len(lines) == 2 and all("\x1b" not in line for line in lines)


@no_scenario("listeners of the daemon, whatever machines there are")
def test_two_hundred_listeners_at_once(fresh_cove: Cove) -> None:
    http = Http(str(fresh_cove.root / "run/api.sock"))
    since = calls.Events(since_ns=time.time_ns())
    with ExitStack() as stack:
        streams = [http.stream(VERBS["system.events"], since, calls.Call()) for _ in range(200)]
        for stream in streams:
            stack.callback(stream.close)  # type: ignore[attr-defined]
        fresh_cove("create", "--name", "seen", "bb", "true")
        for stream in streams:
            assert next(stream).attributes["name"] == "seen"
        assert fresh_cove("ps", "-aq").out


@no_scenario("no machine is made")
def test_a_listener_that_vanishes_is_dropped(cove: Cove) -> None:
    before = sockets(cove)
    with ExitStack() as stack:
        for _ in range(50):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(cove.root / "run/api.sock"))
            head = (
                "POST /cove/v1/system.events HTTP/1.1\r\nHost: cove\r\nContent-Length: 2\r\n\r\n{}"
            )
            sock.sendall(head.encode())
        wait_until(lambda: sockets(cove) >= before + 50, "the listeners")
    # slots that are made meanwhile have sockets too
    wait_until(lambda: sockets(cove) < before + 25, "the end of the listeners")


def sockets(cove: Cove) -> int:
    """How many the daemon has open."""
    place, found = Path(f"/proc/{cove.daemon_pid()}/fd"), 0
    for name in os.listdir(place):
        with suppress(OSError):
            found += os.readlink(place / name).startswith("socket:")
    return found


def test_a_listener_that_does_not_read_misses_events_and_is_told(bb_tar: Path) -> None:
    with open_engine(bb_tar) as engine:
        call = calls.Call()
        stream = engine.events(calls.Events(since_ns=time.time_ns()), call)
        engine.home.events.publish("start", ("first", "first", "bb"))
        assert next(stream).id == "first"
        for number in range(WAITING + 500):
            engine.home.events.publish("start", (str(number), "x", "bb"))
        seen: list[Event] = [next(stream) for _ in range(WAITING + 1)]
        assert [event.id for event in seen[:WAITING]] == [str(n) for n in range(WAITING)]
        assert (seen[-1].type, seen[-1].action) == ("listener", "missed")
        assert seen[-1].attributes == {"count": "500"}
        engine.home.events.publish("start", ("last", "last", "bb"))
        assert next(stream).id == "last"
        stream.close()  # type: ignore[attr-defined]
