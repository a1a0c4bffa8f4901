"""cove runs machines: isolated commands, services and systems on one host.

The names of the Python API are loaded when they are first used, so that ``import cove`` costs
nothing. They are described in docs/python.md.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing costs 4 ms, and this is imported on the path of the first command

__version__ = "0.1.0"

if TYPE_CHECKING:
    from typing import Any

    from cove import aio
    from cove.client.networks import Networks
    from cove.client.options import Options
    from cove.client.results import Chunk, Result
    from cove.client.sync import Client, Images, Machine, Process, connect
    from cove.client.volumes import Volumes
    from cove.errors import (
        BadArchive,
        Conflict,
        CoveError,
        Failed,
        HostError,
        NoSuchImage,
        NotFound,
        OpError,
        Unsupported,
        UsageError,
    )
    from cove.store.records import Cause

    _of_default = Client()
    run, popen, start = _of_default.run, _of_default.popen, _of_default.start
    machine, machines, get = _of_default.machine, _of_default.machines, _of_default.get
    events, info, version = _of_default.events, _of_default.info, _of_default.version
    images: Images
    networks: Networks
    volumes: Volumes

_ERRORS = (
    "BadArchive", "Conflict", "CoveError", "Failed", "HostError", "NoSuchImage", "NotFound",
    "OpError", "Unsupported", "UsageError",
)  # fmt: skip
_SYNC = ("Client", "Images", "Machine", "Process", "connect")
_WHERE = {
    **dict.fromkeys(_ERRORS, "cove.errors"),
    **dict.fromkeys(_SYNC, "cove.client.sync"),
    "Cause": "cove.store.records",
    "Chunk": "cove.client.results",
    "Result": "cove.client.results",
    "Options": "cove.client.options",
    "Networks": "cove.client.networks",
    "Volumes": "cove.client.volumes",
}
OF_DEFAULT = (
    "run", "popen", "machine", "start", "machines", "get", "images", "networks", "volumes",
    "events", "info", "version",
)  # fmt: skip
"""Methods of the client of the default daemon: the one that the command ``cove`` speaks to."""

__all__ = [
    "BadArchive",
    "Cause",
    "Chunk",
    "Client",
    "Conflict",
    "CoveError",
    "Failed",
    "HostError",
    "Images",
    "Machine",
    "Networks",
    "NoSuchImage",
    "NotFound",
    "OpError",
    "Options",
    "Process",
    "Result",
    "Unsupported",
    "UsageError",
    "Volumes",
    "__version__",
    "aio",
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
    from importlib import import_module

    if name in OF_DEFAULT:
        return getattr(import_module("cove.client.sync").default(), name)
    if name == "aio":
        return import_module("cove.aio")
    if name not in _WHERE:
        raise AttributeError(f"module 'cove' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_WHERE[name]), name)
    return found


def __dir__() -> list[str]:
    return __all__
