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
mkdir rmdir unlink link rename open write pwrite posix_spawn bind listen sendmsg send connect
execute pidfd_send_signal kill close
"""
EFFECTS = frozenset(NAMES.split())
CALLED = frozenset(("exchange", "rmtree"))
"""Effects that are functions of Python's own."""
CODE = str(Path(__file__).resolve().parents[2] / "cove") + os.sep


class Countdown:
    def __init__(self, last: int, report: Path) -> None:
        self._last, self._report = last, report
        self._count = 0
        self.armed = False
        self._lock = threading.Lock()

    def profile(self, frame: FrameType, event: str, function: Any) -> None:
        if not self.armed:
            return
        if event == "c_call" and function.__name__ in EFFECTS:
            caller, name = frame, function.__name__
        elif event == "call" and frame.f_code.co_name in CALLED and frame.f_back is not None:
            caller, name = frame.f_back, frame.f_code.co_name
        else:
            return
        if not caller.f_code.co_filename.startswith(CODE):
            return
        with self._lock:
            self._count += 1
            if self._count == self._last:
                where = f"{caller.f_code.co_filename}:{caller.f_lineno} {name}"
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
