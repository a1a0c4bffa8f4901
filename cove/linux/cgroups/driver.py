"""What the control groups of every version have in common: their life and their events. ``v1``
(also hybrid) and ``v2`` know the files, ``limits`` what may be in them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import select
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from cove.errors import CoveError, HostError, UsageError
from cove.linux import inotify
from cove.linux.cgroups.devices import files_of
from cove.linux.cgroups.devices import put_back as put_back_devices
from cove.linux.cgroups.files import (
    put_back,
    read_limit,
    read_lines,
    read_text,
    remove_directory,
    wait_frozen,
    write,
)
from cove.linux.cgroups.limits import check_limits, size_text
from cove.plan.facts import Facts
from cove.spec.machine import Limits

BUSY = 0.5
"""Seconds that a group may stay busy after its last process was killed."""


@dataclass(frozen=True, slots=True)
class Group:
    """The control group of one machine, in every hierarchy that is used for it."""

    name: str
    """What a record remembers it by."""
    path: str
    """Below the top of each hierarchy, as the kernel's log names it."""
    directory: str
    """In cgroup2, for ``clone3`` into it; empty on pure v1."""
    tasks: tuple[str, ...] = ()
    """v1 files to which the machine writes 0 itself: that costs 0.3 ms, another's pid 6 to 15."""

    @property
    def entrances(self) -> tuple[str, ...]:
        """The files to which a process writes 0 that enters the group by itself."""
        unified = (f"{self.directory}/cgroup.procs",) if self.directory else ()
        return (*self.tasks, *unified)


class Stats(NamedTuple):
    """Sizes are bytes, times nanoseconds; -1: unlimited or not counted."""

    memory: int
    memory_peak: int
    memory_limit: int
    cache: int
    """Of files; ``inactive_file`` is what of it the kernel gives up first."""
    inactive_file: int
    cpu: int
    cpu_user: int
    cpu_system: int
    periods: int
    """In which the group ran under a limit of CPU time, and ``throttled_periods`` those in which
    it had to wait; ``throttled`` is for how long.
    """
    throttled_periods: int
    throttled: int
    pids: int
    pids_limit: int
    read: int
    written: int


class Counters(NamedTuple):
    """What a machine's limits refused since its group was made."""

    oom_kills: int
    pids_hits: int


class Event(NamedTuple):
    name: str
    """Of the group."""
    kind: str
    """``oom`` or ``pids``."""


