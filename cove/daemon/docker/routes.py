"""Every endpoint of Docker's Engine API, as data: which function answers it, since which version,
and how much of it there is. docs/docker.md has this table; a path that is not in it is not served.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal
from urllib.parse import unquote

Version = tuple[int, int]

OLDEST: Version = (1, 24)
NEWEST: Version = (1, 51)
ABSOLUTE = re.compile(r"\Ahttps?://[^/?#]*", re.IGNORECASE)
"""Before the path, as a client says it to a proxy (RFC 9112, 3.2.2: everybody has to take it)."""

Kind = Literal["plain", "glance", "lasting", "body", "hijack", "websocket"]
"""plain: parameters in, an answer out. glance: the same, mostly without waiting for anybody: its
``module.function_at_once`` says None where it would. lasting: goes on for as long as somebody
likes. body: its bytes are read as they come. hijack: the connection becomes a stream of the
machine's; websocket: the same in a websocket."""


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    """``{name}`` is one part of a path, ``{name*}`` any number of them."""
    handler: str
    """``module.function`` in this room."""
    support: Literal["yes", "partial", "no"] = "yes"
    why: str = ""
    """What of it is missing."""
    since: Version = OLDEST
    kind: Kind = "plain"


OFF = "off.no_swarm"
SWARM = "cove has no scheduler: it answers as a daemon outside of a swarm"
PLUGINS = "cove runs no plugins"

SYSTEM = (
    Route("HEAD", "/_ping", "system.ping", kind="glance"),
    Route("GET", "/_ping", "system.ping", kind="glance"),
    Route("GET", "/version", "system.version"),
    Route("GET", "/info", "system.info"),
    Route("OPTIONS", "/{name*}", "system.options", kind="glance"),
)

CONTAINERS = (
    Route("GET", "/containers/json", "containers.listed"),
    Route(
        "POST",
        "/containers/create",
        "containers.create",
        "partial",
        "what cove has not is refused by the field's name",
    ),
    Route("GET", "/containers/{name}/json", "containers.inspect", kind="glance"),
    Route(
        "POST",
        "/containers/{name}/start",
        "containers.start",
        "partial",
        "no checkpoints",
    ),
    Route("POST", "/containers/{name}/stop", "containers.stop"),
    Route("POST", "/containers/{name}/restart", "containers.restart"),
    Route("POST", "/containers/{name}/kill", "containers.kill"),
    Route("POST", "/containers/{name}/pause", "containers.pause"),
    Route("POST", "/containers/{name}/unpause", "containers.unpause"),
    Route(
        "POST",
        "/containers/{name}/update",
        "containers.update",
        "partial",
        "rates of block devices are refused by name",
    ),
    Route("POST", "/containers/{name}/resize", "containers.resize"),
    Route("POST", "/containers/{name}/rename", "containers.rename"),
    Route(
        "POST",
        "/containers/{name}/wait",
        "containers.wait",
        kind="lasting",
    ),
    Route("DELETE", "/containers/{name*}", "containers.remove"),
    Route("POST", "/containers/prune", "containers.prune", since=(1, 25)),
    Route("GET", "/containers/{name}/logs", "logs.logs", kind="lasting"),
    Route(
        "POST",
        "/containers/{name}/attach",
        "attach.attach",
        "partial",
        "of several that attach before a start, all but one that hears stdout may miss what comes "
        "first",
        kind="hijack",
    ),
    Route(
        "GET",
        "/containers/{name}/attach/ws",
        "attach.attach_raw",
        "partial",
        "as by POST; in binary messages, without frames",
        kind="websocket",
    ),
)

EXECS = (
    Route("POST", "/containers/{name}/exec", "execs.create"),
    Route("POST", "/exec/{name}/start", "execs.start", kind="hijack"),
    Route("POST", "/exec/{name}/resize", "execs.resize"),
    Route("GET", "/exec/{name}/json", "execs.inspect"),
)

LOOKING = (
    Route("GET", "/containers/{name}/top", "looking.top"),
    Route("GET", "/containers/{name}/stats", "looking.stats", kind="lasting"),
    Route("GET", "/containers/{name}/changes", "looking.changes"),
)

FILES = (
    Route("HEAD", "/containers/{name}/archive", "archives.look"),
    Route("GET", "/containers/{name}/archive", "archives.get", kind="lasting"),
    Route("PUT", "/containers/{name}/archive", "archives.put", kind="body"),
    Route("GET", "/containers/{name}/export", "archives.export", kind="lasting"),
)

IMAGES = (
    Route("GET", "/images/json", "images.listed"),
    Route(
        "POST",
        "/images/create",
        "images.create",
        "partial",
        "nothing is imported from an address",
        kind="body",
    ),
    Route("POST", "/images/prune", "images.prune", since=(1, 25)),
    Route("POST", "/images/load", "images.load", kind="body"),
    Route("GET", "/images/get", "images.save", kind="lasting"),
    Route("GET", "/images/search", "off.search", "no", "cove asks no registry for what it has"),
    Route("GET", "/images/{name*}/json", "images.inspect"),
    Route("GET", "/images/{name*}/history", "images.history"),
    Route("GET", "/images/{name*}/get", "images.save", kind="lasting"),
    Route(
        "POST",
        "/images/{name*}/push",
        "images.push",
        "partial",
        "identity tokens are refused by name",
        kind="lasting",
    ),
    Route("POST", "/images/{name*}/tag", "images.tag"),
    Route("DELETE", "/images/{name*}", "images.remove"),
    Route("POST", "/commit", "images.commit", "partial", "the body's config is not read: changes"),
    Route("POST", "/auth", "images.auth"),
    Route(
        "GET", "/distribution/{name*}/json", "images.distribution", since=(1, 30), kind="lasting"
    ),
    Route(
        "POST",
        "/build",
        "build.build",
        "partial",
        "as the classic builder answers; no git over ssh, no limits of CPUs, no squash",
        kind="body",
    ),
    Route("POST", "/build/prune", "build.prune", "partial", "of the filters only until", (1, 31)),
    Route("POST", "/session", "off.session", "no", "cove speaks no BuildKit sessions", (1, 31)),
    Route("POST", "/grpc", "off.session", "no", "cove speaks no BuildKit sessions", (1, 39)),
)

