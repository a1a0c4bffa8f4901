"""The store: every record of a state directory, in one SQLite file that one daemon holds open.

A write is on its way to the disk when the call returns (a killed daemon loses nothing; a power
cut may lose the last moments, never the order). Reads come from memory: one connection holds the
file exclusively, so what was written is what is there. It knows nothing of processes; callers
write the record first, then cause the effect.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Self

import msgspec

from cove.errors import Conflict, CoveError, HostError, NoSuchImage, NotFound
from cove.store import names
from cove.store.builds import TABLES as BUILDS
from cove.store.builds import Builds
from cove.store.images import TABLES as INDEXES
from cove.store.images import Images
from cove.store.layout import FORMAT, Layout
from cove.store.lock import (
    ROOM,
    StateFull,
    newer_state,
    open_layout,
    raise_format,
    take_lock,
)
from cove.store.networks import TABLES as NETWORKS
from cove.store.networks import Networks
from cove.store.ranges import RANGES, Ranges
from cove.store.records import CacheRecord, IndexRecord, MachineRecord
from cove.store.snapshots import TABLES as SNAPSHOTS
from cove.store.snapshots import Snapshots
from cove.store.volumes import TABLES as VOLUMES
from cove.store.volumes import Volumes

RESERVE = 512 << 10
"""Bytes kept for the day the disk is full: what ends or removes something must still be written."""

MAGIC = b"SQLite format 3\0"
DAMAGED = 1 << 16
"""No version is so high."""
VERSION_AT = 60
"""Where an SQLite file has its user_version, four bytes."""

KEY_BLOCK = 64
"""Keys set aside by one write; those of a killed daemon's block are never used."""

FIRST = """
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE machine (key INTEGER PRIMARY KEY, id TEXT NOT NULL, name TEXT NOT NULL,
  state TEXT NOT NULL, record BLOB NOT NULL);
CREATE TABLE image (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE layer (diff_id TEXT PRIMARY KEY, key INTEGER NOT NULL, record BLOB NOT NULL)
  WITHOUT ROWID;
CREATE TABLE tag (reference TEXT PRIMARY KEY, image TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO counter VALUES ('key', 1);
"""

LEFTOVERS = """
CREATE TABLE IF NOT EXISTS leftover (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
"""

MIGRATIONS = (FIRST, LEFTOVERS, SNAPSHOTS, NETWORKS, VOLUMES, BUILDS, INDEXES)
"""The first makes an empty database one of format 1, the next makes that one of format 2, and so
on: what is missing is done in one transaction. There are as many as ``FORMAT`` says.
"""

_encode = msgspec.json.Encoder().encode
_machine = msgspec.json.Decoder(MachineRecord).decode

PUT_MACHINE = "INSERT OR REPLACE INTO machine VALUES (?, ?, ?, ?, ?)"


