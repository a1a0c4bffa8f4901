"""What an engine holds open of its state directory and its host: every resource, in the order in
which they are given back backwards.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from functools import partial

from cove.engine.events import Events
from cove.engine.home import Home, boot_id
from cove.engine.images.disks import Disks
from cove.engine.machines import (
    ending,
    refusals,
)
from cove.engine.machines.probes import probe
from cove.engine.networks.names import Names
from cove.engine.networks.places import Places
from cove.engine.reactor import Reactor, Worker
from cove.engine.slots import Slots
from cove.engine.storage import StorageGuard
from cove.engine.vms.pool import Pool, pool_size
from cove.engine.vms.templates import Templates
from cove.executor.forker import Forker
from cove.linux.audit import open_audit
from cove.linux.cgroups.tree import open_cgroups
from cove.linux.kmsg import KernelLog
from cove.linux.probe import probe_facts
from cove.roots import Remover
from cove.store.db import Store


def open_home(
    stack: contextlib.ExitStack,
    root: str,
    restart: Sequence[str],
    environment: dict[str, str],
    lock_fd: int | None,
) -> Home:
    """Every resource, in the order in which they are given back backwards."""
    store = stack.enter_context(Store.open(root, lock_fd))
    root = store.layout.root
    facts = probe_facts(root)
    directory = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    state_fd = os.open(root, directory)
    stack.callback(os.close, state_fd)
    run_fd = os.open(store.layout.run, directory)
    stack.callback(os.close, run_fd)
    groups = stack.enter_context(open_cgroups(facts, root))
    forker = Forker(restart, environment=environment)
    stack.callback(forker.close)
    remover = Remover(store.layout.tmp)
    stack.callback(remover.close)
    kernel_log, audit = KernelLog.open(), open_audit() if facts.audit else None
    for listener in (kernel_log, audit):
        if listener is not None:
            stack.callback(listener.close)
    worker, reactor = Worker("worker"), Reactor()
    fds = {"state_fd": state_fd, "run_fd": run_fd}
    slots = Slots(store, forker, groups, remover, facts, later=worker.do, **fds)
    stack.callback(slots.close)
    home = Home(
        root=root,
        store=store,
        facts=facts,
        forker=forker,
        groups=groups,
        reactor=reactor,
        worker=worker,
        remover=remover,
        slots=slots,
        events=Events(),
        kernel_log=kernel_log,
        audit=audit,
        boot=boot_id(),
        state_fd=state_fd,
        run_fd=run_fd,
    )
    stack.callback(home.logs.close)
    home.disks, home.templates = Disks(), Templates()
    _open_networks(stack, home)
    _start_threads(stack, home)
    _open_guests(stack, home)
    reactor.watch(groups.events_fd, home, partial(ending.limits_hit, home))
    refusals.listen(home)
    home.storage = StorageGuard(store.layout.roots, partial(ending.storage_full, home))
    home.storage.start()
    stack.callback(home.storage.close)
    return home


def _start_threads(stack: contextlib.ExitStack, home: Home) -> None:
    home.worker.start()
    stack.callback(home.worker.close)
    home.collector.start()
    stack.callback(home.collector.close)
    home.reactor.start()
    stack.callback(home.reactor.close)


def _open_networks(stack: contextlib.ExitStack, home: Home) -> None:
    home.places = Places(home.store)
    stack.callback(home.places.wires.close)
    stack.callback(home.places.outgoing.close)
    home.names = Names(home.store.layout, home.run_fd, home.reactor, home.places.wires)
    stack.callback(home.names.shut)


def _open_guests(stack: contextlib.ExitStack, home: Home) -> None:
    home.probe = probe
    stack.callback(home.probers.close)
    stack.callback(home.templates.close)
    home.pool = Pool(home, pool_size(os.environ.get("COVE_VM_POOL")))
    stack.callback(home.pool.close)
    stack.callback(home.visits.close)
