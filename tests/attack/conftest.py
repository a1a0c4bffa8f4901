"""A store of each test's own, and the unpacker built from these sources."""

from tests.images.conftest import init_binary, store

__all__ = ["init_binary", "store"]
