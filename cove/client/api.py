"""The client: one typed method a verb, over any transport. The command line and the Python API
stand on it.

It adds nothing to a verb: no printing, no defaults of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import msgspec

from cove.client.transport import Caller, Transport
from cove.client.verbs import VERBS
from cove.engine import calls
from cove.engine.calls import (
    build,
    capture,
    kernels,
    lists,
    mounts,
    networks,
    ports,
    ship,
    snapshots,
    templates,
    volumes,
)
from cove.engine.calls.check import Check, Checked
from cove.engine.calls.prepare import Prepare

NONE = calls.Call()


class Client:
    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def _call(self, name: str, params: msgspec.Struct, call: calls.Call = NONE) -> Any:
        return self.transport.call(VERBS[name], params, call)

    def _foreground(self, name: str, params: msgspec.Struct, caller: Caller) -> int | None:
        return self.transport.session(VERBS[name], params, caller)

    # ---- machines ----

    def create(self, params: calls.Create) -> calls.Created:
        result: calls.Created = self._call("machine.create", params)
        return result

    def run_detached(self, params: calls.Run) -> calls.Created:
        result: calls.Created = self._call("machine.run", params)
        return result

    def run(self, params: calls.Run, caller: Caller) -> int | None:
        """Create and start in the foreground: the exit code, or None once a monitor serves the
        caller."""
        return self._foreground("machine.run", params, caller)

    def prepare(
        self, params: Prepare, cancelled: threading.Event | None = None
    ) -> Iterator[calls.Progress]:
        """What ``run`` of a virtual machine would make first, without a word."""
        call = calls.Call(cancelled=cancelled)
        return self.transport.stream(VERBS["machine.prepare"], params, call)

    def start(self, params: calls.Start) -> calls.Started:
        result: calls.Started = self._call("machine.start", params)
        return result

    def start_attached(self, params: calls.Start, caller: Caller) -> int | None:
        return self._foreground("machine.start", params, caller)

    def attach(self, params: calls.Attach, caller: Caller) -> int | None:
        return self._foreground("machine.attach", params, caller)

    def exec_detached(self, params: calls.Exec) -> calls.Started:
        result: calls.Started = self._call("machine.exec", params)
        return result

    def exec(self, params: calls.Exec, caller: Caller) -> int | None:
        return self._foreground("machine.exec", params, caller)

    def stop(self, params: calls.Stop) -> calls.Named:
        result: calls.Named = self._call("machine.stop", params)
        return result

    def kill(self, params: calls.Kill) -> calls.Named:
        result: calls.Named = self._call("machine.kill", params)
        return result

    def wait(self, params: calls.Wait, cancelled: threading.Event | None = None) -> calls.Waited:
        result: calls.Waited = self._call("machine.wait", params, calls.Call(cancelled=cancelled))
        return result

    def remove(self, params: calls.Remove, cancelled: threading.Event | None = None) -> calls.Named:
        call = calls.Call(cancelled=cancelled)
        result: calls.Named = self._call("machine.remove", params, call)
        return result

    def restart(self, params: calls.Restart) -> calls.Named:
        result: calls.Named = self._call("machine.restart", params)
        return result

    def pause(self, params: calls.Pause) -> calls.Named:
        result: calls.Named = self._call("machine.pause", params)
        return result

    def unpause(self, params: calls.Unpause) -> calls.Named:
        result: calls.Named = self._call("machine.unpause", params)
        return result

    def rename(self, params: calls.Rename) -> calls.Named:
        result: calls.Named = self._call("machine.rename", params)
        return result

    def update(self, params: calls.Update) -> calls.Named:
        result: calls.Named = self._call("machine.update", params)
        return result

    def change_mounts(self, params: mounts.MountChange) -> mounts.MountsChanged:
        result: mounts.MountsChanged = self._call("machine.mounts", params)
        return result

    def prune(self, params: calls.Prune) -> calls.Pruned:
        result: calls.Pruned = self._call("machine.prune", params)
        return result

    def list(self, params: calls.List) -> calls.Listed:
        result: calls.Listed = self._call("machine.list", params)
        return result

    def inspect(self, params: calls.Inspect) -> calls.Inspected:
        result: calls.Inspected = self._call("machine.inspect", params)
        return result

    def logs(
        self, params: calls.Logs, cancelled: threading.Event | None = None
    ) -> Iterator[calls.LogEntry]:
        call = calls.Call(cancelled=cancelled)
        return self.transport.stream(VERBS["machine.logs"], params, call)

    def stats(
        self, params: calls.StatsRequest, cancelled: threading.Event | None = None
    ) -> Iterator[calls.Round]:
        call = calls.Call(cancelled=cancelled)
        return self.transport.stream(VERBS["machine.stats"], params, call)

    def top(self, params: calls.Top) -> calls.Processes:
        result: calls.Processes = self._call("machine.top", params)
        return result

    def plan(self, params: calls.PlanRequest) -> calls.Planned:
        result: calls.Planned = self._call("machine.plan", params)
        return result

    # ---- files of machines ----

    def path_info(self, params: calls.PathAsk) -> calls.PathInfo:
        result: calls.PathInfo = self._call("machine.path", params)
        return result

    def copy_out(
        self, params: calls.CopyOut, sink: int, cancelled: threading.Event | None = None
    ) -> calls.PathInfo:
        """A tar to the descriptor ``sink``; returns once it is whole."""
        call = calls.Call(sink=sink, cancelled=cancelled)
        result: calls.PathInfo = self.transport.raw(VERBS["machine.copy_out"], params, call)
        return result

    def copy_in(self, params: calls.CopyIn, call: calls.Call) -> calls.Copied:
        """``call.body``: a descriptor that a tar is read from."""
        result: calls.Copied = self._call("machine.copy_in", params, call)
        return result

    def diff(self, params: calls.Diff) -> calls.Changes:
        result: calls.Changes = self._call("machine.diff", params)
        return result

    def export(
        self, params: calls.Export, sink: int, cancelled: threading.Event | None = None
    ) -> calls.Named:
        call = calls.Call(sink=sink, cancelled=cancelled)
        result: calls.Named = self.transport.raw(VERBS["machine.export"], params, call)
        return result

    def commit(
        self, params: calls.Commit, cancelled: threading.Event | None = None
    ) -> calls.Committed:
        call = calls.Call(cancelled=cancelled)
        result: calls.Committed = self._call("machine.commit", params, call)
        return result

    def change_ports(self, params: ports.PortChange) -> ports.Ports:
        result: ports.Ports = self._call("machine.ports", params)
        return result

    # ---- volumes ----

    def volume_create(self, params: volumes.VolumeCreate) -> volumes.VolumeNamed:
        result: volumes.VolumeNamed = self._call("volume.create", params)
        return result

    def volume_list(self, params: volumes.VolumeList) -> volumes.VolumesListed:
        result: volumes.VolumesListed = self._call("volume.list", params)
        return result

    def volume_inspect(self, params: volumes.VolumeInspect) -> volumes.Volume:
        result: volumes.Volume = self._call("volume.inspect", params)
        return result

    def volume_remove(self, params: volumes.VolumeRemove) -> volumes.VolumeNamed:
        result: volumes.VolumeNamed = self._call("volume.remove", params)
        return result

    def volume_prune(self, params: volumes.VolumePrune) -> volumes.VolumesPruned:
        result: volumes.VolumesPruned = self._call("volume.prune", params)
        return result

    def volume_backup(
        self, params: volumes.VolumeBackup, sink: int, cancelled: threading.Event | None = None
    ) -> volumes.VolumeNamed:
        """A tar to the descriptor ``sink``; returns once it is whole."""
        call = calls.Call(sink=sink, cancelled=cancelled)
        result: volumes.VolumeNamed = self.transport.raw(VERBS["volume.backup"], params, call)
        return result

    def volume_restore(
        self, params: volumes.VolumeRestore, call: calls.Call
    ) -> volumes.VolumeNamed:
        """``call.body``: a descriptor that a tar is read from."""
        result: volumes.VolumeNamed = self._call("volume.restore", params, call)
        return result

    def volume_clone(
        self, params: volumes.VolumeClone, cancelled: threading.Event | None = None
    ) -> volumes.VolumeNamed:
        call = calls.Call(cancelled=cancelled)
        result: volumes.VolumeNamed = self._call("volume.clone", params, call)
        return result

    # ---- networks ----

    def network_create(self, params: networks.NetworkCreate) -> networks.NetworkNamed:
        result: networks.NetworkNamed = self._call("network.create", params)
        return result

    def network_list(self, params: networks.NetworkList) -> networks.NetworksListed:
        result: networks.NetworksListed = self._call("network.list", params)
        return result

    def network_inspect(self, params: networks.NetworkInspect) -> networks.Network:
        result: networks.Network = self._call("network.inspect", params)
        return result

    def network_remove(self, params: networks.NetworkRemove) -> networks.NetworkNamed:
        result: networks.NetworkNamed = self._call("network.remove", params)
        return result

    def network_prune(self, params: networks.NetworkPrune) -> networks.NetworksPruned:
        result: networks.NetworksPruned = self._call("network.prune", params)
        return result

    def network_connect(self, params: networks.NetworkConnect) -> networks.NetworkNamed:
        result: networks.NetworkNamed = self._call("network.connect", params)
        return result

    def network_disconnect(self, params: networks.NetworkDisconnect) -> networks.NetworkNamed:
        result: networks.NetworkNamed = self._call("network.disconnect", params)
        return result

    def network_capture(
        self, params: capture.NetworkCapture, sink: int, cancelled: threading.Event | None = None
    ) -> capture.Captured:
        """Packets, in pcap's form, to the descriptor ``sink``."""
        call = calls.Call(sink=sink, cancelled=cancelled)
        result: capture.Captured = self.transport.raw(VERBS["network.capture"], params, call)
        return result

    def network_refused(self, params: networks.NetworkRefused) -> networks.Refusals:
        result: networks.Refusals = self._call("network.refused", params)
        return result

    # ---- snapshots ----

    def snapshot_create(
        self, params: snapshots.SnapshotCreate, cancelled: threading.Event | None = None
    ) -> snapshots.SnapshotNamed:
        call = calls.Call(cancelled=cancelled)
        result: snapshots.SnapshotNamed = self._call("snapshot.create", params, call)
        return result

    def snapshot_list(self, params: snapshots.SnapshotList) -> snapshots.SnapshotsListed:
        result: snapshots.SnapshotsListed = self._call("snapshot.list", params)
        return result

    def snapshot_inspect(self, params: snapshots.SnapshotInspect) -> snapshots.Snapshot:
        result: snapshots.Snapshot = self._call("snapshot.inspect", params)
        return result

    def snapshot_remove(self, params: snapshots.SnapshotRemove) -> snapshots.SnapshotNamed:
        result: snapshots.SnapshotNamed = self._call("snapshot.remove", params)
        return result

    def snapshot_diff(
        self, params: snapshots.SnapshotDiff, cancelled: threading.Event | None = None
    ) -> snapshots.SnapshotChanges:
        call = calls.Call(cancelled=cancelled)
        result: snapshots.SnapshotChanges = self._call("snapshot.diff", params, call)
        return result

    def restore(self, params: snapshots.Restore) -> snapshots.Restored:
        result: snapshots.Restored = self._call("machine.restore", params)
        return result

    def fork(
        self, params: snapshots.Fork, cancelled: threading.Event | None = None
    ) -> snapshots.Forked:
        result: snapshots.Forked = self._call(
            "machine.fork", params, calls.Call(cancelled=cancelled)
        )
        return result

    # ---- images ----

    def images(self, params: calls.ImageList) -> calls.Images:
        result: calls.Images = self._call("image.list", params)
        return result

    def image(self, params: calls.ImageInspect) -> calls.Image:
        result: calls.Image = self._call("image.inspect", params)
        return result

    def image_remove(self, params: calls.ImageRemove) -> calls.ImageRemoved:
        result: calls.ImageRemoved = self._call("image.remove", params)
        return result

    def image_tag(self, params: calls.ImageTag) -> calls.Named:
        result: calls.Named = self._call("image.tag", params)
        return result

    def image_history(self, params: calls.ImageHistory) -> calls.History:
        result: calls.History = self._call("image.history", params)
        return result

    def image_prune(self, params: calls.ImagePrune) -> calls.ImagesPruned:
        result: calls.ImagesPruned = self._call("image.prune", params)
        return result

    def image_load(self, params: calls.ImageLoad, call: calls.Call) -> Iterator[calls.Progress]:
        return self.transport.stream(VERBS["image.load"], params, call)

    def image_import(self, params: calls.ImageImport, call: calls.Call) -> Iterator[calls.Progress]:
        return self.transport.stream(VERBS["image.import"], params, call)

    def image_pull(
        self, params: calls.ImagePull, cancelled: threading.Event | None = None
    ) -> Iterator[calls.Progress]:
        call = calls.Call(cancelled=cancelled)
        return self.transport.stream(VERBS["image.pull"], params, call)

    def image_push(
        self, params: ship.ImagePush, cancelled: threading.Event | None = None
    ) -> Iterator[calls.Progress]:
        return self.transport.stream(VERBS["image.push"], params, calls.Call(cancelled=cancelled))

    def image_copy(self, params: ship.ImageCopy, call: calls.Call) -> Iterator[calls.Progress]:
        return self.transport.stream(VERBS["image.copy"], params, call)

    def image_copy_out(self, params: ship.ImageCopy, call: calls.Call) -> ship.ImageCopied:
        result: ship.ImageCopied = self.transport.raw(VERBS["image.copy_out"], params, call)
        return result

    def manifest_create(
        self, params: lists.ManifestCreate, cancelled: threading.Event | None = None
    ) -> lists.ManifestShown:
        call = calls.Call(cancelled=cancelled)
        result: lists.ManifestShown = self._call("manifest.create", params, call)
        return result

    def manifest_annotate(self, params: lists.ManifestAnnotate) -> lists.ManifestShown:
        result: lists.ManifestShown = self._call("manifest.annotate", params)
        return result

    def manifest_inspect(
        self, params: lists.ManifestInspect, cancelled: threading.Event | None = None
    ) -> lists.ManifestShown:
        call = calls.Call(cancelled=cancelled)
        result: lists.ManifestShown = self._call("manifest.inspect", params, call)
        return result

    def manifest_push(
        self, params: lists.ManifestPush, cancelled: threading.Event | None = None
    ) -> Iterator[calls.Progress]:
        call = calls.Call(cancelled=cancelled)
        return self.transport.stream(VERBS["manifest.push"], params, call)

    def manifest_remove(self, params: lists.ManifestRemove) -> lists.ManifestShown:
        result: lists.ManifestShown = self._call("manifest.remove", params)
        return result

    def registry_login(
        self, params: ship.RegistryLogin, cancelled: threading.Event | None = None
    ) -> None:
        self._call("registry.login", params, calls.Call(cancelled=cancelled))

    def image_save(
        self, params: ship.ImageSave, sink: int, cancelled: threading.Event | None = None
    ) -> ship.ImagesSaved:
        call = calls.Call(sink=sink, cancelled=cancelled)
        result: ship.ImagesSaved = self.transport.raw(VERBS["image.save"], params, call)
        return result

    def image_build(self, call: calls.Call) -> Iterator[build.BuildStep]:
        """``call.body``: see ``cove.client.packing``."""
        return self.transport.stream(VERBS["image.build"], build.BuildAsked(), call)

    def build_prune(self, params: build.BuildPrune) -> build.BuildPruned:
        result: build.BuildPruned = self._call("build.prune", params)
        return result

    def image_bootstrap(
        self, params: calls.ImageBootstrap, cancelled: threading.Event | None = None
    ) -> Iterator[calls.Progress]:
        call = calls.Call(cancelled=cancelled)
        return self.transport.stream(VERBS["image.bootstrap"], params, call)

    # ---- guest kernels ----

    def kernel_list(self, params: kernels.KernelList) -> kernels.KernelsListed:
        result: kernels.KernelsListed = self._call("kernel.list", params)
        return result

    def template_list(self, params: templates.TemplateList) -> templates.TemplatesListed:
        result: templates.TemplatesListed = self._call("template.list", params)
        return result

    def template_remove(self, params: templates.TemplateRemove) -> templates.TemplateRemoved:
        result: templates.TemplateRemoved = self._call("template.remove", params)
        return result

    def kernel_add(
        self, params: kernels.KernelAdd, cancelled: threading.Event | None = None
    ) -> Iterator[calls.Progress]:
        call = calls.Call(cancelled=cancelled)
        return self.transport.stream(VERBS["kernel.add"], params, call)

    def kernel_fetch(
        self, params: kernels.KernelFetch, cancelled: threading.Event | None = None
    ) -> Iterator[calls.Progress]:
        call = calls.Call(cancelled=cancelled)
        return self.transport.stream(VERBS["kernel.fetch"], params, call)

    def kernel_build(
        self, params: kernels.KernelBuild, cancelled: threading.Event | None = None
    ) -> Iterator[calls.Progress]:
        call = calls.Call(cancelled=cancelled)
        return self.transport.stream(VERBS["kernel.build"], params, call)

    def kernel_remove(self, params: kernels.KernelRemove) -> kernels.KernelRemoved:
        result: kernels.KernelRemoved = self._call("kernel.remove", params)
        return result

    # ---- the system ----

    def events(
        self, params: calls.Events, cancelled: threading.Event | None = None
    ) -> Iterator[calls.Event]:
        call = calls.Call(cancelled=cancelled)
        return self.transport.stream(VERBS["system.events"], params, call)

    def info(self) -> calls.Info:
        result: calls.Info = self._call("system.info", calls.Nothing())
        return result

    def check(self, params: Check, cancelled: threading.Event | None = None) -> Iterator[Checked]:
        """The records against the disk: steps, and what was found."""
        call = calls.Call(cancelled=cancelled)
        return self.transport.stream(VERBS["system.check"], params, call)

    def disk_usage(self) -> calls.DiskUsage:
        result: calls.DiskUsage = self._call("system.df", calls.Nothing())
        return result

    def system_prune(self, params: calls.SystemPrune) -> calls.SystemPruned:
        result: calls.SystemPruned = self._call("system.prune", params)
        return result

    def version(self) -> calls.Version:
        result: calls.Version = self._call("system.version", calls.Nothing())
        return result

    def shutdown(self) -> None:
        self._call("system.shutdown", calls.Nothing())
