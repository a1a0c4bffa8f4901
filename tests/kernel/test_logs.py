"""``logs``: every byte once, across rotations and ends, whatever its readers do."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cove.engine.looking import logfile
from tests.driver import Cove, wait_until

KIB = 1 << 10


@contextmanager
def machine(cove: Cove, name: str, *words: str, flags: tuple[str, ...] = ()) -> Iterator[None]:
    cove("run", "-d", "--name", name, *flags, "bb", *words)
    try:
        yield
    finally:
        cove("rm", "-f", name)


def said(cove: Cove, *words: str) -> tuple[bytes, bytes]:
    """Output as bytes: a log is not text."""
    return cove.spawn("logs", *words).communicate(timeout=180)


def log_options(size: str, files: int) -> tuple[str, ...]:
    return "--log-opt", f"max-size={size}", "--log-opt", f"max-file={files}"


def log_files(cove: Cove, name: str) -> dict[str, int]:
    directory = Path(cove.inspect(name)["LogPath"]).parent
    return {path.name: path.stat().st_size for path in directory.glob("log*")}


def rss(pid: int) -> int:
    """Bytes in memory."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) * KIB


def counting(cove: Cove, count: int) -> str:
    """A write for each line; a guest, for which that takes seconds, writes many at once."""
    if cove.isolation == "vm":
        return f"seq 0 {count - 1} | sed 's/.*/line & of a log/'"
    return f"i=0; while [ $i -lt {count} ]; do echo line $i of a log; i=$((i+1)); done"


def numbers(data: bytes) -> list[int]:
    return [int(line.split()[1]) for line in data.splitlines()]


# ---- what is kept ----


def test_files_by_size_and_count(cove: Cove) -> None:
    script = counting(cove, 30000)
    with machine(cove, "turned", "sh", "-c", script, flags=log_options("100k", 3)):
        cove("wait", "turned")
        files = log_files(cove, "turned")
        assert sorted(files) == ["log", "log.1", "log.2"]
        assert max(files.values()) <= 100 * KIB
        found = numbers(said(cove, "turned")[0])
        assert found == list(range(found[0], 30000)) and len(found) > 3000
        # The last lines come from several files.
        assert numbers(said(cove, "-n", "4500", "turned")[0]) == found[-4500:]
        config = cove.inspect("turned")["HostConfig"]["LogConfig"]
        assert config == {"Type": "local", "Config": {"max-file": "3", "max-size": "102400"}}


def test_one_file_is_never_larger_than_asked(cove: Cove) -> None:
    script = counting(cove, 30000)
    with machine(cove, "single", "sh", "-c", script, flags=log_options("128k", 1)):
        cove("wait", "single")
        assert sum(log_files(cove, "single").values()) <= 128 * KIB
        assert said(cove, "-n", "1", "single")[0] == b"line 29999 of a log\n"


@pytest.mark.parametrize(
    "script",
    [
        "seq 1 60000",
        "i=0; while [ $i -lt 9000 ]; do printf 'half '; echo of $i; i=$((i+1)); done",
        "i=0; while [ $i -lt 9000 ]; do printf 'half ' >&2; echo of $i >&2; i=$((i+1)); done",
    ],
    ids=["many at once", "in halves", "in halves, as errors"],
)
def test_every_file_begins_with_a_line_and_ends_with_one(cove: Cove, script: str) -> None:
    with machine(cove, "lines", "sh", "-c", script, flags=log_options("64k", 4)):
        cove("wait", "lines")
        files = log_files(cove, "lines")
        assert len(files) > 1 and max(files.values()) <= 64 * KIB
        directory = Path(cove.inspect("lines")["LogPath"]).parent
        shape = re.compile(rb"(?:(?:half of )?\d+\n)+")
        for name in files:
            entries, _ = logfile.parse((directory / name).read_bytes())
            data = b"".join(entry.data for entry in entries)
            assert shape.fullmatch(data), (name, data[:20], data[-20:])
        found = b"".join(said(cove, "lines")).replace(b"half of ", b"").split()
        assert list(map(int, found)) == list(range(int(found[0]), int(found[-1]) + 1))


def test_a_line_longer_than_a_file_is_whole_across_files(cove: Cove) -> None:
    script = "head -c 200000 /dev/zero | tr '\\0' x; echo; echo next"
    with machine(cove, "long", "sh", "-c", script, flags=log_options("64k", 9)):
        cove("wait", "long")
        assert len(log_files(cove, "long")) > 2
        assert said(cove, "long")[0] == b"x" * 200000 + b"\nnext\n"


