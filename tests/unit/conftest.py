"""``cove`` in this folder is the command line alone: no daemon, no root."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.commands import Cove, open_commands


@pytest.fixture
def cove(tmp_path: Path) -> Cove:
    return open_commands(tmp_path)