class Cgroups(ABC):
    """The groups of one state root; ``with`` it, or close it.

    ``events_fd`` becomes readable when a limit was hit somewhere: then call ``read_events``.
    """

    def __init__(self, facts: Facts, root: str) -> None:
        self._facts = facts
        self.parent = f"cove-{hashlib.sha256(os.fsencode(root)).hexdigest()[:8]}"
        self._lock = threading.RLock()
        self._pool: list[Group] = []
        self._lent: set[str] = set()
        self._dying: dict[str, Group] = {}
        self._watches: dict[str, list[int]] = {}
        self._by_fd: dict[int, str] = {}
        self._by_watch: dict[int, Event] = {}
        self._last = 0
        self._epoll = select.epoll()
        self._inotify = inotify.init()
        self._epoll.register(self._inotify, select.EPOLLIN)
        self.events_fd = self._epoll.fileno()
        try:
            self._open()
            self._last = max((int(n) for n in self.names() if n.isdigit()), default=0)
        except BaseException:
            self._epoll.close()
            os.close(self._inotify)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what no machine uses, and our directories if nothing is left in them."""
        with self._lock:
            if self._epoll.closed:
                return
            for group in self._pool:
                self.remove(group)
            self._pool.clear()
            late = time.monotonic() + BUSY
            while self.reap() and time.monotonic() < late:
                time.sleep(0.002)
            for fd in self._by_fd:
                os.close(fd)
            for directory in self.parents():
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
            self._epoll.close()
            os.close(self._inotify)

    # ---- life ----

    def fill(self, count: int) -> None:
        """Have ``count`` groups ready, and try again to remove those that were busy."""
        self.reap()
        while True:
            with self._lock:
                if len(self._pool) >= count:
                    return
                self._pool.append(self._make())

    def make(self, limits: Limits) -> Group:
        """A group under ``limits``, which nobody is in yet."""
        check_limits(limits, self._facts)
        with self._lock:
            group = self._pool.pop() if self._pool else self._make()
        try:
            return self._limit(group, limits)
        except BaseException:
            self.remove(group)
            raise

    @contextlib.contextmanager
    def lent(self, limits: Limits) -> Iterator[Group]:
        """A group for a tool of the host's, while it runs: whoever is left in it then is killed. No
        record names it, so the next daemon's ``sweep`` ends what a killed one leaves.
        """
        with self._lock:
            group = self.make(limits)
            self._lent.add(group.name)
        try:
            yield group
        finally:
            self.drop(group.name)
            with self._lock:
                self._lent.discard(group.name)

    def set_limits(self, group: Group, limits: Limits) -> Group:
        """Other limits for a group."""
        check_limits(limits, self._facts)
        return self._limit(group, limits)

    def change(self, group: Group, limits: Limits) -> Group:
        """Other limits for a machine that runs: all of them, or none if the kernel refuses one."""
        check_limits(limits, self._facts)
        before = {path: read_limit(path) for path in self._files(group)}
        of_devices = {path: read_lines(path) for path in files_of(self._devices(group))}
        try:
            self._make_room(group, limits)
            changed = self._limit(group, limits)
            self._enter(group, changed)
            return changed
        except BaseException as error:
            put_back(before)
            for path, lines in of_devices.items():
                put_back_devices(path, lines)
            if isinstance(error, CoveError) and 0 < limits.memory < self.stats(group).memory:
                raise self._too_small(group, limits) from error
            if isinstance(error, OSError):
                raise HostError(
                    f"cannot limit the machine: {(error.strerror or '').lower()}",
                    host=str(error.filename or group.path),
                ) from error
            raise

    def _too_small(self, group: Group, limits: Limits) -> UsageError:
        used = f"{self.stats(group).memory / (1 << 20):.1f} MiB"
        return UsageError(
            f"cannot limit memory to {size_text(limits.memory)}: {used} are in use, and the kernel "
            "cannot free enough of it",
            origin=f"--memory {size_text(limits.memory)}",
            exit_code=1,
        )

    def adopt(self, name: str) -> Group | None:
        """The group a former daemon made; None: it is gone."""
        with self._lock:
            if not name.isdigit() or name not in self.names():
                return None
            group = self._group(name)
            if name not in self._watches:
                self._watch(group)
            return group

    def example(self) -> Group:
        """The paths of a group that is never made: for plans that are only shown."""
        return self._group("0")

    def remove(self, group: Group) -> bool:
        """Remove a group. False: it is busy for a moment; ``reap`` and ``fill`` try again."""
        with self._lock:
            self._unwatch(group.name)
            done = True
            for directory in self._directories(group.name):
                done = remove_directory(directory) and done
            if done:
                self._dying.pop(group.name, None)
            else:
                self._dying[group.name] = group
            return done

    def reap(self) -> int:
        """Try again to remove what was busy; how many still are."""
        with self._lock:
            for group in list(self._dying.values()):
                self.remove(group)
            return len(self._dying)

    def sweep(self, keep: Collection[str]) -> list[str]:
        """End and remove every group of ours that no record names; at a daemon's start."""
        with self._lock:
            mine = {group.name for group in self._pool} | set(keep)
            gone = [name for name in self.names() if name not in mine]
            for name in gone:
                group = self._group(name)
                with contextlib.suppress(OSError):
                    self.kill(group)
                self.remove(group)
        return gone

    def pooled(self) -> set[str]:
        """Names of groups that wait for a machine, or to be removed, or are lent."""
        with self._lock:
            return {group.name for group in self._pool} | set(self._dying) | self._lent

    def drop(self, name: str) -> None:
        """End what is in a group that nobody needs, and remove it."""
        group = self._group(name)
        with contextlib.suppress(OSError):
            self.kill(group)
        self.remove(group)

    def names(self) -> set[str]:
        """Of all groups of ours that exist, in whatever hierarchy."""
        found: set[str] = set()
        for directory in self.parents():
            with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
                found.update(entry.name for entry in entries if entry.is_dir())
        return found

    # ---- processes ----

    def pids(self, group: Group) -> list[int]:
        """The processes in the group and in groups made inside it."""
        found: set[int] = set()
        for directory, _, _ in os.walk(self._members(group)):
            with contextlib.suppress(OSError):
                found.update(map(int, read_text(f"{directory}/cgroup.procs").split()))
        return sorted(found)

    def kill(self, group: Group) -> None:
        """SIGKILL to every process, also frozen ones and those that are just being born."""
        if not os.path.exists(self._members(group)):
            return
        if group.directory:
            try:
                write(f"{group.directory}/cgroup.kill", "1")
                return
            except FileNotFoundError:  # before Linux 5.14
                pass
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
                return  # it was removed between open and write: nobody is left in it
        struck: set[int] = set()
        while new := set(self.pids(group)) - struck:  # one that was born before all had stopped
            self.freeze(group)
            for pid in new | set(self.pids(group)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                struck.add(pid)
            self.thaw(group)

    def freeze(self, group: Group) -> None:
        """Stop every process; returns when all of them have."""
        write(f"{group.directory}/cgroup.freeze", "1")
        wait_frozen(f"{group.directory}/cgroup.events")

    def thaw(self, group: Group) -> None:
        write(f"{group.directory}/cgroup.freeze", "0")

    @abstractmethod
    def stats(self, group: Group) -> Stats: ...

    @abstractmethod
    def counters(self, group: Group) -> Counters: ...

    # ---- events ----

    def read_events(self) -> list[Event]:
        """The limits that were hit since the last call. A number is in ``counters``."""
        found: dict[Event, None] = {}
        with self._lock:
            for fd, _ in self._epoll.poll(0):
                if fd == self._inotify:
                    changed = (watch for watch, _ in inotify.read(self._inotify))
                    found.update({e: None for w in changed if (e := self._by_watch.get(w))})
                elif fd in self._by_fd:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(fd)
                    found[Event(self._by_fd[fd], "oom")] = None
        return list(found)

    def _watch_file(self, group: Group, path: str, kind: str) -> None:
        """Tell changes of a file of counters."""
        try:
            watch = inotify.add(self._inotify, path, inotify.MODIFY)
        except OSError:  # no such file: the controller is off
            return
        self._by_watch[watch] = Event(group.name, kind)
        self._watches.setdefault(group.name, []).append(watch)

    def _watch_eventfd(self, group: Group, fd: int) -> None:
        self._by_fd[fd] = group.name
        self._epoll.register(fd, select.EPOLLIN)

    def _unwatch(self, name: str) -> None:
        for watch in self._watches.pop(name, ()):
            del self._by_watch[watch]
            inotify.remove(self._inotify, watch)
        for fd in [fd for fd, holder in self._by_fd.items() if holder == name]:
            del self._by_fd[fd]
            self._epoll.unregister(fd)
            os.close(fd)

    # ---- what the drivers do ----

    @abstractmethod
    def parents(self) -> list[str]:
        """Our own directory in each hierarchy."""

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _group(self, name: str) -> Group: ...

    @abstractmethod
    def _directories(self, name: str) -> list[str]: ...

    @abstractmethod
    def _members(self, group: Group) -> str:
        """A directory of the group in a hierarchy in which every process of it is."""

    @abstractmethod
    def _create(self, name: str) -> None: ...

    @abstractmethod
    def _watch(self, group: Group) -> None: ...

    @abstractmethod
    def _files(self, group: Group) -> list[str]:
        """Every file of the group that holds a limit, but those of block devices."""

    @abstractmethod
    def _devices(self, group: Group) -> str:
        """The directory of the group whose files hold weights and rates of block devices; empty:
        there is none.
        """

    @abstractmethod
    def _make_room(self, group: Group, limits: Limits) -> None:
        """Before a limit goes below what is in use: free what can be freed, or refuse."""

    @abstractmethod
    def _enter(self, group: Group, changed: Group) -> None:
        """Have every process in the hierarchies that ``changed`` has and ``group`` had not."""

    @abstractmethod
    def _limit(self, group: Group, limits: Limits) -> Group: ...

    def _make(self) -> Group:
        self._last += 1
        name = str(self._last)
        try:
            self._create(name)
            group = self._group(name)
            self._watch(group)
        except OSError as error:
            self.remove(Group(name, "", ""))
            raise HostError(
                f"cannot make a control group: {(error.strerror or '').lower()}",
                host=str(error.filename or self.parent),
                hint="cove needs to be root, and /sys/fs/cgroup to be writable",
            ) from error
        return group
