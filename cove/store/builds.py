"""The records of the build cache: a part of the store. A record holds its layer; who removes the
records lets go of layers that no image has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from cove.store.records import CacheRecord

TABLES = """
CREATE TABLE build (key TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
"""

FRESH = 3600.0
"""Seconds within which it is not written down anew that a record was used."""

_encode = msgspec.json.Encoder().encode
_cached = msgspec.json.Decoder(CacheRecord).decode


class Builds:
    """What ``Store`` has of them."""

    _lock: threading.RLock
    _cached: dict[str, CacheRecord]
    _written: dict[str, float]
    """When steps were last used, by the records on the disk."""
    _write: Callable[..., None]
    needed: Callable[[Callable[[], None]], None]

    def _load_builds(self, rows: Callable[[str], Iterable[Any]]) -> None:
        self._cached = {key: _cached(blob) for key, blob in rows("SELECT key, record FROM build")}

    def put_cached(self, record: CacheRecord) -> None:
        with self._lock:
            row = (record.key, _encode(record))
            self._write("INSERT OR REPLACE INTO build VALUES (?, ?)", *row)
            self._cached[record.key] = record
            self._written.pop(record.key, None)

    def cached(self, key: str) -> CacheRecord | None:
        return self._cached.get(key)

    def all_cached(self) -> list[CacheRecord]:
        with self._lock:
            return list(self._cached.values())

    def use_cached(self, record: CacheRecord, now: float) -> None:
        """It was useful once more. Until it is written down, only this daemon knows."""
        with self._lock:
            held = self._cached.get(record.key)
            written = self._written.get(record.key, record.used)
            new = msgspec.structs.replace(record, used=max(now, record.used))
            if held is None or now - written > FRESH:  # who cleans up may have forgotten it
                self.put_cached(new)
            else:
                self._written[record.key] = written
                self._cached[record.key] = new

    def remove_cached(self, keys: Iterable[str]) -> None:
        with self._lock:
            for key in keys:
                self.needed(lambda key=key: self._write("DELETE FROM build WHERE key = ?", key))  # type: ignore[misc]
                self._cached.pop(key, None)
                self._written.pop(key, None)

    def cached_layers(self) -> set[str]:
        """Diff IDs that the cache holds."""
        with self._lock:
            return {record.diff_id for record in self._cached.values()}
