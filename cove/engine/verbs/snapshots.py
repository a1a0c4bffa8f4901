"""The verbs of snapshots and forks."""

from __future__ import annotations

from cove.engine import calls
from cove.engine.calls.snapshots import (
    Fork,
    Forked,
    Restore,
    Restored,
    Snapshot,
    SnapshotChanges,
    SnapshotCreate,
    SnapshotDiff,
    SnapshotInspect,
    SnapshotList,
    SnapshotNamed,
    SnapshotRemove,
    SnapshotsListed,
)
from cove.engine.snapshots import differences, snapshots
from cove.engine.verbs.base import Verbs


class SnapshotVerbs(Verbs):
    def snapshot_create(self, params: SnapshotCreate, call: calls.Call) -> SnapshotNamed:
        made = snapshots.create(self.home, self._find(params.machine), params, call)
        return SnapshotNamed(made.id, made.name, made.pause)

    def snapshot_list(self, params: SnapshotList, call: calls.Call) -> SnapshotsListed:
        return SnapshotsListed(snapshots.listed(self.home, params))

    def snapshot_inspect(self, params: SnapshotInspect, call: calls.Call) -> Snapshot:
        return snapshots.inspect(self.home, params)

    def snapshot_remove(self, params: SnapshotRemove, call: calls.Call) -> SnapshotNamed:
        gone = snapshots.remove(self.home, params.snapshot)
        return SnapshotNamed(gone.id, gone.name)

    def snapshot_diff(self, params: SnapshotDiff, call: calls.Call) -> SnapshotChanges:
        return SnapshotChanges(differences.between(self.home, params, call))

    def restore(self, params: Restore, call: calls.Call) -> Restored:
        return snapshots.restore(self.home, self._find(params.machine), params)

    def fork(self, params: Fork, call: calls.Call) -> Forked:
        made, pause = snapshots.fork(self.home, self._find(params.machine), params, call)
        named = tuple(SnapshotNamed(m.id, m.name) for m in made)
        return Forked(named, pause)
