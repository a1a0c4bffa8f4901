"""The verbs that look at machines, and carry files in and out."""

from __future__ import annotations

from collections.abc import Iterator

from cove.engine import calls
from cove.engine.looking import listing, logs, plan, stats, top
from cove.engine.machines import life, stopping
from cove.engine.verbs.base import Verbs
from cove.engine.visits import commit, copying
from cove.store.records import MachineRecord


class LookingVerbs(Verbs):
    def found(self, text: str) -> MachineRecord:
        """The machine that somebody names."""
        return listing.as_seen(self._find(text))

    def is_running(self, text: str) -> bool:
        """Whether its program runs, also when it is paused."""
        record = self._find(text)
        life.wait_begun(self.home, record)
        return stopping.running(self.home, record) is not None

    def list(self, params: calls.List, call: calls.Call) -> calls.Listed:
        stopping.settle(self.home, tuple(self.home.lives))
        return listing.list_machines(self.home, everything=params.all, sizes=params.sizes)

    def inspect(self, params: calls.Inspect, call: calls.Call) -> calls.Inspected:
        record = self._find(params.machine)
        return listing.inspect_machine(self.home, record, sizes=params.sizes)

    def glance(self, text: str) -> calls.Inspected | None:
        """The same without sizes, where that is known at once; None: somebody is waited for."""
        return listing.glance(self.home, text)

    def logs(self, params: calls.Logs, call: calls.Call) -> Iterator[calls.LogEntry]:
        record = self._find(params.machine)
        return logs.follow_logs(self.home, record, params, call.cancelled)

    def stats(self, params: calls.StatsRequest, call: calls.Call) -> Iterator[calls.Round]:
        keys = tuple(self._find(name).key for name in params.machines)
        return stats.stats(self.home, params, call.cancelled, keys)

    def top(self, params: calls.Top, call: calls.Call) -> calls.Processes:
        return top.top(self.home, self._find(params.machine), params.options)

    def plan(self, params: calls.PlanRequest, call: calls.Call) -> calls.Planned:
        return calls.Planned(plan.plan_text(self.home, params.spec, json=params.json))

    def path_info(self, params: calls.PathAsk, call: calls.Call) -> calls.PathInfo:
        return copying.path_info(self.home, self._find(params.machine), params.path, call)

    def copy_out(self, params: calls.CopyOut, call: calls.Call) -> calls.PathInfo:
        return copying.copy_out(self.home, self._find(params.machine), params, call)

    def copy_in(self, params: calls.CopyIn, call: calls.Call) -> calls.Copied:
        return copying.copy_in(self.home, self._find(params.machine), params, call)

    def diff(self, params: calls.Diff, call: calls.Call) -> calls.Changes:
        return copying.diff(self.home, self._find(params.machine), call)

    def export(self, params: calls.Export, call: calls.Call) -> calls.Named:
        record = self._find(params.machine)
        copying.export(self.home, record, call)
        return calls.Named(record.id, record.name)

    def commit(self, params: calls.Commit, call: calls.Call) -> calls.Committed:
        image = commit.commit(self.home, self._find(params.machine), params, call)
        return calls.Committed(image.id)
