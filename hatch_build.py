"""Build hook: compiles init/ and ships the one static program twice, as the command ``cove`` and
as ``cove/_native/cove-init``, which the daemon copies into a sealed memory file; its sources go
along.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = "cove/_native/source"
"""In a wheel: what the program for the guests of other CPUs is built from, when one is made."""


class NativeBuild(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the program to a wheel; an editable install uses it from the source tree."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        sys.path.insert(0, str(root / "tools"))
        try:
            from build_init import build
        finally:
            sys.path.pop(0)
        program = root / "cove" / "_native" / "cove-init"
        program.parent.mkdir(exist_ok=True)
        build(program)
        build_data["shared_scripts"][str(program)] = "cove"
        if version == "standard":  # an editable install has them in the source tree
            for path in [*root.glob("init/*.[ch]"), *root.glob("init/*.def")]:
                build_data["force_include"][str(path)] = f"{SOURCES}/init/{path.name}"
            tool = "tools/build_init.py"
            build_data["force_include"][str(root / tool)] = f"{SOURCES}/{tool}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform()}"


def _platform() -> str:
    """The wheel tag of a static program: any libc of this architecture."""
    import platform

    return f"linux_{platform.machine()}"
