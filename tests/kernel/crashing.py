"""A daemon that kills itself before its Nth effect after a verb began: not a test.

    python crashing.py N COUNT-FILE MODULE:FUNCTION --root ROOT …

An effect is a call out of cove's own code that changes something: a system call of the daemon or a
statement of SQLite. They are seen by Python's profiler, so that nothing in cove knows of this.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

NAMES = """
mkdir rmdir unlink rename open write pwrite posix_spawn bind listen sendmsg send connect execute
pidfd_send_signal kill close
"""
EFFECTS = frozenset(NAMES.split())


class Countdown:
    def __init__(self, last: int, report: Path) -> None:
        self._last, self._report = last, report
        self._count = 0
        self.armed = False
        self._lock = threading.Lock()

    def profile(self, frame: FrameType, event: str, function: Any) -> None:
        if not self.armed or event != "c_call" or function.__name__ not in EFFECTS:
            return
        if "/cove/" not in frame.f_code.co_filename:
            return
        with self._lock:
            self._count += 1
            if self._count == self._last:
                where = f"{frame.f_code.co_filename}:{frame.f_lineno} {function.__name__}"
                self._report.write_text(where)
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    countdown = Countdown(int(sys.argv[1]), Path(sys.argv[2]))
    threading.setprofile(countdown.profile)

    from cove.daemon.main import main as daemon

    module, _, name = sys.argv[3].partition(":")
    begin = getattr(importlib.import_module(module), name)

    def run(*words: Any, **named: Any) -> Any:
        countdown.armed = True
        return begin(*words, **named)

    setattr(sys.modules[module], name, run)
    return daemon(sys.argv[4:])


if __name__ == "__main__":
    sys.exit(main())
