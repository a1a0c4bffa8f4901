"""What Docker's API left out, and what it said otherwise in older versions, by its version history
(api/docs/CHANGELOG.md of moby). Pure: documents come in as the newest version has them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cove.daemon.docker.routes import Version
from cove.spec.network import DEFAULT_NETWORK

Json = dict[str, Any]

CONFIG_EMPTY = ("ExposedPorts", "Healthcheck", "StopSignal", "StopTimeout", "Shell")
"""Of a configuration: Go's omitempty, on every version."""
HOST_EMPTY = ("Annotations", "Init", "Mounts", "NetworkPolicy", "StorageOpt", "Sysctls", "Tmpfs")
KERNEL_MEMORY = ("KernelMemory", "KernelMemoryTCP")
OF_CONTAINERS: Json = {
    "Hostname": "", "Domainname": "", "AttachStdin": False, "AttachStdout": False,
    "AttachStderr": False, "Tty": False, "OpenStdin": False, "StdinOnce": False, "Image": "",
}  # fmt: skip
"""What images were shown with before 1.50, always empty."""
UNTAGGED = "<none>:<none>"


def without_empty(document: Json, names: Iterable[str]) -> Json:
    gone = {name for name in names if not document.get(name)}
    return {name: value for name, value in document.items() if name not in gone}


def container(document: Json, version: Version) -> Json:
    """What ``GET /containers/NAME/json`` answers."""
    document["Config"] = without_empty(document["Config"], CONFIG_EMPTY)
    gone = (*HOST_EMPTY, *KERNEL_MEMORY) if version >= (1, 42) else HOST_EMPTY
    document["HostConfig"] = without_empty(document["HostConfig"], gone)
    places = document["NetworkSettings"]["Networks"]
    mine = document["Id"][:12]
    places = {name: place(name, one, version, mine) for name, one in places.items()}
    document["NetworkSettings"] = document["NetworkSettings"] | {"Networks": places}
    return document


def place(network: str, shown: Json, version: Version, mine: str) -> Json:
    """Of a machine on a network. ``mine``: its short id, a name that it has there."""
    shown = dict(shown)
    if version < (1, 44):
        shown.pop("DNSNames", None)
    if version < (1, 45) and network != DEFAULT_NETWORK and shown.get("EndpointID"):
        shown["Aliases"] = [*(shown["Aliases"] or ()), mine]
    return shown


def image(document: Json, version: Version) -> Json:
    """What ``GET /images/NAME/json`` answers. 1.45 took the container away that a build committed:
    docker-compose 1.29 asks for the newest version and ends where an image has none.
    """
    config = without_empty(document["Config"], CONFIG_EMPTY)
    if version < (1, 50):
        config = OF_CONTAINERS | config
    document = document | {"Config": config, "Container": "", "ContainerConfig": config}
    if version >= (1, 44):
        document.pop("VirtualSize", None)
    return without_empty(document, ("Variant",))


def listed_image(document: Json, version: Version) -> Json:
    """A line of ``GET /images/json``."""
    if version >= (1, 44):
        document.pop("VirtualSize", None)
    if version < (1, 51):
        document["Containers"] = -1
    if version < (1, 43) and not document["RepoTags"]:
        document["RepoTags"] = [UNTAGGED]
        document["RepoDigests"] = document["RepoDigests"] or ["<none>@<none>"]
    return document


def network(document: Json, version: Version) -> Json:
    if version < (1, 48):
        document.pop("EnableIPv4", None)
    return document


def disk(document: Json, version: Version) -> Json:
    """What ``GET /system/df`` answers."""
    if version >= (1, 42):
        document.pop("BuilderSize", None)
    if version >= (1, 44):
        for one in document.get("Images", ()):
            one.pop("VirtualSize", None)
    return document
