"""The Python API: volumes. ``client/aio_volumes.py`` is this file for asyncio, written by
``tools/aio.py``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO

from cove.client import runs
from cove.client.runs import Path
from cove.client.steps import Steps, finish
from cove.client.talk import Daemon
from cove.engine.calls import volumes as calls
from cove.spec.volume import VolumeSpec, check_volume, parse_volume_name


def _looked_at(daemon: Daemon, volume: str) -> Steps[calls.Volume]:
    found: calls.Volume = yield from daemon.call("volume.inspect", calls.VolumeInspect(volume))
    return found


class Volumes:
    """Volumes of a daemon; ``cove.volumes`` are those of the default one."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def create(
        self,
        name: str = "",
        *,
        size: str | int = "",
        block: bool = False,
        device: Path = "",
        labels: Mapping[str, str] | None = None,
    ) -> calls.Volume:
        """As ``cove volume create``; the one that is there, if it was made so. ``size``: no more
        than that. ``block``: a disk of virtual machines. ``device``: that directory of the host is
        the volume. Conflict: there is one of that name with other options."""
        options = {"size": str(size)} if size else {}
        if block:
            options["block"] = "true"
        if device:
            options |= {"type": "none", "o": "bind", "device": os.fspath(device)}
        spec = VolumeSpec(name, dict(labels or {}), options)
        check_volume(spec)
        made: calls.VolumeNamed = finish(
            self._daemon.call("volume.create", calls.VolumeCreate(spec))
        )
        return finish(_looked_at(self._daemon, made.name))

    def list(self) -> tuple[calls.Volume, ...]:
        """By name."""
        found: calls.VolumesListed = finish(self._daemon.call("volume.list", calls.VolumeList()))
        return found.volumes

    def get(self, volume: str) -> calls.Volume:
        """NotFound: there is none."""
        return finish(_looked_at(self._daemon, volume))

    def clone(self, volume: str, name: str) -> calls.Volume:
        """A new one with all that is in it. Conflict: there is one of that name."""
        parse_volume_name(name)
        finish(self._daemon.call("volume.clone", calls.VolumeClone(volume, name)))
        return finish(_looked_at(self._daemon, name))

    def backup(self, volume: str, archive: Path | IO[bytes]) -> None:
        """All that is in it as a tar, into a new file of this name, which is whole when this
        returns, or into an open file."""
        with runs.made(archive) as fd:
            finish(self._daemon.call("volume.backup", calls.VolumeBackup(volume), fd))

    def restore(
        self, volume: str, archive: Path | IO[bytes], *, force: bool = False
    ) -> calls.Volume:
        """What is in a tar, wholly or not at all; a volume that is not there is made. ``force``:
        in place of what it has. Conflict: it has something, or a machine that runs has it."""
        parse_volume_name(volume)
        with runs.opened(archive) as fd:
            params = calls.VolumeRestore(volume, force)
            finish(self._daemon.call("volume.restore", params, fd))
        return finish(_looked_at(self._daemon, volume))

    def remove(self, volume: str) -> None:
        """Conflict: a machine has it, whether it runs or not."""
        finish(self._daemon.call("volume.remove", calls.VolumeRemove(volume)))

    def prune(self, *, all: bool = False) -> calls.VolumesPruned:
        """Remove those that no machine has and nobody named; ``all``: the others too."""
        found: calls.VolumesPruned = finish(
            self._daemon.call("volume.prune", calls.VolumePrune(all=all))
        )
        return found
