"""One daemon for the examples, with a state directory of its own; nothing of it may be left."""

from tests.kernel.conftest import cove

__all__ = ["cove"]
