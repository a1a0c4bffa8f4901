"""``/exec``: one more process in a container that runs. What was asked for is kept in memory."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

import msgspec

from cove.daemon.docker import bodies, spec, wording
from cove.daemon.docker.ask import Answer, Ask, Hijack
from cove.daemon.docker.pending import Exec
from cove.engine import calls
from cove.engine.calls import Session
from cove.engine.machines.resizing import tell_size
from cove.errors import Conflict, CoveError, UsageError


class Start(bodies.Struct):
    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None


START = msgspec.json.Decoder(Start)


def create(ask: Ask) -> Answer:
    machine, asked = ask.machine(), ask.read(bodies.EXEC)
    if not ask.engine.is_running(machine.id):
        raise wording.not_running(machine)
    if machine.state == "paused":
        raise Conflict(f"Container {machine.name} is paused, unpause the container before exec")
    wanted = spec.exec_from_docker(asked)
    streams: calls.Streams = (
        *(("stdin",) if asked.attach_stdin else ()),
        *(("stdout",) if asked.attach_stdout else ()),
        *(("stderr",) if asked.attach_stderr else ()),
    )
    made = Exec(secrets.token_hex(32), machine, wanted, streams)
    ask.execs.add(made)
    return Answer({"Id": made.id}, 201)


def start(ask: Ask) -> Answer | Hijack:
    how = ask.read(START)
    made = ask.execs.begin(ask.name)
    if how.detach:
        _begin(ask, made, calls.Call())
        return Answer()
    rows, columns = _size(how.console_size)

    def begin(session: Session, release: Callable[[], None]) -> None:
        sized = replace(session, rows=rows, columns=columns)
        _begin(ask, made, calls.Call(session=sized))
        release()

    return Hijack(
        begin,
        tty=made.spec.tty,
        stdin=made.spec.stdin_open,
        raw=how.tty,  # as Docker: who starts it says what he can read
        ended=made.end,
        last=True,
    )


def _begin(ask: Ask, made: Exec, call: calls.Call) -> None:
    attached = made.streams or ("stdout", "stderr")
    streams: calls.Streams = attached if call.session else ()
    try:
        made.extra = ask.engine.begin_exec(
            calls.Exec(made.machine.id, made.spec, streams, id=made.id), call
        )
    except CoveError:
        made.begun = False
        raise


def _size(asked: list[int] | None) -> tuple[int, int]:
    if not asked:
        return 0, 0
    if len(asked) != 2 or not all(0 <= number <= 65535 for number in asked):
        raise UsageError("cannot read ConsoleSize: it is [HEIGHT, WIDTH]")
    return asked[0], asked[1]


def resize(ask: Ask) -> Answer:
    made, rows, columns = ask.execs.find(ask.name), ask.number("h"), ask.number("w")
    if rows is None or columns is None:
        raise UsageError("cannot resize: h and w are numbers")
    extra = made.extra
    if extra is None or not made.running:
        raise Conflict(f"cannot resize exec {made.id}: it is not running")
    tell_size(extra.ctl, made.id, rows, columns)
    return Answer()


def inspect(ask: Ask) -> Answer:
    made = ask.execs.find(ask.name)
    extra, wanted = made.extra, made.spec
    return Answer(
        {
            "ID": made.id,
            "Running": made.running,
            "ExitCode": made.exit_code,
            "ProcessConfig": {
                "tty": wanted.tty,
                "entrypoint": wanted.command[0],
                "arguments": list(wanted.command[1:]),
                "privileged": wanted.privileged,
                "user": wanted.user,
            },
            "OpenStdin": "stdin" in made.streams,
            "OpenStdout": "stdout" in made.streams,
            "OpenStderr": "stderr" in made.streams,
            "CanRemove": False,
            "ContainerID": made.machine.id,
            "DetachKeys": "",
            "Pid": extra.pid if extra else 0,
        }
    )
