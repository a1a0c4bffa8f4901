"""cove runs machines: isolated commands, services and systems on one host.

The names of the Python API are loaded when they are first used, so that ``import cove`` costs
nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing costs 4 ms, and this is imported on the path of the first command

__version__ = "0.1.0"

if TYPE_CHECKING:
    from typing import Any

    from cove.client.api import Client
    from cove.errors import CoveError

_WHERE = {"Client": "cove.client.api", "CoveError": "cove.errors"}

__all__ = ["Client", "CoveError", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'cove' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)
