"""Where the static program of ``init/`` is installed."""

from __future__ import annotations

import os

_INSTALLED = os.path.join(os.path.dirname(os.path.dirname(__file__)), "_native", "cove-init")


def init_program() -> str:
    """``COVE_INIT``, or the one that came with this package."""
    return os.environ.get("COVE_INIT") or _INSTALLED
