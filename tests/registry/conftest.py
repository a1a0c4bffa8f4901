"""Registries on loopback; nothing here leaves this host."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.images.conftest import init_binary, store
from tests.images.test_load import layout, merged
from tests.registry.registries import HTPASSWD, Fake, TokenServer, docker_registry

__all__ = ["init_binary", "layout", "merged", "store"]


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that asks for nothing."""
    with docker_registry(tmp_path_factory.mktemp("plain")) as host:
        yield host


@pytest.fixture(scope="session")
def basic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One that wants a name and a password."""
    place = tmp_path_factory.mktemp("basic")
    (place / "users").write_text(HTPASSWD + "\n")
    auth = f"auth: {{htpasswd: {{realm: tests, path: {place}/users}}}}\n"
    with docker_registry(place, auth) as host:
        yield host


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    server = TokenServer(tmp_path_factory.mktemp("tokens"))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def guarded(tokens: TokenServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One that sends everybody to the token server."""
    with docker_registry(tmp_path_factory.mktemp("guarded"), tokens.auth()) as host:
        yield host


@pytest.fixture
def nobody() -> Iterator[str]:
    """``HOST:PORT`` where nobody listens, nor can."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def fake() -> Iterator[Fake]:
    """A registry of the test's own, that misbehaves on request."""
    server = Fake()
    try:
        yield server
    finally:
        server.close()
