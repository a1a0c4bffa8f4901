"""The records of networks: a part of the store."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from cove.errors import Conflict, NameTaken, NotFound
from cove.spec.suggest import did_you_mean
from cove.store.records import NetworkRecord

TABLES = """
CREATE TABLE network (key INTEGER PRIMARY KEY, record BLOB NOT NULL);
"""

_encode = msgspec.json.Encoder().encode
_network = msgspec.json.Decoder(NetworkRecord).decode


class Networks:
    """What ``Store`` has of them."""

    _lock: threading.RLock
    _networks: dict[int, NetworkRecord]
    _write: Callable[..., None]
    needed: Callable[[Callable[[], None]], None]

    def _load_networks(self, rows: Callable[[str], Iterable[Any]]) -> None:
        self._networks = {
            key: _network(blob)
            for key, blob in rows("SELECT key, record FROM network ORDER BY key")
        }

    def put_network(self, record: NetworkRecord) -> None:
        """Its name must be free."""
        with self._lock:
            for other in self._networks.values():
                if other.name == record.name and other.key != record.key:
                    raise NameTaken(
                        f'cannot use the name "{record.name}": another network has it',
                        origin=record.name,
                        hint=f"cove network rm {record.name}, or choose another name",
                    )
            self._write("INSERT OR REPLACE INTO network VALUES (?, ?)", record.key, _encode(record))
            self._networks[record.key] = record

    def networks(self) -> list[NetworkRecord]:
        """All of them, oldest first."""
        with self._lock:
            return list(self._networks.values())

    def remove_network(self, key: int) -> None:
        with self._lock:
            self.needed(lambda: self._write("DELETE FROM network WHERE key = ?", key))
            self._networks.pop(key, None)

    def find_network(self, text: str) -> NetworkRecord:
        """By name, full id, or the unique beginning of an id."""
        with self._lock:
            return find(text, self._networks)

    def network(self, network_id: str) -> NetworkRecord | None:
        """By its whole id."""
        with self._lock:
            return next((n for n in self._networks.values() if n.id == network_id), None)


def find(text: str, networks: Mapping[int, NetworkRecord]) -> NetworkRecord:
    for record in networks.values():
        if text in (record.name, record.id):
            return record
    prefix = re.fullmatch(r"[0-9a-f]{1,64}", text)
    found = [record for record in networks.values() if prefix and record.id.startswith(text)]
    if len(found) > 1:
        raise Conflict(
            f'cannot find network "{text}": {len(found)} have ids that begin with it',
            hint="type more of the id, or a name",
        )
    if not found:
        names = [record.name for record in networks.values()]
        raise NotFound(
            f'cannot find network "{text}": no such network',
            hint=did_you_mean(text, names) or "cove network ls lists them",
        )
    return found[0]
