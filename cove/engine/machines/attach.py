"""One more foreground on a running machine: its monitor takes the caller's session."""

from __future__ import annotations

from cove.engine.home import Home
from cove.engine.machines.pause import check_not_paused
from cove.engine.machines.start import Foreground
from cove.engine.machines.stopping import running
from cove.errors import Conflict, HostError
from cove.executor.messages import Attach, StartFlag, Stream, send_attach
from cove.spec.values import parse_detach_keys
from cove.store.records import MachineRecord

NAMES = {"in": Stream.STDIN, "out": Stream.STDOUT, "err": Stream.STDERR}


def attach(home: Home, record: MachineRecord, foreground: Foreground) -> None:
    live = running(home, record)
    if live is None or live.ctl is None or not live.started:
        raise Conflict(
            f"cannot attach to {record.name}: it is not running",
            hint=f"start it first: cove start {record.name}",
        )
    check_not_paused(record, "attach to")
    spec, session = record.spec, foreground.session
    which = foreground.which if spec.stdin_open else foreground.which & ~Stream.STDIN
    flags = StartFlag.TTY if spec.tty else StartFlag(0)
    flags |= StartFlag.SIG_PROXY if foreground.sig_proxy else StartFlag(0)
    request = Attach(
        flags=flags,
        which=which,
        rows=session.rows,
        columns=session.columns,
        keys=parse_detach_keys(foreground.detach_keys or spec.detach_keys),
    )
    stdio = {NAMES[name]: fd for name, fd in foreground.direct(stdin=spec.stdin_open).items()}
    live.session = True
    try:
        send_attach(live.ctl, request, session.front, stdio)
    except OSError as error:
        raise HostError(f"cannot attach to {record.name}: its monitor is gone") from error
    home.publish("attach", record)
