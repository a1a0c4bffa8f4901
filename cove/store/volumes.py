"""The records of volumes: a part of the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from cove.errors import NotFound
from cove.spec.suggest import did_you_mean
from cove.store.records import VolumeRecord

TABLES = """
CREATE TABLE volume (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
"""

_encode = msgspec.json.Encoder().encode
_volume = msgspec.json.Decoder(VolumeRecord).decode


class Volumes:
    """What ``Store`` has of them."""

    _lock: threading.RLock
    _volumes: dict[str, VolumeRecord]
    _write: Callable[..., None]
    needed: Callable[[Callable[[], None]], None]

    def _load_volumes(self, rows: Callable[[str], Iterable[Any]]) -> None:
        self._volumes = {
            name: _volume(blob)
            for name, blob in rows("SELECT name, record FROM volume ORDER BY name")
        }

    def put_volume(self, record: VolumeRecord) -> None:
        with self._lock:
            row = (record.name, _encode(record))
            if record.name in self._volumes:
                self.needed(
                    lambda: self._write("INSERT OR REPLACE INTO volume VALUES (?, ?)", *row)
                )
            else:
                self._write("INSERT OR REPLACE INTO volume VALUES (?, ?)", *row)
            self._volumes[record.name] = record

    def volumes(self) -> list[VolumeRecord]:
        with self._lock:
            return list(self._volumes.values())

    def volume(self, name: str) -> VolumeRecord | None:
        return self._volumes.get(name)

    def remove_volume(self, name: str) -> None:
        with self._lock:
            self.needed(lambda: self._write("DELETE FROM volume WHERE name = ?", name))
            self._volumes.pop(name, None)

    def find_volume(self, name: str) -> VolumeRecord:
        """By its whole name: there are no ids."""
        with self._lock:
            found = self._volumes.get(name)
            if found is None:
                raise NotFound(
                    f'cannot find volume "{name[:80]}": no such volume',
                    hint=did_you_mean(name, self._volumes) or "cove volume ls lists them",
                )
            return found
