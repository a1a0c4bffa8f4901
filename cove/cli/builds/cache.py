"""``build --cache-from`` and ``--cache-to``: caches are images, got and brought by the verbs of
images, under no name and with the rights of who calls.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from cove.cli.builds.platforms import platforms_of
from cove.cli.command import Typed
from cove.cli.images.pull import login_for
from cove.cli.images.save import into_directory
from cove.cli.progress import follow
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.engine.calls.build import ImageBuild
from cove.engine.calls.ship import ImageCopy, ImageSave
from cove.errors import CoveError, UsageError, printable

if TYPE_CHECKING:  # only builds pay for it
    from cove.build.handing import Cache

LAYOUT = "oci-layout"


def parse_source(text: str) -> Cache:
    from cove.build.handing import parse_source

    return parse_source(text)


def parse_target(text: str) -> Cache:
    from cove.build.handing import parse_target

    return parse_target(text)


@contextlib.contextmanager
def held(typed: Typed, client: Client) -> Iterator[str]:
    """A name for this command, by which it has images for itself alone: caches, and a result that
    is only asked for as files. They go with it, whatever came of the build.
    """
    holder = secrets.token_hex(16)
    try:
        yield holder
    finally:
        if _passing(typed) or typed.values.get("cache_from") or typed.values.get("cache_to"):
            with contextlib.suppress(CoveError):
                client.image_remove(calls.ImageRemove("", holder=holder))


def _passing(typed: Typed) -> bool:
    output = typed.values.get("output")
    return output is not None and not output.to_store


def caches_of(typed: Typed, terminal: Terminal, client: Client, holder: str) -> tuple[str, ...]:
    """Ids of the images that are asked for steps. One that cannot be had is named, and the build
    goes on without it, as with BuildKit.
    """
    wanted: tuple[Cache, ...] = typed.values.get("cache_from", ())
    found = []
    for cache in wanted:
        try:
            several = len(platforms_of(typed)) > 1
            found += _load(cache, terminal, client, holder, every=several)
        except (CoveError, OSError) as error:
            if terminal.cancelled.is_set():
                raise
            why = error.message if isinstance(error, CoveError) else _reason(error)
            text = f"cannot use cache {cache.typed}: {why}"
            terminal.error(f"{printable(text)}; building without it\n")
    return tuple(found)


def asked(params: ImageBuild, typed: Typed, known: tuple[str, ...], holder: str) -> ImageBuild:
    targets: tuple[Cache, ...] = typed.values.get("cache_to", ())
    return msgspec.structs.replace(
        params,
        holder=holder,
        passing=_passing(typed),
        cache_from=known,
        cache_to=tuple(sorted({one.mode for one in targets if one.kind != "inline"})),
        cache_inline=any(one.kind == "inline" for one in targets),
    )


def _load(
    cache: Cache, terminal: Terminal, client: Client, holder: str, *, every: bool
) -> list[str]:
    """``every``: the images of all its platforms."""
    local = cache.kind == "local"
    source = f"oci:{cache.place}" if local else f"docker://{cache.place}"
    login = None if local else login_for(terminal, cache.place)
    with contextlib.ExitStack() as stack:
        body = stack.enter_context(terminal.open_input(cache.place)) if local else -1
        archive = stack.enter_context(tempfile.TemporaryFile())
        call = calls.Call(body=body, sink=archive.fileno(), cancelled=terminal.cancelled)
        params = ImageCopy(source, "oci-archive:-", every=every, source_login=login)
        client.image_copy_out(params, call)
        archive.seek(0)
        call = calls.Call(body=archive.fileno(), cancelled=terminal.cancelled)
        steps = list(client.image_load(calls.ImageLoad(cache.typed, holder), call))
    return [step.image for step in steps if step.image]


# ---- bringing it away ----


def hand_out(typed: Typed, terminal: Terminal, client: Client, caches: dict[str, str]) -> None:
    for cache in typed.values.get("cache_to", ()):
        if cache.kind == "inline":
            continue
        image = caches.get(cache.mode, "")
        if not image:
            terminal.error(f"no step made anything for cache {printable(cache.typed)}\n")
            continue
        try:
            _hand_out(cache, image, terminal, client)
        except CoveError as error:
            if not cache.ignore_error:
                error.origin = f"--cache-to {cache.typed}"
                error.exit_code = 1
                raise
            terminal.error(f"{printable(error.message)}; going on\n")


def _hand_out(cache: Cache, image: str, terminal: Terminal, client: Client) -> None:
    if cache.kind == "local":
        save = ImageSave((image,), "oci-dir")
        into_directory(
            terminal, cache.place, lambda fd: client.image_save(save, fd, terminal.cancelled),
            check=lambda path: _check_layout(path, cache.place),
        )  # fmt: skip
        return
    with tempfile.TemporaryFile() as archive:
        save = ImageSave((image,), "oci-archive")
        client.image_save(save, archive.fileno(), terminal.cancelled)
        archive.seek(0)
        login = login_for(terminal, cache.place)
        params = ImageCopy("oci-archive:-", f"docker://{cache.place}", compression="gzip",
                           target_login=login)  # fmt: skip
        call = calls.Call(body=archive.fileno(), cancelled=terminal.cancelled)
        for _ in follow(client.image_copy(params, call), terminal, quiet=True):
            pass


def _check_layout(path: str, name: str) -> None:
    """What is no cache is never taken away, nor followed where it leads."""
    if not os.path.lexists(path):
        return
    known = os.path.isdir(path) and not os.path.islink(path)
    if not known or (os.listdir(path) and not os.path.isfile(f"{path}/{LAYOUT}")):
        raise UsageError(
            f"cannot write a cache to {name}: there is something else",
            origin=name,
            hint="name a directory that is a cache, empty, or not there",
            exit_code=1,
        )


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