NETWORKS = (
    Route("GET", "/networks", "networks.listed"),
    Route(
        "POST",
        "/networks/create",
        "networks.create",
        "partial",
        "other drivers than bridge and their options are refused by name",
    ),
    Route("POST", "/networks/prune", "networks.prune", since=(1, 25)),
    Route("GET", "/networks/{name}", "networks.inspect"),
    Route("DELETE", "/networks/{name}", "networks.remove"),
    Route("POST", "/networks/{name}/connect", "networks.connect"),
    Route("POST", "/networks/{name}/disconnect", "networks.disconnect"),
)

VOLUMES = (
    Route("GET", "/volumes", "volumes.listed"),
    Route("POST", "/volumes/create", "volumes.create", "partial", "only the driver local"),
    Route("POST", "/volumes/prune", "volumes.prune", since=(1, 25)),
    Route("GET", "/volumes/{name}", "volumes.inspect"),
    Route("PUT", "/volumes/{name}", OFF, "no", SWARM, (1, 42)),
    Route("DELETE", "/volumes/{name}", "volumes.remove"),
)

WATCHING = (
    Route("GET", "/events", "events.events", kind="lasting"),
    Route(
        "GET",
        "/system/df",
        "events.disk",
        "partial",
        "how often a step of the build cache was used is not counted",
        (1, 25),
    ),
)

CHECKPOINTS = "cove has no checkpoints of containers"
REFUSED = (
    Route("GET", "/containers/{name}/checkpoints", "off.checkpoints", "no", CHECKPOINTS),
    Route("POST", "/containers/{name}/checkpoints", "off.checkpoints", "no", CHECKPOINTS),
    Route("DELETE", "/containers/{name}/checkpoints/{id}", "off.checkpoints", "no", CHECKPOINTS),
    Route("GET", "/plugins", "off.no_plugins", "no", PLUGINS, (1, 25)),
    Route("GET", "/plugins/privileges", "off.plugins", "no", PLUGINS, (1, 25)),
    Route("POST", "/plugins/{name*}", "off.plugins", "no", PLUGINS, (1, 25)),
    Route("GET", "/plugins/{name*}", "off.plugin", "no", PLUGINS, (1, 25)),
    Route("DELETE", "/plugins/{name*}", "off.plugins", "no", PLUGINS, (1, 25)),
    Route("POST", "/swarm/init", "off.swarm", "no", SWARM),
    Route("POST", "/swarm/join", "off.swarm", "no", SWARM),
    Route("POST", "/swarm/leave", "off.left", "no", SWARM),
    *(
        Route(method, path, OFF, "no", SWARM)
        for kind in ("swarm", "nodes", "services", "tasks", "secrets", "configs")
        for method in ("GET", "POST", "DELETE")
        for path in (f"/{kind}", f"/{kind}/{{name*}}")
    ),
)

ROUTES: tuple[Route, ...] = (
    *SYSTEM,
    *CONTAINERS,
    *EXECS,
    *LOOKING,
    *FILES,
    *IMAGES,
    *NETWORKS,
    *VOLUMES,
    *WATCHING,
    *REFUSED,
)


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], Route], ...]:
    """What takes any number of parts comes last."""
    routes = sorted(ROUTES, key=lambda route: "*}" in route.path)
    return tuple((_pattern(route.path), route) for route in routes)


def _pattern(path: str) -> re.Pattern[str]:
    text = re.sub(r"\{(\w+)\*\}", r"(?P<\1>.+)", path)
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", text))


def find(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """The route for an encoded path without its version, and the names in it."""
    for pattern, route in _patterns():
        if route.method == method and (match := pattern.fullmatch(path)):
            return route, {
                k: unquote(v, errors="surrogateescape") for k, v in match.groupdict().items()
            }
    return None


@cache
def _hijacks() -> tuple[tuple[re.Pattern[str], Route], ...]:
    return tuple((pattern, route) for pattern, route in _patterns() if route.kind == "hijack")


def becomes_stream(method: str, target: str) -> bool:
    """Whether a connection ends to be HTTP with this request; ``target``: as the client says it."""
    version, path = split_version(ABSOLUTE.sub("", target).partition("?")[0])
    if version is not None and not OLDEST <= version <= NEWEST:
        return False
    return any(route.method == method and pattern.fullmatch(path) for pattern, route in _hijacks())


def split_version(path: str) -> tuple[Version | None, str]:
    """``/v1.41/info`` in two; no version: the newest is meant."""
    match = re.match(r"/v(\d{1,4})\.(\d{1,4})(?=/)", path)
    if match is None:
        return None, path
    return (int(match[1]), int(match[2])), path[match.end() :]


def version_text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
