"""cove for asyncio: the names of ``cove`` as coroutines; see docs/python.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cove import OF_DEFAULT
from cove.client.aio import Client, Images, Machine, Process, connect, default
from cove.client.aio_networks import Networks
from cove.client.aio_volumes import Volumes

if TYPE_CHECKING:
    _of_default = Client()
    run, popen, start = _of_default.run, _of_default.popen, _of_default.start
    machine, machines, get = _of_default.machine, _of_default.machines, _of_default.get
    events, info, version = _of_default.events, _of_default.info, _of_default.version
    images: Images
    networks: Networks
    volumes: Volumes

__all__ = [
    "Client",
    "Images",
    "Machine",
    "Networks",
    "Process",
    "Volumes",
    "connect",
    "events",
    "get",
    "images",
    "info",
    "machine",
    "machines",
    "networks",
    "popen",
    "run",
    "start",
    "version",
    "volumes",
]


def __getattr__(name: str) -> Any:
    if name in OF_DEFAULT:
        return getattr(default(), name)
    raise AttributeError(f"module 'cove.aio' has no attribute {name!r}")