class Store(Images, Snapshots, Networks, Volumes, Builds):
    """One state directory, open and locked. ``Store.open(root)`` is a context manager."""

    def __init__(self, layout: Layout, lock_fd: int) -> None:
        self.layout = layout
        self.lock_fd = lock_fd
        self._lock = threading.RLock()
        self.removing = threading.Lock()
        """Of whoever takes images away: which name is the last is asked and acted on as one."""
        self._depth = 0
        self._next_key = self._last_key = 0
        self._machines: dict[int, MachineRecord] = {}
        self._names: dict[str, int] = {}
        self._images, self._layers, self._tags, self._leftovers = {}, {}, {}, {}
        self._indexes: dict[str, IndexRecord] = {}
        self._snapshots, self._strata, self._networks, self._volumes = {}, {}, {}, {}
        self._cached: dict[str, CacheRecord] = {}
        self._written: dict[str, float] = {}
        self._ranges = Ranges()
        self._pins: dict[str, int] = {}
        _check_version(layout)
        raise_format(layout)
        with self._translated():
            self._db = _connect(layout.database)
            self._load()
        self._make_reserve()
        for record in self._machines.values():
            if record.id_range >= 0:
                self._ranges.hold(record.id_range, record.key)

    @classmethod
    def open(cls, root: str | os.PathLike[str], lock_fd: int | None = None) -> Store:
        """Open ``root``, made where missing. ``lock_fd`` was inherited with the lock held on it."""
        layout = open_layout(root)
        fd = take_lock(layout, lock_fd)
        try:
            return cls(layout, fd)
        except BaseException:
            os.close(fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back; closing twice is harmless."""
        with self._lock:
            if self.lock_fd < 0:
                return
            self._db.close()
            os.close(self.lock_fd)
            self.lock_fd = -1

    @contextlib.contextmanager
    def unless_busy(self) -> Iterator[bool]:
        """Whether nobody writes; then nobody does before the end, and no read inside waits."""
        free = self._lock.acquire(blocking=False)
        try:
            yield free
        finally:
            if free:
                self._lock.release()

    # ---- writing ----

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside become durable together, or none of them; other threads wait
        meanwhile.
        """
        with self._lock:
            if self._depth:
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                return
            self._execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield
                self._execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                with self._translated():
                    self._load()
                raise
            finally:
                self._depth = 0

    def checkpoint(self) -> None:
        """Bring the write-ahead log home; for idle moments, because it waits for the disk."""
        with self._lock:
            if not self._depth:
                self._execute("PRAGMA wal_checkpoint(PASSIVE)")
                self._make_reserve()

    def damage(self) -> list[str]:
        """What SQLite finds wrong with the file; others wait meanwhile."""
        try:
            with self._lock:
                rows = self._execute("PRAGMA integrity_check(20)").fetchall()
        except (CoveError, sqlite3.Error) as error:
            return [str(error)]
        return [str(row[0]) for row in rows if row[0] != "ok"]

    def needed(self, write: Callable[[], None]) -> None:
        """A write that ends or removes something: where the disk is full, the reserve is for it."""
        with self._lock:
            try:
                write()
            except StateFull:
                if self._depth or not self._free_reserve():
                    raise
                write()

    def _make_reserve(self) -> None:
        try:
            if free_bytes(self.layout.root) < 4 * RESERVE or os.path.exists(self.layout.reserve):
                return
            fd = os.open(self.layout.reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, RESERVE)
            finally:
                os.close(fd)
        except OSError:  # a file system that cannot set bytes aside: then there is no reserve
            pass

    def _free_reserve(self) -> bool:
        try:
            os.unlink(self.layout.reserve)
        except OSError:
            return False
        return True

    # ---- keys and id ranges ----

    def new_key(self) -> int:
        """A number no machine or layer of this store ever had."""
        with self._lock:
            if self._next_key >= self._last_key:
                row = self._execute(
                    "UPDATE counter SET value = value + ? WHERE name = 'key' RETURNING value",
                    (KEY_BLOCK,),
                ).fetchone()
                self._last_key = int(row[0])
                self._next_key = self._last_key - KEY_BLOCK
            key = self._next_key
            self._next_key += 1
            return key

    def take_range(self, key: int) -> int:
        """An id range nobody holds; the caller writes it into the machine's record before it is
        used.
        """
        with self._lock:
            index = self._ranges.take(key)
        if index < 0:
            raise HostError(
                f"cannot start machine: all {RANGES} id ranges are in use",
                hint="stop some machines",
            )
        return index

    def share_range(self, index: int, key: int, *, of: int) -> bool:
        """The range of a machine that still has it, as well."""
        with self._lock:
            return self._ranges.share(index, key, of=of)

    def free_range(self, key: int) -> None:
        with self._lock:
            self._ranges.free(key)

    def ranges(self) -> dict[int, int]:
        """Id ranges that are held, with the keys of their machines."""
        with self._lock:
            return self._ranges.held()

    # ---- machines ----

    def add_machine(self, record: MachineRecord, *, of_image: bool = False) -> None:
        """A new machine; its name must be free, and ``of_image`` its image there still: from here
        on nobody removes that.
        """
        with self._lock:
            if of_image and record.image and record.image not in self._images:
                raise NoSuchImage(
                    f"cannot create machine: its image {record.spec.image} was removed just now",
                    exit_code=125,
                )
            gone = record.resume and record.resume not in self._snapshots
            if gone or not self._strata.keys() >= set(record.strata):
                raise NotFound(
                    f"cannot create machine: snapshot {record.spec.snapshot} was removed just now",
                    exit_code=125,
                )
            if record.key in self._machines:
                raise Conflict(f"cannot create machine: key {record.key} is in use")
            self.put_machine(record)

    def put_machine(self, record: MachineRecord) -> None:
        """Write a machine's record as it is now (also under a new name, if that is free)."""
        with self._lock:
            held = self._names.get(record.name)
            if held is not None and held != record.key and names.holds_name(record):
                raise names.name_taken(record.name, self._machines[held])
            row = (record.key, record.id, record.name, record.state, _encode(record))
            if record.key in self._machines:
                self.needed(lambda: self._write(PUT_MACHINE, *row))
            else:
                self._write(PUT_MACHINE, *row)
            self._forget_name(record.key)
            self._machines[record.key] = record
            if names.holds_name(record):
                self._names[record.name] = record.key

    def remove_machine(self, key: int) -> None:
        """Forget a machine and give its id range back; one that is gone already is no error."""
        with self._lock:
            self.needed(lambda: self._write("DELETE FROM machine WHERE key = ?", key))
            self._forget_name(key)
            self._machines.pop(key, None)
            self.free_range(key)

    def machines(self) -> list[MachineRecord]:
        """All of them, oldest first."""
        with self._lock:
            return list(self._machines.values())

    def machine(self, key: int) -> MachineRecord:
        try:
            return self._machines[key]
        except KeyError:
            raise NotFound("cannot find the machine: no such machine any more") from None

    def has_machine(self, key: int) -> bool:
        return key in self._machines

    def find_machine(self, text: str) -> MachineRecord:
        """By full id, name, or unique beginning of an id."""
        with self._lock:
            return names.find(text, self._machines, self._names)

    def name_free(self, name: str) -> bool:
        return name not in self._names

    def _forget_name(self, key: int) -> None:
        old = self._machines.get(key)
        if old is not None and self._names.get(old.name) == key:
            del self._names[old.name]

    # ---- SQLite ----

    def _write(self, sql: str, *values: object) -> None:
        self._execute(sql, values)

    def _execute(self, sql: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise _database_error(self.layout, error) from error

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            raise _database_error(self.layout, error) from error

    def _load(self) -> None:
        """Memory as the file has it."""
        rows = self._db.execute
        self._machines = {
            key: _machine(blob)
            for key, blob in rows("SELECT key, record FROM machine ORDER BY key")
        }
        self._names = {m.name: m.key for m in self._machines.values() if names.holds_name(m)}
        self._load_images(rows)
        self._load_snapshots(rows)
        self._load_networks(rows)
        self._load_volumes(rows)
        self._load_builds(rows)
        self._next_key = self._last_key = 0


def free_bytes(path: str) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _connect(path: str) -> sqlite3.Connection:
    # Made here, for SQLite gives its log the mode of the file: both hold the machines' environment.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    for name in (path, f"{path}-wal"):
        with contextlib.suppress(FileNotFoundError):
            os.chmod(name, 0o600)
    db = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=0, cached_statements=64
    )
    try:
        # Exclusive before WAL: the log's index then lives in this process's memory, not in a shared
        # file.
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL",
                       "wal_autocheckpoint = 4000"):  # fmt: skip
            db.execute(f"PRAGMA {pragma}")
        _migrate(db)
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version < FORMAT:
        steps = " ".join(MIGRATIONS[version:])
        db.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {FORMAT}; COMMIT;")


def _check_version(layout: Layout) -> None:
    """Of the file as it is: SQLite would write to one of a newer cove before it is asked."""
    try:
        with open(layout.database, "rb") as file:
            head = file.read(VERSION_AT + 4)
    except FileNotFoundError:
        return
    version = int.from_bytes(head[VERSION_AT:], "big")
    if head.startswith(MAGIC) and FORMAT < version < DAMAGED:
        raise newer_state(layout, str(version))


def _database_error(layout: Layout, error: Exception) -> CoveError:
    """By SQLite's code, never by its words."""
    what = f"cannot use the state directory {layout.root}"
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StateFull(f"{what}: no space left on device", hint=ROOM)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return HostError(
            f"{what}: {layout.database} cannot be written", hint="choose another one: --root DIR"
        )
    if code == sqlite3.SQLITE_BUSY:
        return Conflict(
            f"{what}: another program has {layout.database} open", hint="end that program"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or isinstance(
        error, msgspec.MsgspecError
    ):
        return HostError(
            f"{what}: {layout.database} is damaged",
            host=str(error),
            hint=f"restore it from a backup, or move {layout.root} away and begin anew",
        )
    return HostError(f"{what}: {error}")
