"""Image configs: the JSON that says how a machine of an image starts, from OCI and Docker alike.

``parse_config`` gives the typed part and keeps the whole JSON for ``inspect``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from cove.errors import BadArchive
from cove.oci import digest as digests

CONFIG_MAX = 8 << 20


class _Start(msgspec.Struct, frozen=True, rename="pascal"):
    """The ``config`` object. Docker writes null for what is empty."""

    entrypoint: list[str] | str | None = None
    cmd: list[str] | str | None = None
    env: list[str] | None = None
    user: str | None = None
    working_dir: str | None = None
    volumes: dict[str, object] | None = None
    labels: dict[str, str] | None = None
    exposed_ports: dict[str, object] | None = None
    stop_signal: str | None = None
    healthcheck: dict[str, object] | None = None
    shell: list[str] | None = None
    on_build: list[str] | None = None


class _Rootfs(msgspec.Struct, frozen=True):
    type: str = "layers"
    diff_ids: list[str] | None = None


class _Config(msgspec.Struct, frozen=True):
    config: _Start | None = None
    rootfs: _Rootfs | None = None
    architecture: str = ""
    os: str = ""
    variant: str = ""
    author: str | None = None
    created: str | None = None


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How a machine of an image starts when its spec does not say."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    volumes: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    exposed_ports: tuple[str, ...] = ()
    stop_signal: str = ""
    healthcheck: dict[str, object] | None = None
    shell: tuple[str, ...] = ()
    onbuild: tuple[str, ...] = ()
    """Instructions for builds that begin with this image."""
    author: str = ""
    architecture: str = ""
    os: str = ""
    variant: str = ""


@dataclass(frozen=True, slots=True)
class ParsedConfig:
    """A config as read: its typed part, its layers, its whole JSON."""

    config: ImageConfig
    diff_ids: tuple[str, ...]
    raw: dict[str, object]


# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
_decode = msgspec.json.Decoder(_Config).decode


def parse_config(data: bytes, what: str = "image config") -> ParsedConfig:
    """Decode a config blob; its diff IDs are checked for form."""
    try:
        parsed = _decode(data)
        raw = msgspec.json.decode(data, type=dict[str, object])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadArchive(f"cannot read {what}: {_reason(error)}") from None
    if parsed.rootfs is None:
        raise BadArchive(f"cannot read {what}: it has no rootfs, so it is no image config")
    if parsed.rootfs.type != "layers":
        raise BadArchive(f'cannot read {what}: rootfs type "{parsed.rootfs.type}" is not "layers"')
    diff_ids = tuple(digests.of_archive(text) for text in parsed.rootfs.diff_ids or ())
    return ParsedConfig(_image_config(parsed), diff_ids, raw)


def config_from_json(raw: dict[str, object]) -> ImageConfig:
    """The typed part of a config that a record holds."""
    return _image_config(msgspec.convert(raw, _Config))


def healthcheck(test: tuple[str, ...], times: dict[str, int], retries: int) -> dict[str, object]:
    """A check as configs have it; ``times`` are nanoseconds by ``interval``, ``start_period``..."""
    named = {"".join(word.title() for word in name.split("_")): n for name, n in times.items() if n}
    return {"Test": list(test), **named, **({"Retries": retries} if retries else {})}


def chain_id(below: str, diff_id: str) -> str:
    """What a layer on top of the chain ``below`` is called: OCI's name for both together."""
    return digests.digest_of(f"{below} {diff_id}".encode())


def _image_config(parsed: _Config) -> ImageConfig:
    start = parsed.config or _Start()
    return ImageConfig(
        entrypoint=_words(start.entrypoint),
        cmd=_words(start.cmd),
        env=tuple(start.env or ()),
        user=start.user or "",
        workdir=start.working_dir or "",
        volumes=tuple(start.volumes or ()),
        labels=start.labels or {},
        exposed_ports=tuple(start.exposed_ports or ()),
        stop_signal=start.stop_signal or "",
        healthcheck=start.healthcheck,
        shell=tuple(start.shell or ()),
        onbuild=tuple(start.on_build or ()),
        author=parsed.author or "",
        architecture=parsed.architecture,
        os=parsed.os,
        variant=parsed.variant,
    )


def _words(value: list[str] | str | None) -> tuple[str, ...]:
    """Docker took a bare string for one word."""
    return (value,) if isinstance(value, str) else tuple(value or ())


def _reason(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:] if text else type(error).__name__
