"""A spec from another machine's: what was typed, over what that one was made with. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from cove.spec.machine import MachineSpec
from cove.spec.volume import unnamed

OWN = ("name", "remove", "tty", "stdin_open", "attached", "stdin_once", "detach_keys", "snapshot")
"""What belongs to the caller's session and to one machine alone: never inherited."""
ADDED = ("labels", "annotations")
FROM_FILES = {
    ".env": "env",
    ".env_file": "env",
    ".label_file": "labels",
    ".publish": "ports",
    ".policy": "policy",
    ".expose": "expose",
    ".cpu_quota": "limits.cpus",
    ".no_healthcheck": "health.test",
}


def inherit(other: MachineSpec, typed: MachineSpec, fields: Collection[str]) -> MachineSpec:
    """``fields`` are those of the flags that were typed: what they set holds, also where it is the
    default. Variables, labels and mounts are added to the other's.
    """
    named = {FROM_FILES.get(field, field) for field in fields}
    if "network" in named:  # what is said of one network is not said of another
        named |= {"ip", "ip6", "mac", "aliases", "connections", "forwards"}
    changes: dict[str, Any] = {name: getattr(typed, name) for name in OWN}
    changes["mounts"] = unnamed(other.mounts)
    plain = set(MachineSpec.__struct_fields__) - {"image", "command", "limits", "security"}
    for name in named & plain:
        changes[name] = getattr(typed, name)
    for part in ("limits", "security", "health"):
        own = getattr(typed, part)
        inner = {n.partition(".")[2] for n in named if n.startswith(f"{part}.")}
        given = {name: getattr(own, name) for name in inner}
        changes[part] = msgspec.structs.replace(getattr(other, part), **given)
    if "env" in named:
        changes["env"] = _over(other.env, typed.env, key=lambda word: word.partition("=")[0])
    if "mounts" in named:
        changes["mounts"] = _over(
            unnamed(other.mounts), typed.mounts, key=lambda mount: mount.target
        )
    for name in ADDED:
        changes[name] = getattr(other, name) | getattr(typed, name)
    if typed.command or "entrypoint" in named:
        changes["command"] = typed.command
    return msgspec.structs.replace(other, **changes)


def of_fork(spec: MachineSpec, name: str) -> MachineSpec:
    """Through whatever ports of the host are free: the original has those that are named."""
    ports = tuple(msgspec.structs.replace(port, first=0, last=0) for port in spec.ports)
    mounts = unnamed(spec.mounts)
    return msgspec.structs.replace(spec, name=name, snapshot="", ports=ports, mounts=mounts)


def _over(below: tuple[Any, ...], above: tuple[Any, ...], *, key: Any) -> tuple[Any, ...]:
    return tuple(
        ({key(item): item for item in below} | {key(item): item for item in above}).values()
    )
