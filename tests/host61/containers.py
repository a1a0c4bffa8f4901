"""A plugin of pytest: a guest has no QEMU of its own, so only containers are asked for in it."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    virtual = [item for item in items if _is_virtual(item)]
    config.hook.pytest_deselected(items=virtual)
    items[:] = [item for item in items if item not in virtual]


def _is_virtual(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)
    return call is not None and "vm" in call.params.values()
