"""What is never on: answered as Docker answers where it is off, or refused by its name."""

from __future__ import annotations

from cove.daemon.docker.ask import Answer, Ask, readable
from cove.errors import NotFound, Unsupported

NO_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect '
    "this node to swarm and try again."
)


def no_swarm(ask: Ask) -> Answer:
    return Answer({"message": NO_SWARM}, 503)


def swarm(ask: Ask) -> Answer:
    raise Unsupported("cannot begin or join a swarm: cove has no scheduler")


def left(ask: Ask) -> Answer:
    return Answer({"message": "This node is not part of a swarm"}, 503)


def no_plugins(ask: Ask) -> Answer:
    return Answer([])


def plugin(ask: Ask) -> Answer:
    """``docker inspect NAME`` asks here last of all: only after a 404 it says there is no such."""
    raise NotFound(f'plugin "{readable(ask.names["name"]).removesuffix("/json")}" not found')


def plugins(ask: Ask) -> Answer:
    raise Unsupported("cannot use plugins: cove runs none")


def session(ask: Ask) -> Answer:
    raise Unsupported(
        "cannot begin a session of BuildKit: cove speaks none", hint="DOCKER_BUILDKIT=0"
    )


def search(ask: Ask) -> Answer:
    raise Unsupported("cannot search: cove asks no registry for what it has")


def checkpoints(ask: Ask) -> Answer:
    raise Unsupported(
        "cannot use checkpoints: CRIU cannot be relied on",
        hint="a virtual machine's memory can be kept: cove snapshot create MACHINE",
    )
