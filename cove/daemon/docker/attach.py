"""``/containers/{name}/attach``: a machine's streams on the caller's connection, also before the
machine is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cove.cli.logs import Marked
from cove.daemon.docker.ask import Answer, Ask, Hijack
from cove.daemon.docker.logs import pieces, streams_of
from cove.daemon.docker.pending import Waiting
from cove.engine import calls
from cove.engine.calls import Session
from cove.errors import UsageError
from cove.spec.values import check_detach_keys


def attach(ask: Ask) -> Hijack | Answer:
    machine = ask.machine()
    keys = ask.text("detachKeys")
    if keys:
        check_detach_keys(keys)
    streams: calls.Streams = (
        *(("stdin",) if ask.on("stdin") else ()),
        *streams_of(ask),
    )
    live, log = ask.on("stream"), ask.on("logs")
    before: Iterator[bytes] = iter(())
    if log:
        wanted = calls.Logs(machine.id, streams=streams_of(ask), merged=True)
        before = pieces(ask, machine, wanted, Marked(times=False, details=False))
    if not live and not log:
        raise UsageError("cannot attach: neither stream nor logs was asked for")
    waiting: list[Waiting] = []

    def begin(session: Session, release: Callable[[], None]) -> None:
        if ask.engine.is_running(machine.id):
            params = calls.Attach(machine.id, streams, False, keys)
            ask.engine.attach(params, calls.Call(session=session))
            release()
        else:
            waiting.append(Waiting(session, streams, keys, release))
            ask.pending.add(machine.id, waiting[0])

    def forget() -> None:
        if waiting:
            ask.pending.drop(machine.id, waiting[0])

    spec = machine.spec
    return Hijack(
        begin,
        tty=spec.tty,
        stdin="stdin" in streams and spec.stdin_open,
        before=before,
        live=live,
        forget=forget,
    )
