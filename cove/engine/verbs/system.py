"""The verbs of the daemon, its host and its disk."""

from __future__ import annotations

from collections.abc import Iterator

from cove.engine import calls
from cove.engine.calls.check import Check, Checked
from cove.engine.looking import watching
from cove.engine.system import check, disk, info
from cove.engine.verbs.base import Verbs


class SystemVerbs(Verbs):
    def events(self, params: calls.Events, call: calls.Call) -> Iterator[calls.Event]:
        return watching.events(self.home, params, call.cancelled)

    def info(self, params: calls.Nothing, call: calls.Call) -> calls.Info:
        return info.info(self.home)

    def disk_usage(self, params: calls.Nothing, call: calls.Call) -> calls.DiskUsage:
        return disk.disk_usage(self.home)

    def system_prune(self, params: calls.SystemPrune, call: calls.Call) -> calls.SystemPruned:
        return disk.system_prune(self.home, params)

    def check(self, params: Check, call: calls.Call) -> Iterator[Checked]:
        return check.check(self.home, params)

    def version(self, params: calls.Nothing, call: calls.Call) -> calls.Version:
        return info.version(self.home)
