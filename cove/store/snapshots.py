"""The records of snapshots, and of the layers that machines and snapshots stand on: a part of the
store. A layer's record goes before its directory.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from cove.errors import Conflict, NotFound
from cove.spec.suggest import did_you_mean
from cove.store.records import MachineRecord, SnapshotRecord, StratumRecord

TABLES = """
CREATE TABLE snapshot (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE stratum (key INTEGER PRIMARY KEY, record BLOB NOT NULL);
"""

_encode = msgspec.json.Encoder().encode
_snapshot = msgspec.json.Decoder(SnapshotRecord).decode
_stratum = msgspec.json.Decoder(StratumRecord).decode


class Snapshots:
    """What ``Store`` has of them. Callers that change several records do it in a transaction."""

    _lock: threading.RLock
    _machines: dict[int, MachineRecord]
    _snapshots: dict[str, SnapshotRecord]
    _strata: dict[int, StratumRecord]
    _write: Callable[..., None]
    needed: Callable[[Callable[[], None]], None]
    pins: Callable[[], frozenset[str]]

    def _load_snapshots(self, rows: Callable[[str], Iterable[Any]]) -> None:
        self._snapshots = {
            key: _snapshot(blob) for key, blob in rows("SELECT id, record FROM snapshot")
        }
        self._strata = {
            key: _stratum(blob) for key, blob in rows("SELECT key, record FROM stratum")
        }

    # ---- snapshots ----

    def put_snapshot(self, record: SnapshotRecord) -> None:
        """Its name must be free."""
        with self._lock:
            for other in self._snapshots.values():
                if other.name == record.name and other.id != record.id:
                    raise Conflict(
                        f'cannot use the name "{record.name}": '
                        f"a snapshot of {other.machine_name} has it",
                        origin=record.name,
                        hint=f"cove snapshot rm {record.name}, or choose another name",
                    )
            self._write("INSERT OR REPLACE INTO snapshot VALUES (?, ?)", record.id, _encode(record))
            self._snapshots[record.id] = record

    def snapshots(self) -> list[SnapshotRecord]:
        """All of them, oldest first."""
        with self._lock:
            return sorted(self._snapshots.values(), key=lambda record: record.created)

    def remove_snapshot(self, snapshot_id: str) -> None:
        with self._lock:
            self.needed(lambda: self._write("DELETE FROM snapshot WHERE id = ?", snapshot_id))
            self._snapshots.pop(snapshot_id, None)

    def find_snapshot(self, text: str) -> SnapshotRecord:
        """By name, full id, or the unique beginning of an id."""
        with self._lock:
            return find(text, self._snapshots)

    def has_snapshot(self, snapshot_id: str) -> bool:
        with self._lock:
            return snapshot_id in self._snapshots

    def snapshot_of_image(self, image_id: str) -> SnapshotRecord | None:
        """One that stands on the image, which must stay for it."""
        with self._lock:
            return next((s for s in self._snapshots.values() if s.image == image_id), None)

    # ---- the layers they stand on ----

    def put_stratum(self, record: StratumRecord) -> None:
        with self._lock:
            self._write("INSERT OR REPLACE INTO stratum VALUES (?, ?)", record.key, _encode(record))
            self._strata[record.key] = record

    def strata(self) -> list[StratumRecord]:
        with self._lock:
            return list(self._strata.values())

    def drop_strata(self) -> list[int]:
        """Forget those that no machine and no snapshot stands on, and no verb has pinned: their
        keys, whose directories the caller removes.
        """
        with self._lock:
            pins = self.pins()
            used = {key for machine in self._machines.values() for key in machine.strata}
            used |= {key for snapshot in self._snapshots.values() for key in snapshot.strata}
            lost = [key for key in self._strata if key not in used and pin(key) not in pins]
            for key in lost:
                self._forget_stratum(key)
            return lost

    def _forget_stratum(self, key: int) -> None:
        self.needed(lambda: self._write("DELETE FROM stratum WHERE key = ?", key))
        self._strata.pop(key, None)

    def uppers(self) -> set[int]:
        """Keys of all directories ``roots/u<key>`` that a record names."""
        with self._lock:
            return {machine.upper for machine in self._machines.values()} | set(self._strata)


def pin(key: int) -> str:
    """What ``Store.pinned`` calls a layer that a verb is about to stand something on."""
    return f"stratum:{key}"


def find(text: str, snapshots: Mapping[str, SnapshotRecord]) -> SnapshotRecord:
    for record in snapshots.values():
        if text in (record.name, record.id):
            return record
    prefix = re.fullmatch(r"[0-9a-f]{1,64}", text)
    found = [record for key, record in snapshots.items() if prefix and key.startswith(text)]
    if len(found) > 1:
        raise Conflict(
            f'cannot find snapshot "{text}": {len(found)} have ids that begin with it',
            hint="type more of the id, or a name",
        )
    if not found:
        names = [record.name for record in snapshots.values()]
        raise NotFound(
            f'cannot find snapshot "{text}": no such snapshot',
            hint=did_you_mean(text, names) or "cove snapshot ls lists them",
        )
    return found[0]
