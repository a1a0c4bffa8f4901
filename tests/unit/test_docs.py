"""docs/cli.md says what the commands say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_of_commands_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("docs_of_cove", ROOT / "tools/docs.py")
    assert spec and spec.loader
    docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docs)
    assert docs.TARGET.read_text() == docs.text(), "stale: run make docs"
