"""What the caller gives to git over ssh: the hosts he knows, and his agent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from cove.engine.builds.agents import opened
from cove.engine.builds.cloning import identity_of
from cove.git.fetching import Identity

HOSTS = "/etc/ssh/ssh_known_hosts"
HOSTS_MAX = 1 << 20
"""Bytes that are read of each file."""


def known_hosts(env: Mapping[str, str]) -> bytes:
    """Keys of hosts that the caller knows, and everybody here."""
    found = b""
    for path in filter(None, (env.get("HOME") and f"{env['HOME']}/.ssh/known_hosts", HOSTS)):
        with suppress(OSError), open(path, "rb") as file:
            found += file.read(HOSTS_MAX) + b"\n"
    return found


@contextmanager
def own_identity(env: Mapping[str, str]) -> Iterator[Identity | None]:
    """Of a context, which needs no --ssh; None: there is no agent."""
    path = env.get("SSH_AUTH_SOCK", "")
    if not path:
        yield None
        return
    with opened({"default": path}) as agents:
        yield identity_of(agents["default"], known_hosts(env))