def test_a_log_without_end(cove: Cove) -> None:
    with machine(cove, "whole", "sh", "-c", counting(cove, 5000), flags=log_options("-1", 1)):
        cove("wait", "whole")
        assert list(log_files(cove, "whole")) == ["log"]
        assert numbers(said(cove, "whole")[0]) == list(range(5000))


def test_no_log(cove: Cove) -> None:
    """Nobody reads and nothing is kept: the machine goes on all the same."""
    script = "read x; head -c 300000 /dev/zero; echo end; read x"
    with machine(cove, "mute", "sh", "-c", script, flags=("-i", "--log-driver", "none")):
        assert cove("logs", "mute", code=1).err == (
            "cove: cannot read the log of mute: its log driver is none, which keeps nothing\n"
        )
        attached = cove.spawn("attach", "mute", stdin=subprocess.PIPE)
        assert attached.stdin is not None and attached.stdout is not None
        attached.stdin.write(b"go\n")
        attached.stdin.flush()
        assert attached.stdout.read(300004) == b"\0" * 300000 + b"end\n"
        assert log_files(cove, "mute") in ({}, {"log": 0})
        attached.communicate(b"go\n", timeout=180)
        assert cove.inspect("mute")["HostConfig"]["LogConfig"] == {"Type": "none", "Config": {}}
        assert cove("wait", "mute").out == "0\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--log-driver", "syslog"), "cannot use the log driver syslog"),
        (("--log-driver", "journald"), "cannot use the log driver journald"),
        (("--log-opt", "max-file=0"), "max-file is a number from 1 to 1000"),
        (("--log-opt", "max-file=x"), "max-file is a number from 1 to 1000"),
        (("--log-opt", "max-size=many"), "not a number with a unit"),
        (("--log-opt", "labels=a"), 'no option is called "labels"'),
        (("--log-driver", "none", "--log-opt", "max-file=2"), "a log that is not kept"),
    ],
)
def test_what_is_refused(cove: Cove, flags: tuple[str, ...], message: str) -> None:
    assert message in cove("run", "--rm", *flags, "bb", "true", code=125).err


def test_bytes_and_streams(cove: Cove) -> None:
    script = r"printf '\377\0\r\033[1m\n'; printf 'no end' >&2"
    with machine(cove, "raw", "sh", "-c", script):
        cove("wait", "raw")
        assert said(cove, "raw") == (b"\xff\0\r\x1b[1m\n", b"no end")


def test_a_terminal_is_one_stream(cove: Cove) -> None:
    with machine(cove, "teletype", "sh", "-c", "echo out; echo err >&2", flags=("-t",)):
        cove("wait", "teletype")
        assert said(cove, "teletype") == (b"out\r\nerr\r\n", b"")


# ---- what is asked for ----


def test_times_stand_where_lines_begin(cove: Cove) -> None:
    script = r"printf 'a\rb'; read x; printf ' still a\nnext\n'; echo err >&2; printf 'open'"
    with machine(cove, "stamps", "sh", "-c", script, flags=("-i",)):
        cove.spawn("attach", "stamps", stdin=subprocess.PIPE).communicate(b"x\n", timeout=180)
        out, err = said(cove, "-t", "stamps")
        stamp = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z "
        pattern = stamp + rb"a\rb still a\n" + stamp + rb"next\n" + stamp + rb"open"
        assert re.fullmatch(pattern, out)
        assert re.fullmatch(stamp + rb"err\n", err)
        assert said(cove, "--details", "stamps")[0] == b" a\rb still a\n next\n open"
        assert re.fullmatch(stamp + rb" err\n", said(cove, "-t", "--details", "stamps")[1])


