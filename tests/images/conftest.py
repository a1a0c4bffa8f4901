"""A store of each test's own, and the unpacker built from these sources."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.store.db import Store
from tests.conftest import need_root
from tests.native.conftest import init_binary

__all__ = ["init_binary", "store"]


@pytest.fixture
def store(tmp_path: Path, init_binary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Empty; what a test leaves in its ``tmp`` is a leak."""
    need_root()
    monkeypatch.setenv("COVE_INIT", str(init_binary))
    with Store.open(tmp_path / "state") as opened:
        yield opened
        assert os.listdir(opened.layout.tmp) == []
