"""The processes of a machine, as the host's ps shows them. Without one on this host the default
table is made here.

ps is the host's own program; nothing of the machine is executed or opened, and what its processes
call themselves is text.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime

from cove.engine import calls
from cove.engine.home import Home
from cove.engine.machines.stopping import running
from cove.engine.ranges import RANGE_SIZE, range_base
from cove.engine.vms import inside
from cove.errors import Conflict, HostError, Unsupported, UsageError, one_line
from cove.linux.processes import Process, process_ids, read_process
from cove.store.records import MachineRecord

PATIENCE = 10.0
"""Seconds that ps may take: a process can hold up whoever reads its command line."""
OUTPUT_MAX = 16 << 20
PLACES = "/usr/bin:/bin:/usr/sbin:/sbin"
DEFAULT = "-ef"
TITLES = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
NUMBERS = frozenset(("UID", "EUID", "RUID", "SUID", "FUID", "FSUID"))
NAMES = frozenset(("USER", "EUSER", "RUSER", "SUSER", "FUSER"))
WHICH = {"R": 0, "E": 1, "S": 2, "F": 3}
"""Which of a process's four user ids a column's first letter means."""
_RENAMED = re.compile(r"([^\s,=]*)=\s*PID\b")
_FULL = re.compile(r"-[a-zA-Z]*[fF][a-zA-Z]*")
"""Options with which ps gives names in the column UID."""


def top(home: Home, record: MachineRecord, options: tuple[str, ...]) -> calls.Processes:
    live = running(home, record)
    if live is None or live.group is None or not live.started:
        raise Conflict(f"cannot list the processes of {record.name}: it is not running")
    words = " ".join(options).split() or [DEFAULT]
    if record.spec.isolation == "vm":
        return _in_guest(home, record, words)
    _check(words)
    pids = home.groups.pids(live.group)
    program = shutil.which("ps", path=PLACES)
    if program is not None:
        titles, rows = parse(_ask(program, words, pids), pids)
    elif words == [DEFAULT]:
        titles, rows = TITLES, _table(pids)
    else:
        raise Unsupported(
            f"cannot list processes with {' '.join(words)}: this host has no ps",
            hint="install procps; cove top MACHINE alone does without it",
        )
    # a number may have come to somebody else meanwhile
    still = set(home.groups.pids(live.group))
    users = _Users(record, titles, named=any(_FULL.fullmatch(word) for word in words))
    at, pid, shown = titles.index("PID"), "", []
    for row in rows:
        pid = pid if row[at] == "-" else row[at]
        if int(pid) in still:
            shown.append(users.shown(row, pid))
    home.publish("top", record)
    return calls.Processes(tuple(titles), tuple(shown))


def _check(words: Sequence[str]) -> None:
    """Rows are told apart by the column PID: nothing else may be called so."""
    text = " ".join(words)
    for match in _RENAMED.finditer(text):
        if match[1] != "pid":
            raise UsageError(f'cannot list processes: "{match[0]}" calls another column PID')


def _in_guest(home: Home, record: MachineRecord, words: Sequence[str]) -> calls.Processes:
    """Those that the guest's kernel knows, by its numbers. The jail's are none of the machine's."""
    if words != [DEFAULT]:
        raise Unsupported(
            f"cannot list processes with {' '.join(words)}: none runs in the guest",
            hint=f"cove exec {record.name} ps, if its image has one; cove top lists them all",
            exit_code=1,
        )
    seen = inside.processes_of(home, record)
    booted, names = time.time() - seen.up, _host_names()
    rows = []
    for process in seen.processes:
        uid, *rest = _row(process, seen.up, booted, seen.now)
        rows.append((names.get(process.uid, uid), *rest))
    home.publish("top", record)
    return calls.Processes(TITLES, tuple(rows))


# ---- ps ----


def _ask(program: str, words: Sequence[str], pids: Sequence[int]) -> str:
    """Only of the machine's processes; some options take no list, then of all of them."""
    listed = "-q" + ",".join(map(str, pids))
    code, out, _ = _run([program, *words, listed])
    if code:
        code, out, said = _run([program, *words])
        if code:
            line = said.strip().partition("\n")[0]
            raise UsageError(
                f"cannot list processes with {' '.join(words)}: "
                f"{line or f'ps ended with exit code {code}'}",
                exit_code=1,
            )
    return out


