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
    _write: Callable[..., None]
    needed: Callable[[Callable[[], None]], None]

    def _load_builds(self, rows: Callable[[str], Iterable[Any]]) -> None:
        self._cached = {key: _cached(blob) for key, blob in rows("SELECT key, record FROM build")}

    def put_cached(self, record: CacheRecord) -> None:
        with self._lock:
            row = (record.key, _encode(record))
            self._write("INSERT OR REPLACE INTO build VALUES (?, ?)", *row)
            self._cached[record.key] = record

    def cached(self, key: str) -> CacheRecord | None:
        return self._cached.get(key)

    def all_cached(self) -> list[CacheRecord]:
        with self._lock:
            return list(self._cached.values())

    def use_cached(self, record: CacheRecord, now: float) -> None:
        """It was useful once more."""
        if now - record.used > FRESH:
            self.put_cached(msgspec.structs.replace(record, used=now))

    def remove_cached(self, keys: Iterable[str]) -> None:
        with self._lock:
            for key in keys:
                self.needed(lambda key=key: self._write("DELETE FROM build WHERE key = ?", key))  # type: ignore[misc]
                self._cached.pop(key, None)

    def cached_layers(self) -> set[str]:
        """Diff IDs that the cache holds."""
        with self._lock:
            return {record.diff_id for record in self._cached.values()}
