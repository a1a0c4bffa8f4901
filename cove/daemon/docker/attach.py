"""``/containers/{name}/attach``: a machine's streams on the caller's connection, also before the
machine is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cove.daemon.docker.ask import Answer, Ask, Hijack
from cove.daemon.docker.logs import pieces, streams_of
from cove.daemon.docker.pending import Pending, Waiting
from cove.engine import calls
from cove.engine.calls import Session
from cove.engine.engine import Engine
from cove.errors import CoveError, NotFound, UsageError
from cove.shown.logs import Marked
from cove.spec.values import check_detach_keys


def look(engine: Engine, pending: Pending, machine: str) -> None:
    """Serve who waits for this machine, if it runs by now; who waits for one that is gone, or has
    ended since it was asked for, hears nothing any more. Asked after each of ``CHANGES``, and by
    who has just begun to wait: whatever comes between two looks is seen by the second.
    """
    for each in pending.held(machine):
        try:
            now = engine.found(machine)
            over = now.finished not in (0.0, each.finished)
            if not over and not _runs(engine, machine):
                continue
        except NotFound:
            over = True
        if pending.claim(machine, each):
            if not over:
                attach_late(engine, machine, each)
            each.give_up()


def _runs(engine: Engine, machine: str) -> bool:
    """Its program: a guest may still be booting."""
    return engine.is_running(machine) and bool(engine.found(machine).pid)


def attach_late(engine: Engine, machine: str, waiting: Waiting) -> None:
    params = calls.Attach(machine, waiting.streams, False, waiting.detach_keys)
    try:
        engine.attach(params, calls.Call(session=waiting.session))
    except CoveError:
        pass  # it ended already: there is nothing left to hear


def attach_raw(ask: Ask) -> Hijack | Answer:
    """As a websocket has it: nothing tells its streams apart."""
    return attach(ask, raw=True)


def attach(ask: Ask, *, raw: bool = False) -> Hijack | Answer:
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
        before = pieces(ask, machine, wanted, Marked(times=False, details=False), raw=raw)
    if not live and not log:
        raise UsageError("cannot attach: neither stream nor logs was asked for")
    waiting: list[Waiting] = []

    def begin(session: Session, release: Callable[[], None]) -> None:
        if _runs(ask.engine, machine.id):
            params = calls.Attach(machine.id, streams, False, keys)
            ask.engine.attach(params, calls.Call(session=session))
            release()
        else:
            waiting.append(Waiting(session, streams, keys, release, machine.finished))
            ask.pending.add(machine.id, waiting[0])
            look(ask.engine, ask.pending, machine.id)  # it may have been started just before

    def forget() -> None:
        if waiting:
            ask.pending.drop(machine.id, waiting[0])

    def waits() -> bool:
        held = ask.pending.held(machine.id)
        return any(one is each for one in waiting for each in held)

    spec = machine.spec
    return Hijack(
        begin,
        tty=spec.tty,
        stdin="stdin" in streams and spec.stdin_open,
        before=before,
        live=live,
        forget=forget,
        waits=waits,
        raw=raw or None,
    )
