"""The one table of verbs: HTTP routes, the direct calls inside the daemon and the Python API all
come from it.

A verb is a method of the engine, ``method(params, call)``. It says nothing of how a verb is carried
out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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

PROTOCOL = 1
"""Raised when a verb or its data changes in a way that older clients cannot read."""

PREFIX = f"/cove/v{PROTOCOL}/"
"""``POST <prefix><verb>`` with the parameters as JSON; see ``transport`` for streams, bodies and
sessions."""


@dataclass(frozen=True, slots=True)
class Verb:
    name: str
    """In HTTP: ``machine.create``."""
    method: str
    """Of the engine."""
    params: type[Any]
    result: type[Any]
    """Of each item, when ``stream``."""
    stream: bool = False
    """The method gives an iterator; HTTP: one JSON document a line."""
    session: bool = False
    """Takes ``Call.session``; the method gives None once the session is handed to a monitor."""
    body: bool = False
    """Takes ``Call.body``."""
    secret: bool = False
    """Its body holds secrets, and is read once, as it comes: HTTP keeps no byte of it."""
    raw: bool = False
    """Writes bytes to ``Call.sink`` before it answers; HTTP: frames, see ``transport``."""


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("machine.create", "create", calls.Create, calls.Created),
        Verb("machine.run", "run", calls.Run, calls.Created, session=True),
        Verb("machine.prepare", "prepare", Prepare, calls.Progress, stream=True),
        Verb("machine.start", "start", calls.Start, calls.Started, session=True),
        Verb("machine.attach", "attach", calls.Attach, calls.Named, session=True),
        Verb("machine.exec", "exec", calls.Exec, calls.Started, session=True),
        Verb("machine.stop", "stop", calls.Stop, calls.Named),
        Verb("machine.kill", "kill", calls.Kill, calls.Named),
        Verb("machine.wait", "wait", calls.Wait, calls.Waited),
        Verb("machine.remove", "remove", calls.Remove, calls.Named),
        Verb("machine.restart", "restart", calls.Restart, calls.Named),
        Verb("machine.pause", "pause", calls.Pause, calls.Named),
        Verb("machine.unpause", "unpause", calls.Unpause, calls.Named),
        Verb("machine.rename", "rename", calls.Rename, calls.Named),
        Verb("machine.update", "update", calls.Update, calls.Named),
        Verb("machine.mounts", "change_mounts", mounts.MountChange, mounts.MountsChanged),
        Verb("machine.ports", "change_ports", ports.PortChange, ports.Ports),
        Verb("machine.prune", "prune", calls.Prune, calls.Pruned),
        Verb("machine.list", "list", calls.List, calls.Listed),
        Verb("machine.inspect", "inspect", calls.Inspect, calls.Inspected),
        Verb("machine.logs", "logs", calls.Logs, calls.LogEntry, stream=True),
        Verb("machine.stats", "stats", calls.StatsRequest, calls.Round, stream=True),
        Verb("machine.top", "top", calls.Top, calls.Processes),
        Verb("machine.plan", "plan", calls.PlanRequest, calls.Planned),
        Verb("machine.path", "path_info", calls.PathAsk, calls.PathInfo),
        Verb("machine.copy_out", "copy_out", calls.CopyOut, calls.PathInfo, raw=True),
        Verb("machine.copy_in", "copy_in", calls.CopyIn, calls.Copied, body=True),
        Verb("machine.diff", "diff", calls.Diff, calls.Changes),
        Verb("machine.export", "export", calls.Export, calls.Named, raw=True),
        Verb("machine.commit", "commit", calls.Commit, calls.Committed),
        Verb("machine.restore", "restore", snapshots.Restore, snapshots.Restored),
        Verb("machine.fork", "fork", snapshots.Fork, snapshots.Forked),
        Verb(
            "snapshot.create", "snapshot_create", snapshots.SnapshotCreate, snapshots.SnapshotNamed
        ),
        Verb("snapshot.list", "snapshot_list", snapshots.SnapshotList, snapshots.SnapshotsListed),
        Verb("snapshot.inspect", "snapshot_inspect", snapshots.SnapshotInspect, snapshots.Snapshot),
        Verb(
            "snapshot.remove", "snapshot_remove", snapshots.SnapshotRemove, snapshots.SnapshotNamed
        ),
        Verb("snapshot.diff", "snapshot_diff", snapshots.SnapshotDiff, snapshots.SnapshotChanges),
        Verb(
            "network.capture", "network_capture", capture.NetworkCapture, capture.Captured, raw=True
        ),
        Verb("network.create", "network_create", networks.NetworkCreate, networks.NetworkNamed),
        Verb("network.list", "network_list", networks.NetworkList, networks.NetworksListed),
        Verb("network.inspect", "network_inspect", networks.NetworkInspect, networks.Network),
        Verb("network.remove", "network_remove", networks.NetworkRemove, networks.NetworkNamed),
        Verb("network.prune", "network_prune", networks.NetworkPrune, networks.NetworksPruned),
        Verb("network.connect", "network_connect", networks.NetworkConnect, networks.NetworkNamed),
        Verb(
            "network.disconnect",
            "network_disconnect",
            networks.NetworkDisconnect,
            networks.NetworkNamed,
        ),
        Verb("network.refused", "network_refused", networks.NetworkRefused, networks.Refusals),
        Verb("volume.create", "volume_create", volumes.VolumeCreate, volumes.VolumeNamed),
        Verb("volume.list", "volume_list", volumes.VolumeList, volumes.VolumesListed),
        Verb("volume.inspect", "volume_inspect", volumes.VolumeInspect, volumes.Volume),
        Verb("volume.remove", "volume_remove", volumes.VolumeRemove, volumes.VolumeNamed),
        Verb("volume.prune", "volume_prune", volumes.VolumePrune, volumes.VolumesPruned),
        Verb("volume.backup", "volume_backup", volumes.VolumeBackup, volumes.VolumeNamed, raw=True),
        Verb(
            "volume.restore",
            "volume_restore",
            volumes.VolumeRestore,
            volumes.VolumeNamed,
            body=True,
        ),
        Verb("volume.clone", "volume_clone", volumes.VolumeClone, volumes.VolumeNamed),
        Verb("image.list", "image_list", calls.ImageList, calls.Images),
        Verb("image.inspect", "image_inspect", calls.ImageInspect, calls.Image),
        Verb("image.remove", "image_remove", calls.ImageRemove, calls.ImageRemoved),
        Verb("image.tag", "image_tag", calls.ImageTag, calls.Named),
        Verb("image.history", "image_history", calls.ImageHistory, calls.History),
        Verb("image.prune", "image_prune", calls.ImagePrune, calls.ImagesPruned),
        Verb("image.load", "image_load", calls.ImageLoad, calls.Progress, stream=True, body=True),
        Verb(
            "image.import",
            "image_import",
            calls.ImageImport,
            calls.Progress,
            stream=True,
            body=True,
        ),
        Verb("image.push", "image_push", ship.ImagePush, calls.Progress, stream=True),
        Verb("image.copy", "image_copy", ship.ImageCopy, calls.Progress, stream=True, body=True),
        Verb(
            "image.copy_out",
            "image_copy_out",
            ship.ImageCopy,
            ship.ImageCopied,
            body=True,
            raw=True,
        ),
        Verb(
            "image.build",
            "image_build",
            build.BuildAsked,
            build.BuildStep,
            stream=True,
            body=True,
            secret=True,
        ),
        Verb("build.prune", "build_prune", build.BuildPrune, build.BuildPruned),
        Verb("manifest.create", "manifest_create", lists.ManifestCreate, lists.ManifestShown),
        Verb("manifest.annotate", "manifest_annotate", lists.ManifestAnnotate, lists.ManifestShown),
        Verb("manifest.inspect", "manifest_inspect", lists.ManifestInspect, lists.ManifestShown),
        Verb("manifest.push", "manifest_push", lists.ManifestPush, calls.Progress, stream=True),
        Verb("manifest.remove", "manifest_remove", lists.ManifestRemove, lists.ManifestShown),
        Verb("registry.login", "registry_login", ship.RegistryLogin, calls.Nothing),
        Verb("image.save", "image_save", ship.ImageSave, ship.ImagesSaved, raw=True),
        Verb("image.pull", "image_pull", calls.ImagePull, calls.Progress, stream=True),
        Verb(
            "image.bootstrap", "image_bootstrap", calls.ImageBootstrap, calls.Progress, stream=True
        ),
        Verb("system.events", "events", calls.Events, calls.Event, stream=True),
        Verb("template.list", "template_list", templates.TemplateList, templates.TemplatesListed),
        Verb(
            "template.remove",
            "template_remove",
            templates.TemplateRemove,
            templates.TemplateRemoved,
        ),
        Verb("kernel.list", "kernel_list", kernels.KernelList, kernels.KernelsListed),
        Verb("kernel.add", "kernel_add", kernels.KernelAdd, calls.Progress, stream=True),
        Verb("kernel.fetch", "kernel_fetch", kernels.KernelFetch, calls.Progress, stream=True),
        Verb("kernel.build", "kernel_build", kernels.KernelBuild, calls.Progress, stream=True),
        Verb("kernel.remove", "kernel_remove", kernels.KernelRemove, kernels.KernelRemoved),
        Verb("system.info", "info", calls.Nothing, calls.Info),
        Verb("system.df", "disk_usage", calls.Nothing, calls.DiskUsage),
        Verb("system.prune", "system_prune", calls.SystemPrune, calls.SystemPruned),
        Verb("system.check", "check", Check, Checked, stream=True),
        Verb("system.version", "version", calls.Nothing, calls.Version),
        Verb("system.shutdown", "shutdown", calls.Nothing, calls.Nothing),
    )
}
