"""What is recorded of a guest kernel, as plain data: clients read it too."""

from __future__ import annotations

import msgspec

FORMAT = 1
"""Of ``meta.json``; a kernel of a newer one is not seen."""


class Kernel(msgspec.Struct, frozen=True):
    """``meta.json``."""

    name: str
    version: str
    """As its ``uname -r``."""
    arch: str
    source: str
    """``host``, ``debian``, ``file`` or ``built``."""
    origin: str
    """The file, or package and version."""
    created: float
    size: int
    """Bytes of the kernel and its modules."""
    digest: str
    """SHA-256 of the kernel, as ``sha256:…``."""
    hz: int = 250
    options: tuple[str, ...] = ()
    """Of its configuration, those on which a command line depends."""
    modules: tuple[str, ...] = ()
    """In the order in which they are loaded."""
    later: tuple[str, ...] = ()
    """Those that are loaded when they are needed, in order."""
    key: str = ""
    """Of a build: changes with everything it was made of."""
    format: int = FORMAT


class Step(msgspec.Struct, frozen=True):
    """How far a long verb is."""

    stage: str
    current: int = 0
    total: int = 0
    unit: str = ""
    id: str = ""
