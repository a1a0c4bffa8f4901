"""What the user asked for of a volume, and which volumes a machine has. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from cove.errors import Unsupported, UsageError, one_line
from cove.spec.machine import Mount
from cove.spec.suggest import did_you_mean
from cove.spec.values import bad, clean_path, parse_bool, parse_size

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
"""A name is also one of a directory."""
OPTIONS = ("type", "o", "device", "size", "block")
PLACE = frozenset(("type", "o", "device"))
"""Those that name a directory of the host's own."""
DISK = 10 << 30
"""Bytes of one whose size nobody chose; it takes of the host what was written."""
SMALLEST = 16 << 20
"""Of a volume's disk: a file system with a journal needs that much."""


DEVICES = "/dev"
"""Only a directory of the host's, with devices in it, can be there instead of the machine's own."""


class VolumeSpec(msgspec.Struct, frozen=True):
    name: str = ""
    """Empty: one that nobody chose."""
    labels: dict[str, str] = {}
    options: dict[str, str] = {}


def parse_volume_name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise bad(
            "volume name",
            text if len(text) < 80 else f"{text[:40]}…",
            "only letters, digits, _ . and - are allowed, 255 at most, a letter or digit first",
        )
    return text


def parse_driver(text: str) -> str:
    if text != "local":
        raise no_driver(text)
    return text


def no_driver(text: str) -> Unsupported:
    return Unsupported(
        f'cannot use the volume driver "{text}": cove keeps volumes itself, as local'
    )


def parse_option(text: str) -> tuple[str, str]:
    """``NAME=VALUE``, in the words of Docker's local driver, and two of cove's own: ``block`` and
    ``size=SIZE``.
    """
    name, equals, value = text.partition("=")
    if name == "o" and "size=" in value:
        raise Unsupported(
            f'cannot use "{text}": no size is a word of o= here',
            hint="a volume of that size: --opt size=1g; in memory: --tmpfs /dir:size=64m",
        )
    if name not in OPTIONS or (not equals and name != "block"):
        raise bad("option", text, "no option of a volume", hint=did_you_mean(name, OPTIONS))
    if name == "block":
        return name, "true" if not equals or parse_bool(value) else "false"
    if name == "size":
        parse_size(value)
    return name, value


def check_volume(spec: VolumeSpec) -> None:
    if spec.name:
        parse_volume_name(spec.name)
    for name, value in spec.options.items():
        parse_option(f"{name}={value}")
    own, device = "size" in spec.options or is_disk(spec.options), device_of(spec.options)
    if own and device:
        raise UsageError(
            "cannot make such a volume: a directory of the host's own is no disk and has no size",
            origin=f"--opt device={device}",
        )
    if own and disk_size(spec.options) < SMALLEST:
        raise UsageError(
            f"cannot make a volume of {spec.options['size']}: 16m is the least",
            origin=f"--opt size={spec.options['size']}",
        )


def is_disk(options: dict[str, str]) -> bool:
    """It is a disk, which virtual machines have one at a time, and no directory."""
    return options.get("block", "false") == "true"


def is_limited(options: dict[str, str]) -> bool:
    """A directory with a size: a file system of its own, in a file."""
    return "size" in options and not is_disk(options)


def is_plain(options: dict[str, str]) -> bool:
    """A directory of cove's or the host's, which is what it looks like."""
    return not is_disk(options) and not is_limited(options)


def disk_size(options: dict[str, str]) -> int:
    """Whole pages of the guest's."""
    size = options.get("size", "")
    return parse_size(size) & ~0xFFF if size else DISK


def device_of(options: dict[str, str]) -> str:
    """The directory that is the volume: ``type=none,o=bind,device=/path``. Empty: cove's own."""
    if not PLACE & options.keys():
        return ""
    kind, words = options.get("type", "none"), options.get("o", "").split(",")
    if kind not in ("none", "bind") or not {"bind", "rbind"} & set(words):
        raise Unsupported(
            f"cannot make a volume of type {kind}: only a directory of the host can be one: "
            "type=none,o=bind,device=/path",
            hint="--tmpfs is empty memory; what the host has mounted can be named as a device",
        )
    device = options.get("device", "")
    if not device.startswith("/"):
        raise UsageError(
            "cannot make such a volume: its device is an absolute path of the host",
            origin=f"--opt device={device}",
        )
    return clean_path(device)


# ---- the volumes of a machine ----


def image_mounts(mounts: tuple[Mount, ...], paths: Iterable[str], image: str) -> tuple[Mount, ...]:
    """What an image says is a volume, where nothing else is mounted."""
    taken = {mount.target for mount in mounts}
    found = []
    for path in paths:
        target = clean_path(path) if path.startswith("/") else ""
        if target in ("", "/", "/proc") or target.startswith("/proc/"):
            raise UsageError(
                f'cannot make the volume "{one_line(path)}" of image {image}: it is no path to '
                "mount on",
                origin=f"VOLUME {one_line(path)} of the image",
                exit_code=125,
            )
        if target == DEVICES and target not in taken:
            raise UsageError(
                f"cannot make the volume {target} of image {image}: "
                "the machine's devices are there",
                origin=f"VOLUME {one_line(path)} of the image",
                hint="the host's instead, for what is trusted with them: -v /dev:/dev",
                exit_code=125,
            )
        if target not in taken:
            taken.add(target)
            found.append(Mount("volume", target, origin=f"image: VOLUME {path}"))
    return tuple(found)


def shared_mounts(
    mounts: tuple[Mount, ...], others: Iterable[Mount], *, read_only: bool
) -> tuple[Mount, ...]:
    """Another machine's binds and volumes, where nothing else is mounted."""
    taken = {mount.target for mount in mounts}
    return tuple(
        msgspec.structs.replace(
            mount, read_only=read_only or mount.read_only, anonymous=False, copy=False
        )
        for mount in others
        if mount.type in ("bind", "volume") and mount.target not in taken
    )


def parse_volumes_from(text: str) -> str:
    """``MACHINE[:ro]``; kept as typed."""
    name, _, mode = text.partition(":")
    words = set(mode.split(",")) if mode else set()
    if not name or not words <= {"ro", "rw", "z", "Z"} or {"ro", "rw"} <= words:
        raise bad("machine", text, "not MACHINE, MACHINE:ro or MACHINE:rw")
    return text


def unnamed(mounts: tuple[Mount, ...]) -> tuple[Mount, ...]:
    """For another machine: it gets volumes of its own where this one has."""
    return tuple(
        msgspec.structs.replace(mount, source="", anonymous=False) if mount.anonymous else mount
        for mount in mounts
    )
