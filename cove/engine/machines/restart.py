"""restart: stop, then start, as one intention that is recorded first.

While it is, an ephemeral machine that ends is kept; a daemon that finds it recorded brings it to
its end (``take_up``).
"""

from __future__ import annotations

import threading
from functools import partial

from cove.engine.home import Home
from cove.engine.machines import ending, life, stopping
from cove.engine.reactor import complain
from cove.engine.snapshots import strata
from cove.errors import CoveError, Unsupported
from cove.store.records import MachineRecord

ACTIVE = ("running", "paused")


def restart(
    home: Home, record: MachineRecord, timeout: int | None, signal_name: str, *, restoring: str = ""
) -> None:
    """Once it runs again; two restarts of one machine come one after the other. ``restoring``: the
    id of a snapshot that it goes back to meanwhile.
    """
    if record.spec.isolation == "vm" and record.spec.remove and not restoring:
        raise Unsupported(
            f"cannot restart {record.name}: what a virtual machine writes that was run with --rm "
            "is on no disk when it ends",
            hint="run it without --rm",
            exit_code=1,
        )
    record = _claim(home, record.key, restoring)
    _carry_out(home, record, timeout, signal_name)


def take_up(home: Home) -> None:
    """Restarts that an earlier daemon began."""
    for record in home.store.machines():
        if record.restarting:
            resume = partial(_resume, home, record)
            threading.Thread(target=resume, name="restart", daemon=True).start()


def _resume(home: Home, record: MachineRecord) -> None:
    try:
        if record.state in ACTIVE and not record.stopping:  # it runs again
            _done(home, record.key)
            home.publish("restart", record)
        else:
            _carry_out(home, record, 0 if record.restoring else None, "")
    except CoveError:
        pass  # nobody waits for it; the record says why it does not run
    except Exception:
        if not home.closing:
            complain("a restart")


def _carry_out(home: Home, record: MachineRecord, timeout: int | None, signal_name: str) -> None:
    live = home.lives.get(record.key)
    if live is not None and record.restoring and not timeout:
        live.keeps_disk = False  # another one takes its place
    try:
        stopping.stop(home, record, timeout, signal_name)
        strata.finish_restore(home, record.key)
        record = life.start(home, record, None)
    finally:
        _done(home, record.key)
    home.publish("restart", record)


def _claim(home: Home, key: int, restoring: str) -> MachineRecord:
    """Write the intention down, once nobody else's is."""
    while True:
        with home.lock:
            if not home.record(key).restarting:
                if restoring:
                    home.store.find_snapshot(restoring)  # which from here on nobody removes
                return home.update(key, restarting=True, stopping=True, restoring=restoring)
        home.events.wait_until(lambda: not _is_restarting(home, key))


def _is_restarting(home: Home, key: int) -> bool:
    return home.store.has_machine(key) and home.record(key).restarting


def _done(home: Home, key: int) -> None:
    """What was kept for a start that never came, or has ended again, is ephemeral once more."""
    if home.closing:
        return  # the next daemon finds it recorded
    with home.lock:
        if not home.store.has_machine(key):
            return
        record = home.update(key, restarting=False, restoring="")
        if record.spec.remove and record.state not in ACTIVE and key not in home.lives:
            ending.forget(home, record)
    home.events.nudge()
