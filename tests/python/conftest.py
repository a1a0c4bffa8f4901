"""The Python API against a real daemon; nothing of it may be left at the end."""

from __future__ import annotations

import pytest

import cove as package
from tests.driver import Cove
from tests.kernel.conftest import cove, fresh_cove

__all__ = ["cove", "fresh_cove"]


@pytest.fixture
def client(cove: Cove) -> package.Client:
    return package.connect(str(cove.root))
