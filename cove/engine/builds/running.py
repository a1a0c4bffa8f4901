"""RUN: a machine like any other, on the tree before it. What it wrote is the build's, not the
machine's: it goes on without it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from cove.build.graph.data import RunStep
from cove.build.source import misfit
from cove.engine.builds import guests, trees
from cove.engine.builds.agents import visited
from cove.engine.builds.mounting import Mounted
from cove.engine.builds.trees import Tree
from cove.engine.calls import Session
from cove.engine.events import Cancel, Cancelled
from cove.engine.home import Home
from cove.engine.machines import life, stopping, waiting
from cove.engine.machines.start import Foreground
from cove.engine.vms.visitors import GuestSocket
from cove.errors import CoveError, StepFailed
from cove.oci.config import ImageConfig
from cove.oci.manifest import Platform
from cove.spec.machine import Isolation, Limits, MachineSpec, Mount, Security
from cove.spec.network import ASKED_FOR
from cove.store.records import Cause, LayerRecord, MachineRecord

LABEL = "cove.build"
PIECE = 1 << 16

Log = Callable[[bytes, int], None]
"""Hears what a program says and whether on 1 or 2, in a thread of its own."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says of every RUN."""

    build: str
    """Id of the build."""
    network: str = ""
    hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    apart: bool = False
    """Standard error is heard apart."""
    isolation: Isolation = "container"
    platform: Platform = field(default_factory=Platform)
    """Of the stage, where what it stands on does not say."""


def run(
    home: Home,
    step: RunStep,
    tree: Tree,
    given: Given,
    mounted: Mounted,
    log: Log,
    stopped: Cancel,
    pins: contextlib.ExitStack,
) -> LayerRecord:
    """The layer of what it wrote."""
    token = secrets.token_hex(16)
    home.steps[token] = None
    if mounted.whispers:
        home.whispers[token] = mounted.whispers
    try:
        spec = _spec(step, tree, given, mounted)
        heard = _Heard(log, apart=given.apart)
        with _grounded(home, spec, tree, stopped):
            ended = _run(home, spec, tree, given, mounted, token, heard, stopped)
            if ended.exit_code or ended.cause.kind == "start":
                raise _failed(step, ended.exit_code, ended.cause)
            if spec.isolation == "vm":
                return guests.layer_of(home, ended, stopped, pins)
        return trees.layer_of(home, tree, ended.upper, "keep what a step wrote", pins)
    finally:
        home.whispers.pop(token, None)
        last = home.steps.pop(token)
        if last is not None:
            home.remover.remove(home.store.layout.upper(last.upper))
            home.remover.remove(home.store.layout.machine(last.key))


def _grounded(
    home: Home, spec: MachineSpec, tree: Tree, stopped: Cancel
) -> contextlib.AbstractContextManager[None]:
    """What a virtual machine begins with, as a disk."""
    if spec.isolation == "vm":
        return home.disks.lent(home, trees.base_of(home, tree), stopped)
    return contextlib.nullcontext()


def _spec(step: RunStep, tree: Tree, given: Given, mounted: Mounted) -> MachineSpec:
    network = step.network if step.network != "default" else given.network
    return MachineSpec(
        tree.image.id or "scratch",
        step.argv,
        entrypoint=(),
        user=step.user,
        workdir=step.workdir,
        env=(*step.env, *step.proxies),
        isolation=given.isolation,
        labels={LABEL: given.build},
        network=network or ASKED_FOR,
        extra_hosts=given.hosts,
        mounts=mounted.mounts,
        remove=True,
        limits=given.limits,
        security=Security(privileged=step.security == "insecure"),
        log_driver="none",
    )


def _failed(step: RunStep, code: int, cause: Cause) -> StepFailed:
    why = "" if cause.kind in ("", "exit") or not cause.text else f": {cause.text}"
    found = misfit(step.place, f"RUN ended with exit code {code}{why}")
    error = StepFailed(found.message, origin=found.origin)
    error.code = code
    return error


