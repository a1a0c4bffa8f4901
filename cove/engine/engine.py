"""The engine: every verb as ``method(params, call)``, over one ``Home``. Here it is opened and
closed; its verbs are in ``verbs/``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Self

from cove.engine import calls
from cove.engine.builds import collecting
from cove.engine.home import Home
from cove.engine.images import trees
from cove.engine.looking import plan
from cove.engine.machines import ending, recover
from cove.engine.machines.restart import take_up
from cove.engine.machines.retrying import Retries
from cove.engine.opening import open_home
from cove.engine.system import disk
from cove.engine.verbs.guests import GuestVerbs
from cove.engine.verbs.images import ImageVerbs
from cove.engine.verbs.looking import LookingVerbs
from cove.engine.verbs.machines import MachineVerbs
from cove.engine.verbs.networks import NetworkVerbs
from cove.engine.verbs.snapshots import SnapshotVerbs
from cove.engine.verbs.system import SystemVerbs
from cove.engine.verbs.volumes import VolumeVerbs
from cove.executor.messages import Kind


class Engine(
    MachineVerbs,
    LookingVerbs,
    NetworkVerbs,
    VolumeVerbs,
    SnapshotVerbs,
    ImageVerbs,
    GuestVerbs,
    SystemVerbs,
):
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

    def shutdown(self, params: calls.Nothing, call: calls.Call) -> calls.Nothing:
        self.on_shutdown()
        return calls.Nothing()
