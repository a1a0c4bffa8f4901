"""A plugin of pytest for a slow run that nobody sees the end of: a failure is told when it happens,
and every file with its time, how far the run is, and how fast.
"""

from __future__ import annotations

import os
import time

import pytest


class Aloud:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._began = self._file_began = time.monotonic()
        self._all = self._done = self._file_done = self._failed = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._all = len(session.items)
        self._began = self._file_began = time.monotonic()
        self._say(f"{self._all} tests on {' '.join(os.uname()[:3:2])}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed += 1
            self._say(f"{report.when} of {report.nodeid}: {_said(report)}")

    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> None:  # before the test: what is counted is what has ended
        self._next = nextitem

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._done += 1
        self._file_done += 1
        file = nodeid.partition("::")[0]
        if self._next is not None and self._next.nodeid.startswith(f"{file}::"):
            return
        now = time.monotonic()
        minutes = (now - self._began) / 60
        self._say(
            f"{file}: {self._file_done} in {now - self._file_began:.0f} s; "
            f"{self._done} of {self._all} in {minutes:.1f} min, "
            f"{self._done / minutes:.0f} a minute, {self._failed} failed"
        )
        self._file_began, self._file_done = now, 0

    def _say(self, text: str) -> None:
        terminal = self._config.pluginmanager.getplugin("terminalreporter")
        if terminal is not None:
            terminal.write_line(f"\n{text}")


def _said(report: pytest.TestReport) -> str:
    """Its beginning is what the test says, its end the daemon's log."""
    text = report.longreprtext
    crash = getattr(report.longrepr, "reprcrash", None)
    return text if crash is None else f"{crash.message[:2000]}\n[…]\n{text[-3000:]}"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Aloud(config))