def test_since_and_until(cove: Cove) -> None:
    with machine(cove, "moments", "sh", "-c", "echo 1; read x; echo 2; read x; echo 3",
                 flags=("-i",)):  # fmt: skip
        attached = cove.spawn("attach", "moments", stdin=subprocess.PIPE)
        assert attached.stdin is not None
        for line in (b"2", b"3"):
            attached.stdin.write(b"x\n")
            attached.stdin.flush()
            wait_until(lambda text=line: text in said(cove, "moments")[0])  # type: ignore[misc]
        attached.communicate(timeout=180)
        stamps = [line.split()[0] for line in said(cove, "-t", "moments")[0].decode().splitlines()]
        assert said(cove, "--since", stamps[1], "moments")[0] == b"2\n3\n"
        assert said(cove, "--until", stamps[1], "moments")[0] == b"1\n2\n"
        assert said(cove, "--since", stamps[1], "--until", stamps[1], "moments")[0] == b"2\n"
        assert said(cove, "-f", "--until", stamps[1], "moments")[0] == b"1\n2\n"
        assert said(cove, "--since", "1h30m", "moments")[0] == b"1\n2\n3\n"
        assert said(cove, "--until", "10m", "moments")[0] == b""
        assert said(cove, "--since", "1136073600.000000001", "moments")[0] == b"1\n2\n3\n"
        assert said(cove, "--since", "2006-01-02T15:04:05+07:00", "moments")[0] == b"1\n2\n3\n"
        # Without a zone it is the caller's.
        local = stamps[1].removesuffix("Z")
        for zone, lines in (("UTC", "2\n3\n"), ("Etc/GMT+1", ""), ("Etc/GMT-1", "1\n2\n3\n")):
            assert cove("logs", "--since", local, "moments", env={"TZ": zone}).out == lines


def test_following_ends_at_the_moment_asked(cove: Cove) -> None:
    with machine(cove, "endless", "sh", "-c", "echo here; sleep 1000"):
        wait_until(lambda: said(cove, "endless")[0] == b"here\n", "the only line")
        assert said(cove, "-f", "--until", str(time.time() + 1), "endless")[0] == b"here\n"


# ---- followers ----


def test_a_follower_loses_nothing_across_rotations(cove: Cove) -> None:
    script = "read x; " + counting(cove, 40000)
    flags = ("-i", *log_options("64k", 1000))
    with machine(cove, "long", "sh", "-c", script, flags=flags):
        first = cove.spawn("logs", "-f", "long")
        cove.spawn("attach", "long", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL).communicate(
            b"go\n", timeout=180
        )
        later = cove.spawn("logs", "-f", "long")
        for follower in (first, later):
            out, err = follower.communicate(timeout=180)
            assert numbers(out) == list(range(40000))
            assert err == b""
        assert len(log_files(cove, "long")) > 10


def test_following_goes_on_over_a_restart(cove: Cove) -> None:
    script = "trap 'echo down; exit' TERM; echo up; while :; do sleep 0.01; done"
    with machine(cove, "phoenix", "sh", "-c", script):
        follower = cove.spawn("logs", "-f", "phoenix")
        assert follower.stdout is not None and follower.stdout.readline() == b"up\n"
        cove("restart", "phoenix")
        assert follower.stdout.readline() == b"down\n"
        assert follower.stdout.readline() == b"up\n"
        cove("stop", "phoenix")
        assert follower.communicate(timeout=180)[0] == b"down\n"
        assert follower.returncode == 0


def test_a_reader_that_stops_reading_holds_nothing_up(fresh_cove: Cove) -> None:
    """200 MB of output (a guest's port is slower: 20), a follower that never reads: the machine
    ends, and the daemon's memory is what it was.
    """
    cove = fresh_cove
    size = 200_000_000 if cove.isolation == "container" else 20_000_000
    script = f"read x; head -c {size} /dev/zero | tr '\\0' 'x' | fold -w 99; echo; echo done"
    with machine(cove, "flood", "sh", "-c", script, flags=("-i", *log_options("20m", 5))):
        daemon = cove.daemon_pid()
        stuck = cove.spawn("logs", "-f", "flood")
        reader = cove.spawn("logs", "-f", "-n", "0", "flood", stdout=subprocess.DEVNULL)
        before = rss(daemon)
        cove.spawn("attach", "flood", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL).communicate(
            b"go\n", timeout=120
        )
        assert cove("wait", "flood", timeout=120).out == "0\n"
        assert reader.communicate(timeout=180)[1] == b""
        assert said(cove, "-n", "1", "flood")[0] == b"done\n"
        assert rss(daemon) - before < 24 << 20
        assert stuck.poll() is None
        stuck.kill()
        stuck.communicate()


def test_two_hundred_followers(cove: Cove) -> None:
    with machine(cove, "star", "sh", "-c", "echo a; read x; echo b", flags=("-i",)):
        followers = [cove.spawn("logs", "-f", "star") for _ in range(200)]
        for follower in followers:
            assert follower.stdout is not None and follower.stdout.readline() == b"a\n"
        cove.spawn("attach", "star", stdin=subprocess.PIPE).communicate(b"x\n", timeout=180)
        for follower in followers:
            assert follower.communicate(timeout=180) == (b"b\n", b"")
        assert os.path.exists(cove.root / "run/front.sock")