def _run(words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr: files, of which no more is read than fits here."""
    environment = {"PATH": PLACES, "LC_ALL": "C.UTF-8"}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            code = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                cwd="/",
                timeout=PATIENCE,
            ).returncode
        except subprocess.TimeoutExpired:
            raise HostError(
                f"cannot list processes: ps has not ended for {PATIENCE:.0f} s",
                hint="a process is held up in the kernel; cove top MACHINE -o pid,comm reads less",
            ) from None
        except OSError as error:
            raise HostError(f"cannot list processes: {words[0]}: {error.strerror}") from error
        out.seek(0)
        err.seek(0)
        text = out.read(OUTPUT_MAX + 1)
        said = err.read(4096).decode("utf-8", "replace")
    if len(text) > OUTPUT_MAX:
        raise HostError(
            f"cannot list processes: their command lines are longer than {OUTPUT_MAX >> 20} MiB",
            hint="ask for less: cove top MACHINE -o pid,comm",
        )
    return code, text.decode("utf-8", "surrogateescape"), said


def parse(text: str, pids: Sequence[int]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The heading, and the rows of these processes with their threads (whose PID is ``-``)."""
    head, *lines = text.split("\n")
    titles = tuple(_fields(head))
    if "PID" not in titles:
        raise UsageError(
            "cannot list processes: the column PID is not among what ps was asked for",
            hint="add it: -o pid,comm",
            exit_code=1,
        )
    at, wanted, mine = titles.index("PID"), {str(pid) for pid in pids}, False
    rows = []
    for line in lines:
        fields = _fields(line)
        if len(fields) <= at:
            continue
        mine = fields[at] in wanted or (mine and fields[at] == "-")
        if mine:
            last = len(titles) - 1
            rows.append((*fields[:last], " ".join(fields[last:])))
    return titles, rows


def _fields(line: str) -> list[str]:
    """Cut at ASCII's spaces only: others may stand in a name."""
    return [word for word in re.split(r"[ \t\r\v\f]+", line) if word]


# ---- without ps ----


def _table(pids: Sequence[int]) -> list[tuple[str, ...]]:
    with open("/proc/uptime", encoding="ascii") as file:
        up = float(file.read().split()[0])
    booted, now = time.time() - up, datetime.now()
    found = (read_process(pid) for pid in pids)
    return [_row(process, up, booted, now) for process in found if process is not None]


def _row(process: Process, up: float, booted: float, now: datetime) -> tuple[str, ...]:
    share = process.cpu * 100 / max(up - process.started, 0.01)
    command = one_line(" ".join(process.command) or f"[{process.name}]")
    return (
        str(process.uid),
        str(process.pid),
        str(process.parent),
        str(min(99, int(share))),
        _moment(datetime.fromtimestamp(booted + process.started), now),
        _terminal(process.terminal),
        _duration(int(process.cpu)),
        command + (" <defunct>" if process.state == "Z" else ""),
    )


def _moment(start: datetime, now: datetime) -> str:
    if start.date() == now.date():
        return start.strftime("%H:%M")
    return start.strftime("%b%d" if start.year == now.year else "%Y")


def _terminal(device: int) -> str:
    major, minor = os.major(device), os.minor(device)
    if 136 <= major <= 143:  # eight majors of 256 pseudoterminals, as devices.txt has them
        return f"pts/{(major - 136) * 256 + minor}"
    return "?" if not device else f"{major},{minor}"


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hours:02}:{minutes:02}:{seconds:02}"


# ---- users ----


class _Users:
    """Ids of the machine's own range are shown as the machine knows them. ps has no room for them:
    they are asked of the kernel.
    """

    def __init__(self, record: MachineRecord, titles: Sequence[str], *, named: bool) -> None:
        self._base = range_base(record.id_range)
        shown = NAMES | NUMBERS if record.id_range >= 0 else frozenset()
        self._columns = [(at, title) for at, title in enumerate(titles) if title in shown]
        self._named = NAMES | NUMBERS if named else NAMES
        self._names = _host_names() if self._columns else {}

    def shown(self, row: tuple[str, ...], pid: str) -> tuple[str, ...]:
        ids = process_ids(int(pid)) if self._columns and pid.isdecimal() else None
        if ids is None:
            return row
        cells = list(row)
        for at, title in self._columns:
            number = ids[WHICH.get(title[0], 1) if title not in ("UID", "USER") else 1]
            if self._base <= number < self._base + RANGE_SIZE:
                number -= self._base
            name = self._names.get(number, "") if title in self._named else ""
            cells[at] = name or str(number)
        return tuple(cells)


def _host_names() -> dict[int, str]:
    """Of the host's own users, as Docker shows them: the machine's files are not asked."""
    names: dict[int, str] = {}
    try:
        with open("/etc/passwd", encoding="utf-8", errors="replace") as file:
            for line in file:
                words = line.split(":")
                if len(words) > 2 and words[2].isdecimal():
                    names.setdefault(int(words[2]), words[0])
    except OSError:
        pass
    return names
