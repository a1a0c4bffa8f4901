"""What the end of a machine means for its record: it stays ended, or its restart policy starts it
again (``retrying``).
"""

from __future__ import annotations

import os
import time
from typing import Any

from cove.engine.home import Home
from cove.spec.restart import FIRST, again
from cove.store.records import MachineRecord

BY_USER = ("stop", "kill")


def first_delay() -> float:
    """``COVE_RESTART_DELAY``: seconds; what cannot be read is the default."""
    try:
        return max(0.001, float(os.environ["COVE_RESTART_DELAY"]))
    except (KeyError, ValueError):
        return FIRST


def outcome(record: MachineRecord, *, code: int, ran: float, asked: str = "") -> dict[str, Any]:
    """What the end of a machine changes in its record. ``asked``: who ended it, if cove did."""
    stopped = record.stopping or asked in BY_USER
    wait = again(
        record.spec.restart, code=code, stopped=stopped, restarts=record.restarts, ran=ran,
        delay=record.delay, first=first_delay(),
    )  # fmt: skip
    if wait is None:
        return {"state": "exited", "retry": 0.0, "delay": 0.0, "stopping": stopped}
    return {
        "state": "restarting",
        "restarts": record.restarts + 1,
        "retry": time.time() + wait,
        "delay": wait,
    }


def give_up(home: Home, key: int) -> bool:
    """Somebody stopped it while it waited. Whether it does not run, and will not by itself."""
    with home.lock:
        if not home.store.has_machine(key):
            return True
        state = home.record(key).state
        if state == "restarting":
            home.update(key, stopping=True)  # whoever is starting it at this moment finds this
            live = home.lives.get(key)
            if live is None or live.over:
                home.update(key, state="exited", retry=0.0, delay=0.0)
                home.retries.let_go(key)
                return True
        return state not in ("running", "paused", "restarting")
