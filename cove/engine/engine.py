"""The engine: every verb as ``method(params, call)``, over one ``Home``. The border between what a
client says and the functions that do it; it holds no logic of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Self

from cove.engine import calls
from cove.engine.builds import collecting
from cove.engine.calls import build as of_builds
from cove.engine.calls import capture as of_capture
from cove.engine.calls import kernels as of_kernels
from cove.engine.calls import lists, ship
from cove.engine.calls import networks as of_networks
from cove.engine.calls import ports as of_ports
from cove.engine.calls import snapshots as of_snapshots
from cove.engine.calls import templates as of_templates
from cove.engine.calls import volumes as of_volumes
from cove.engine.calls.check import Check, Checked
from cove.engine.calls.mounts import MountChange, MountsChanged
from cove.engine.calls.prepare import Prepare
from cove.engine.home import Home
from cove.engine.images import building, foreign, images, saving, shipping, trees
from cove.engine.images import copying as image_copying
from cove.engine.images import lists as image_lists
from cove.engine.looking import listing, logs, plan, stats, top, watching
from cove.engine.machines import (
    ending,
    life,
    pause,
    prune,
    recover,
    remounting,
    rename,
    resizing,
    stopping,
    update,
    waiting,
)
from cove.engine.machines.attach import attach
from cove.engine.machines.exec import Extra, exec_in
from cove.engine.machines.restart import restart, take_up
from cove.engine.machines.retrying import Retries
from cove.engine.machines.start import Foreground
from cove.engine.networks import capturing, linking, networks, policies, publishing
from cove.engine.opening import open_home
from cove.engine.snapshots import differences, snapshots
from cove.engine.system import check, disk, info
from cove.engine.visits import commit, copying
from cove.engine.vms import kernels, prepare
from cove.engine.vms import templates as guests_kept
from cove.engine.volumes import moving, volumes
from cove.errors import UsageError
from cove.executor.messages import Kind
from cove.store.records import MachineRecord

if TYPE_CHECKING:
    from cove.image.distribution import Distributed


class Engine:
    """All machines of one state directory. ``with Engine.open(root, …)``; closing leaves them
    running.
    """

    def __init__(self, home: Home, stack: contextlib.ExitStack) -> None:
        self.home = home
        self._stack = stack
        self.on_shutdown: Callable[[], None] = lambda: None
        """What ``system.shutdown`` does after its answer: the daemon's own end."""

    @classmethod
    def open(
        cls, root: str, *, restart: Sequence[str], environment: dict[str, str], lock_fd: int | None
    ) -> Self:
        """Take the state directory, and take up every machine that runs."""
        with contextlib.ExitStack() as stack:
            home = open_home(stack, root, restart, environment, lock_fd)
            home.retries = Retries(home)
            stack.callback(home.retries.close)
            home.remover.sweep()
            recover.recover(home)
            home.forker.start()
            home.slots.open()
            home.pool.open()
            disk.watch_leftovers(home, time.time)
            collecting.watch(home)
            plan.warm_up(home)
            recorder = trees.Recorder(home)
            recorder.start()
            stack.callback(recorder.close)
            take_up(home)
            home.retries.open()
            return cls(home, stack.pop_all())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Tell the monitors that nobody needs to bring this daemon back; machines go on."""
        self.home.closing = True
        for live in list(self.home.lives.values()):
            if live.ctl is not None and not live.gone:
                ending.tell(live.ctl, Kind.BYE)
        self._stack.close()

    def _find(self, text: str) -> MachineRecord:
        record = self.home.store.find_machine(text)
        if record.key in self.home.lives:
            stopping.settle(self.home, (record.key,))
            # An ephemeral machine may be gone by now: what was found is what is told of it.
            if self.home.store.has_machine(record.key):
                record = self.home.record(record.key)
        return record

    def found(self, text: str) -> MachineRecord:
        """The machine that somebody names."""
        return listing.as_seen(self._find(text))

    def is_running(self, text: str) -> bool:
        """Whether its program runs, also when it is paused."""
        record = self._find(text)
        life.wait_begun(self.home, record)
        return stopping.running(self.home, record) is not None

    def waiter(self, text: str, condition: str) -> waiting.Waiter:
        """One who waits for an end from now on."""
        return waiting.Waiter(self.home, self._find(text), condition)

    def resize(self, text: str, rows: int, columns: int) -> None:
        resizing.resize(self.home, self._find(text), rows, columns)

    # ---- machines ----

    def create(self, params: calls.Create, call: calls.Call) -> calls.Created:
        notes = foreign.notes(self.home, params.spec, call)
        record = life.create(self.home, params.spec)
        return calls.Created(record.id, record.name, notes)

    def run(self, params: calls.Run, call: calls.Call) -> calls.Created:
        foreground = _foreground(call, params.attach, params.sig_proxy, bound=params.bound)
        notes = foreign.notes(self.home, params.spec, call)
        record = life.run(self.home, params.spec, foreground)
        return calls.Created(record.id, record.name, notes)

    def begun(self, machine: str) -> None:
        """Return once its program runs, or never will."""
        life.wait_begun(self.home, self._find(machine))

    def start(self, params: calls.Start, call: calls.Call) -> calls.Started:
        record = self._find(params.machine)
        foreground = _foreground(
            call, params.attach, params.sig_proxy, params.detach_keys, begun=params.begun
        )
        pause.check_not_paused(record, "start")
        life.wait_begun(self.home, record)
        if stopping.running(self.home, record) is None:
            record = life.start(self.home, record, foreground)
        elif foreground is not None:
            attach(self.home, record, foreground)
        return calls.Started(record.id, record.name)

    def attach(self, params: calls.Attach, call: calls.Call) -> calls.Named:
        record = self._find(params.machine)
        foreground = _foreground(call, params.attach, params.sig_proxy, params.detach_keys)
        if foreground is None:
            raise UsageError(f"cannot attach to {record.name}: no stream was asked for")
        attach(self.home, record, foreground)
        return calls.Named(record.id, record.name)

    def exec(self, params: calls.Exec, call: calls.Call) -> calls.Started:
        extra = self.begin_exec(params, call)
        return calls.Started(extra.id, extra.machine.name)

    def begin_exec(self, params: calls.Exec, call: calls.Call) -> Extra:
        """What is known of it, for as long as somebody wants to know."""
        record = self._find(params.machine)
        foreground = _foreground(call, params.attach, sig_proxy=False, bound=params.bound)
        life.wait_begun(self.home, record)
        return exec_in(self.home, record, params.spec, foreground, name=params.id)

    def stop(self, params: calls.Stop, call: calls.Call) -> calls.Named:
        record = self._find(params.machine)
        stopping.stop(self.home, record, params.timeout, params.signal)
        return calls.Named(record.id, record.name)

    def kill(self, params: calls.Kill, call: calls.Call) -> calls.Named:
        record = self._find(params.machine)
        stopping.kill(self.home, record, params.signal)
        return calls.Named(record.id, record.name)

    def wait(self, params: calls.Wait, call: calls.Call) -> calls.Waited:
        with self.waiter(params.machine, params.condition) as waiter:
            return calls.Waited(*waiter.wait(call.cancelled))

    def remove(self, params: calls.Remove, call: calls.Call) -> calls.Named:
        record = self._find(params.machine)
        if params.link:
            linking.remove(self.home, record, params.link)
        else:
            stopping.remove(self.home, record, force=params.force, volumes=params.volumes)
        return calls.Named(record.id, record.name)

    def restart(self, params: calls.Restart, call: calls.Call) -> calls.Named:
        record = self._find(params.machine)
        restart(self.home, record, params.timeout, params.signal)
        return calls.Named(record.id, record.name)

    def pause(self, params: calls.Pause, call: calls.Call) -> calls.Named:
        record = self._find(params.machine)
        pause.pause(self.home, record, stopping.running(self.home, record))
        return calls.Named(record.id, record.name)

    def unpause(self, params: calls.Unpause, call: calls.Call) -> calls.Named:
        record = self._find(params.machine)
        pause.unpause(self.home, record, stopping.running(self.home, record))
        return calls.Named(record.id, record.name)

    def rename(self, params: calls.Rename, call: calls.Call) -> calls.Named:
        record = rename.rename(self.home, self._find(params.machine), params.name)
        return calls.Named(record.id, record.name)

    def update(self, params: calls.Update, call: calls.Call) -> calls.Named:
        record = self._find(params.machine)
        update.update(self.home, record, params)
        return calls.Named(record.id, record.name)

    def change_mounts(self, params: MountChange, call: calls.Call) -> MountsChanged:
        return remounting.change(self.home, self._find(params.machine), params)

    def prune(self, params: calls.Prune, call: calls.Call) -> calls.Pruned:
        stopping.settle(self.home, tuple(self.home.lives))
        return prune.prune(self.home, params)

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

    # ---- networks ----

    def network_create(
        self, params: of_networks.NetworkCreate, call: calls.Call
    ) -> of_networks.NetworkNamed:
        made = networks.create(self.home, params.spec)
        return of_networks.NetworkNamed(made.id, made.name)

    def network_list(
        self, params: of_networks.NetworkList, call: calls.Call
    ) -> of_networks.NetworksListed:
        return of_networks.NetworksListed(networks.listed(self.home))

    def network_inspect(
        self, params: of_networks.NetworkInspect, call: calls.Call
    ) -> of_networks.Network:
        return networks.inspect(self.home, params.network)

    def network_remove(
        self, params: of_networks.NetworkRemove, call: calls.Call
    ) -> of_networks.NetworkNamed:
        gone = networks.remove(self.home, params.network)
        return of_networks.NetworkNamed(gone.id, gone.name)

    def network_prune(
        self, params: of_networks.NetworkPrune, call: calls.Call
    ) -> of_networks.NetworksPruned:
        return networks.prune(self.home, params)

    def network_connect(
        self, params: of_networks.NetworkConnect, call: calls.Call
    ) -> of_networks.NetworkNamed:
        return networks.connect(self.home, self._find(params.machine), params)

    def network_disconnect(
        self, params: of_networks.NetworkDisconnect, call: calls.Call
    ) -> of_networks.NetworkNamed:
        return networks.disconnect(self.home, self._find(params.machine), params)

    def network_capture(
        self, params: of_capture.NetworkCapture, call: calls.Call
    ) -> of_capture.Captured:
        return capturing.capture(self.home, params, call)

    def network_refused(
        self, params: of_networks.NetworkRefused, call: calls.Call
    ) -> of_networks.Refusals:
        return policies.refused(self.home, self._find(params.machine))

    def change_ports(self, params: of_ports.PortChange, call: calls.Call) -> of_ports.Ports:
        return publishing.change(self.home, self._find(params.machine), params)

    # ---- volumes ----

    def volume_create(
        self, params: of_volumes.VolumeCreate, call: calls.Call
    ) -> of_volumes.VolumeNamed:
        return of_volumes.VolumeNamed(volumes.create(self.home, params.spec).name)

    def volume_list(
        self, params: of_volumes.VolumeList, call: calls.Call
    ) -> of_volumes.VolumesListed:
        return of_volumes.VolumesListed(volumes.listed(self.home))

    def volume_inspect(
        self, params: of_volumes.VolumeInspect, call: calls.Call
    ) -> of_volumes.Volume:
        return volumes.inspect(self.home, params.volume)

    def volume_remove(
        self, params: of_volumes.VolumeRemove, call: calls.Call
    ) -> of_volumes.VolumeNamed:
        return of_volumes.VolumeNamed(volumes.remove(self.home, params.volume).name)

    def volume_prune(
        self, params: of_volumes.VolumePrune, call: calls.Call
    ) -> of_volumes.VolumesPruned:
        return volumes.prune(self.home, params)

    def volume_backup(
        self, params: of_volumes.VolumeBackup, call: calls.Call
    ) -> of_volumes.VolumeNamed:
        return of_volumes.VolumeNamed(moving.backup(self.home, params.volume, call).name)

    def volume_restore(
        self, params: of_volumes.VolumeRestore, call: calls.Call
    ) -> of_volumes.VolumeNamed:
        return of_volumes.VolumeNamed(moving.restore(self.home, params, call).name)

    def volume_clone(
        self, params: of_volumes.VolumeClone, call: calls.Call
    ) -> of_volumes.VolumeNamed:
        return of_volumes.VolumeNamed(moving.clone(self.home, params, call).name)

    # ---- snapshots ----

    def snapshot_create(
        self, params: of_snapshots.SnapshotCreate, call: calls.Call
    ) -> of_snapshots.SnapshotNamed:
        made = snapshots.create(self.home, self._find(params.machine), params, call)
        return of_snapshots.SnapshotNamed(made.id, made.name, made.pause)

    def snapshot_list(
        self, params: of_snapshots.SnapshotList, call: calls.Call
    ) -> of_snapshots.SnapshotsListed:
        return of_snapshots.SnapshotsListed(snapshots.listed(self.home, params))

    def snapshot_inspect(
        self, params: of_snapshots.SnapshotInspect, call: calls.Call
    ) -> of_snapshots.Snapshot:
        return snapshots.inspect(self.home, params)

    def snapshot_remove(
        self, params: of_snapshots.SnapshotRemove, call: calls.Call
    ) -> of_snapshots.SnapshotNamed:
        gone = snapshots.remove(self.home, params.snapshot)
        return of_snapshots.SnapshotNamed(gone.id, gone.name)

    def snapshot_diff(
        self, params: of_snapshots.SnapshotDiff, call: calls.Call
    ) -> of_snapshots.SnapshotChanges:
        return of_snapshots.SnapshotChanges(differences.between(self.home, params, call))

    def restore(self, params: of_snapshots.Restore, call: calls.Call) -> of_snapshots.Restored:
        return snapshots.restore(self.home, self._find(params.machine), params)

    def fork(self, params: of_snapshots.Fork, call: calls.Call) -> of_snapshots.Forked:
        made, pause = snapshots.fork(self.home, self._find(params.machine), params, call)
        named = tuple(of_snapshots.SnapshotNamed(m.id, m.name) for m in made)
        return of_snapshots.Forked(named, pause)

    # ---- images ----

    def image_list(self, params: calls.ImageList, call: calls.Call) -> calls.Images:
        return images.image_list(self.home)

    def image_inspect(self, params: calls.ImageInspect, call: calls.Call) -> calls.Image:
        return images.image_inspect(self.home, params.image, params.platform)

    def image_remove(self, params: calls.ImageRemove, call: calls.Call) -> calls.ImageRemoved:
        return images.image_remove(self.home, params)

    def image_tag(self, params: calls.ImageTag, call: calls.Call) -> calls.Named:
        return images.image_tag(self.home, params)

    def image_history(self, params: calls.ImageHistory, call: calls.Call) -> calls.History:
        return images.image_history(self.home, params.image, params.platform)

    def image_prune(self, params: calls.ImagePrune, call: calls.Call) -> calls.ImagesPruned:
        return disk.image_prune(self.home, params)

    def image_load(self, params: calls.ImageLoad, call: calls.Call) -> Iterator[calls.Progress]:
        return images.image_load(self.home, params, call)

    def image_import(self, params: calls.ImageImport, call: calls.Call) -> Iterator[calls.Progress]:
        return images.image_import(self.home, params, call)

    def image_pull(self, params: calls.ImagePull, call: calls.Call) -> Iterator[calls.Progress]:
        return images.image_pull(self.home, params, call)

    def image_copy(self, params: ship.ImageCopy, call: calls.Call) -> Iterator[calls.Progress]:
        return image_copying.image_copy(self.home, params, call)

    def image_copy_out(self, params: ship.ImageCopy, call: calls.Call) -> ship.ImageCopied:
        return image_copying.image_copy_out(self.home, params, call)

    def manifest_create(
        self, params: lists.ManifestCreate, call: calls.Call
    ) -> lists.ManifestShown:
        return image_lists.manifest_create(self.home, params, call)

    def manifest_annotate(
        self, params: lists.ManifestAnnotate, call: calls.Call
    ) -> lists.ManifestShown:
        return image_lists.manifest_annotate(self.home, params, call)

    def manifest_inspect(
        self, params: lists.ManifestInspect, call: calls.Call
    ) -> lists.ManifestShown:
        return image_lists.manifest_inspect(self.home, params, call)

    def image_distribution(
        self, name: str, login: calls.Login | None, call: calls.Call
    ) -> Distributed:
        return image_lists.image_distribution(self.home, name, login, call)

    def manifest_push(
        self, params: lists.ManifestPush, call: calls.Call
    ) -> Iterator[calls.Progress]:
        return image_lists.manifest_push(self.home, params, call)

    def manifest_remove(
        self, params: lists.ManifestRemove, call: calls.Call
    ) -> lists.ManifestShown:
        return image_lists.manifest_remove(self.home, params, call)

    def image_push(self, params: ship.ImagePush, call: calls.Call) -> Iterator[calls.Progress]:
        return shipping.image_push(self.home, params, call)

    def registry_login(self, params: ship.RegistryLogin, call: calls.Call) -> calls.Nothing:
        return shipping.registry_login(self.home, params, call)

    def image_save(self, params: ship.ImageSave, call: calls.Call) -> ship.ImagesSaved:
        return saving.image_save(self.home, params, call)

    def image_build(
        self, params: of_builds.BuildAsked, call: calls.Call
    ) -> Iterator[of_builds.BuildStep]:
        return building.image_build(self.home, call)

    def build_prune(self, params: of_builds.BuildPrune, call: calls.Call) -> of_builds.BuildPruned:
        return collecting.prune(self.home, params)

    def image_bootstrap(
        self, params: calls.ImageBootstrap, call: calls.Call
    ) -> Iterator[calls.Progress]:
        return images.image_bootstrap(self.home, params, call)

    # ---- guest kernels ----

    def kernel_list(
        self, params: of_kernels.KernelList, call: calls.Call
    ) -> of_kernels.KernelsListed:
        return kernels.kernel_list(self.home)

    def kernel_add(
        self, params: of_kernels.KernelAdd, call: calls.Call
    ) -> Iterator[calls.Progress]:
        return kernels.kernel_add(self.home, params, call)

    def kernel_fetch(
        self, params: of_kernels.KernelFetch, call: calls.Call
    ) -> Iterator[calls.Progress]:
        return kernels.kernel_fetch(self.home, params, call)

    def kernel_build(
        self, params: of_kernels.KernelBuild, call: calls.Call
    ) -> Iterator[calls.Progress]:
        return kernels.kernel_build(self.home, params, call)

    def prepare(self, params: Prepare, call: calls.Call) -> Iterator[calls.Progress]:
        return prepare.prepare(self.home, params, call)

    def template_list(
        self, params: of_templates.TemplateList, call: calls.Call
    ) -> of_templates.TemplatesListed:
        return guests_kept.template_list(self.home, params)

    def template_remove(
        self, params: of_templates.TemplateRemove, call: calls.Call
    ) -> of_templates.TemplateRemoved:
        return guests_kept.template_remove(self.home, params)

    def kernel_remove(
        self, params: of_kernels.KernelRemove, call: calls.Call
    ) -> of_kernels.KernelRemoved:
        return kernels.kernel_remove(self.home, params)

    # ---- the system ----

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

    def shutdown(self, params: calls.Nothing, call: calls.Call) -> calls.Nothing:
        self.on_shutdown()
        return calls.Nothing()


def _foreground(
    call: calls.Call,
    streams: tuple[str, ...],
    sig_proxy: bool,
    detach_keys: str = "",
    *,
    bound: bool = False,
    begun: bool = False,
) -> Foreground | None:
    """The caller's session, if any stream of it takes part."""
    if not streams:
        return None
    if call.session is None:
        raise UsageError("cannot attach: there is no session to attach")
    return Foreground(call.session, streams, sig_proxy, detach_keys, bound, begun)