def _run(
    home: Home,
    spec: MachineSpec,
    tree: Tree,
    given: Given,
    mounted: Mounted,
    token: str,
    heard: _Heard,
    stopped: Cancel,
) -> MachineRecord:
    """The last record of the machine, which is gone. It is ended with the build."""
    base = trees.base_of(home, tree)
    with contextlib.ExitStack() as stack, heard as (out, err):
        layers = (*stack.enter_context(_points(home, spec)), *base.layers)
        # What the image says of its own machines is for them: VOLUME, ENTRYPOINT, ENV.
        base = replace(base, config=_bare(base.config, given.platform), layers=layers)
        ground = life.Ground(base, layers=tree.layers, build=token)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(ours)
        with theirs:
            session = Session(theirs.fileno(), (-1, out.fileno(), err.fileno()), 0, 0, 0)
            foreground = Foreground(session, ("stdout", "stderr"), sig_proxy=False)
            machine = life.run(home, spec, foreground, ground)
        out.close()
        err.close()
        for number, agent in mounted.agents:
            stack.enter_context(visited(GuestSocket(home, machine.key, number), agent))
        try:
            waiting.wait(home, machine, "removed", stopped)
        except Cancelled:
            _end(home, machine)
            waiting.wait(home, machine, "removed")
            raise
    ended = home.steps[token]
    assert ended is not None
    return ended


@contextlib.contextmanager
def _points(home: Home, spec: MachineSpec) -> Iterator[tuple[int, ...]]:
    """The lowest layer of a step with mounts: places for them, which are in no layer afterwards.
    Nothing has to be taken out of a root that the step may have changed. In a guest its plan makes
    them (``planner.step_points``).
    """
    if not spec.mounts or spec.isolation == "vm":
        yield ()
        return
    key = home.store.new_key()
    root = home.store.layout.layer(key)
    os.mkdir(root, 0o755)
    os.chmod(root, 0o755)
    try:
        for mount in spec.mounts:
            with contextlib.suppress(OSError):  # who mounts says what is wrong with the name
                _point(root, mount)
        yield (key,)
    finally:
        home.remover.remove(root)


def _point(root: str, mount: Mount) -> None:
    """The tree is the daemon's own: it holds no link."""
    path = f"{root}{mount.target}"
    if mount.type == "bind" and not os.path.isdir(mount.source):
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644))
    else:
        os.makedirs(path, 0o755, exist_ok=True)


def _bare(config: ImageConfig, platform: Platform) -> ImageConfig:
    known = Platform(config.architecture, config.os, config.variant)
    says = known if known.architecture else platform
    return ImageConfig(
        architecture=says.architecture, os=says.os, variant=says.variant, workdir=config.workdir
    )


def _end(home: Home, machine: MachineRecord) -> None:
    with contextlib.suppress(CoveError):
        stopping.kill(home, machine, "KILL")


class _Heard:
    """What a step says is heard, to its end: both of its streams by one pipe, in order, or each by
    its own.
    """

    def __init__(self, log: Log, *, apart: bool) -> None:
        self._log, self._apart = log, apart
        self._ends: list[_End] = []
        self._readers: dict[int, int] = {}
        self._thread = threading.Thread(target=self._listen, name="step", daemon=True)

    def __enter__(self) -> tuple[_End, _End]:
        for stream in (1, 2) if self._apart else (1,):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            self._readers[reader] = stream
            self._ends.append(_End(writer))
        self._thread.start()
        return self._ends[0], self._ends[-1]

    def _listen(self) -> None:
        open_ = set(self._readers)
        poll = select.poll()
        for reader in open_:
            poll.register(reader, select.POLLIN)
        while open_:
            for reader, _ in poll.poll():
                data = os.read(reader, PIECE)
                if not data:
                    poll.unregister(reader)
                    open_.discard(reader)
                    continue
                with contextlib.suppress(CoveError):  # nobody listens any more
                    self._log(data, self._readers[reader])

    def __exit__(self, *_: object) -> None:
        for end in self._ends:
            end.close()
        self._thread.join()
        for reader in self._readers:
            os.close(reader)


class _End:
    """An end of a pipe, which is closed once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
