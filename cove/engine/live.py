"""A machine that lives: its monitor's socket, its group, and what was asked of it. Only memory; all
of it can be found again by ``recover``.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from cove.engine.events import Events
from cove.engine.networks.served import Served
from cove.engine.slots import Slot
from cove.errors import CoveError
from cove.executor.messages import ExitRecord
from cove.linux.cgroups.tree import Group
from cove.linux.network.tap import close_taps
from cove.linux.timers import Timer
from cove.plan.ops import Plan
from cove.store.records import Cause
from cove.vm.moments import Held

if TYPE_CHECKING:  # it stands on this
    from cove.engine.machines.health import Checks


@dataclass(slots=True, eq=False)
class Live:
    """One machine from its start until everything of it is put away."""

    key: int
    session: bool = False
    """A front waits for its exit: a reason may be added to the exit code."""
    ctl: socket.socket | None = None
    group: Group | None = None
    slot: Slot | None = None
    """What was made ahead, until the start took it."""
    moment: Held | None = None
    """What a fork begins with, until its start took it; it is the forking verb's."""
    id_range: int = -1
    pid: int = 0
    pidfd: int = -1
    plan: Plan | None = None
    """Until the start succeeded, to explain a report."""
    netns: int = -1
    """Its network namespace, between the barrier of its plan and its first link."""
    cards: tuple[int, ...] = ()
    """The host's ends of a virtual machine's: while they are held, its emulator ends without
    waiting for the kernel to take them away.
    """
    unplugged: CoveError | None = None
    """Why it could not be connected to its networks."""
    started: bool = False
    failure: CoveError | None = None
    ended: ExitRecord | None = None
    over: bool = False
    """Its end, or why it could not start, is in its record."""
    cause: Cause = field(default_factory=partial(Cause, ""))
    """Once it ended."""
    asked: str = ""
    """Who ended it, if cove did: timeout, storage, files, stop, kill, monitor."""
    virtual: bool = False
    """Its program runs in a guest: somebody stands in for it here."""
    keeps_disk: bool = False
    """A virtual machine whose disk is to be written before it ends."""
    ending_guest: bool = False
    """That was asked of it."""
    forget: bool = False
    forget_volumes: bool = False
    """Remove its record too once it is put away."""
    gone: bool = False
    """Its monitor has torn everything down."""
    stuck: str = ""
    """Why it could not be put away; whoever removes it has that tried again."""
    leaving: Events = field(default_factory=Events)
    """For those that wait until it is put away: of hundreds that end at the same time each wakes
    only its own.
    """
    timers: list[Timer] = field(default_factory=list)
    refused: dict[str, None] = field(default_factory=dict)
    """System calls that seccomp refused, in order."""
    changing: threading.Lock = field(default_factory=threading.Lock)
    """Held by who pauses it or changes its limits."""
    served: Served = field(default_factory=Served)
    """Its published ports."""
    copied: int = 0
    """By so many, for whom it stands still; the last of them lets it go on."""
    checks: Checks | None = None
    """Its health checks, while it runs."""
    closers: list[Callable[[], None]] = field(default_factory=list)
    """Watches that end with the machine."""

    def close_monitor(self) -> None:
        if self.ctl is not None:
            self.ctl.close()
            self.ctl = None

    def drop_network(self) -> None:
        if self.netns >= 0:
            os.close(self.netns)
            self.netns = -1

    def close(self) -> None:
        """Let go of every descriptor but its process's; the machine itself is not touched."""
        for timer in self.timers:
            timer.cancel()
        for closer in self.closers:
            closer()
        self.timers, self.closers = [], []
        self.close_monitor()
        self.drop_network()
        cards, self.cards = self.cards, ()
        close_taps(cards)

    def __del__(self) -> None:
        """Only now: whoever holds the machine may signal its process by this descriptor, whose
        number must not be another machine's by then.
        """
        if self.pidfd >= 0:
            os.close(self.pidfd)
