"""The verbs of a machine's life, from ``create`` to ``remove``."""

from __future__ import annotations

from cove.engine import calls
from cove.engine.calls.mounts import MountChange, MountsChanged
from cove.engine.images import foreign
from cove.engine.machines import (
    life,
    pause,
    prune,
    remounting,
    rename,
    resizing,
    stopping,
    update,
    waiting,
)
from cove.engine.machines.attach import attach
from cove.engine.machines.exec import Extra, exec_in
from cove.engine.machines.restart import restart
from cove.engine.machines.start import Foreground
from cove.engine.networks import linking
from cove.engine.verbs.base import Verbs
from cove.errors import UsageError


class MachineVerbs(Verbs):
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

    def waiter(self, text: str, condition: str) -> waiting.Waiter:
        """One who waits for an end from now on."""
        return waiting.Waiter(self.home, self._find(text), condition)

    def wait(self, params: calls.Wait, call: calls.Call) -> calls.Waited:
        with self.waiter(params.machine, params.condition) as waiter:
            return calls.Waited(*waiter.wait(call.cancelled))

    def remove(self, params: calls.Remove, call: calls.Call) -> calls.Named:
        record = self._find(params.machine)
        if params.link:
            linking.remove(self.home, record, params.link)
        else:
            stopping.remove(
                self.home, record, force=params.force, volumes=params.volumes,
                cancelled=call.cancelled,
            )  # fmt: skip
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

    def resize(self, text: str, rows: int, columns: int) -> None:
        resizing.resize(self.home, self._find(text), rows, columns)

    def change_mounts(self, params: MountChange, call: calls.Call) -> MountsChanged:
        return remounting.change(self.home, self._find(params.machine), params)

    def prune(self, params: calls.Prune, call: calls.Call) -> calls.Pruned:
        stopping.settle(self.home, tuple(self.home.lives))
        return prune.prune(self.home, params)


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
