"""A plugin of pytest: a failure is told when it happens, not at the end of a slow run."""

from __future__ import annotations

import pytest


class Aloud:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.getplugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line(
                f"\n{report.when} of {report.nodeid}: {report.longreprtext[-1500:]}"
            )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Aloud(config))
