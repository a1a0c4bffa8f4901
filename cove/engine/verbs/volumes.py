"""The verbs of volumes."""

from __future__ import annotations

from cove.engine import calls
from cove.engine.calls.volumes import (
    Volume,
    VolumeBackup,
    VolumeClone,
    VolumeCreate,
    VolumeInspect,
    VolumeList,
    VolumeNamed,
    VolumePrune,
    VolumeRemove,
    VolumeRestore,
    VolumesListed,
    VolumesPruned,
)
from cove.engine.verbs.base import Verbs
from cove.engine.volumes import moving, volumes


class VolumeVerbs(Verbs):
    def volume_create(self, params: VolumeCreate, call: calls.Call) -> VolumeNamed:
        return VolumeNamed(volumes.create(self.home, params.spec).name)

    def volume_list(self, params: VolumeList, call: calls.Call) -> VolumesListed:
        return VolumesListed(volumes.listed(self.home))

    def volume_inspect(self, params: VolumeInspect, call: calls.Call) -> Volume:
        return volumes.inspect(self.home, params.volume)

    def volume_remove(self, params: VolumeRemove, call: calls.Call) -> VolumeNamed:
        return VolumeNamed(volumes.remove(self.home, params.volume).name)

    def volume_prune(self, params: VolumePrune, call: calls.Call) -> VolumesPruned:
        return volumes.prune(self.home, params)

    def volume_backup(self, params: VolumeBackup, call: calls.Call) -> VolumeNamed:
        return VolumeNamed(moving.backup(self.home, params.volume, call).name)

    def volume_restore(self, params: VolumeRestore, call: calls.Call) -> VolumeNamed:
        return VolumeNamed(moving.restore(self.home, params, call).name)

    def volume_clone(self, params: VolumeClone, call: calls.Call) -> VolumeNamed:
        return VolumeNamed(moving.clone(self.home, params, call).name)
