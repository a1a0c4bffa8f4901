"""A layer's archive again, of its files and its recipe: byte by byte what was unpacked, which the
diff ID proves. Two processes, as for unpacking: ``cove-init repack`` makes it, ``encode`` hashes
and compresses it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from cove.errors import Bug, CoveError, HostError, NotFound, printable
from cove.image import encode, pipeline
from cove.image.layers import short
from cove.linux.program import init_program
from cove.linux.ready import readable
from cove.store.db import Store
from cove.store.records import LayerRecord

LOOK = 0.2
"""Seconds between two looks whether anybody still wants it."""


class Unwanted(CoveError):
    """Whoever asked has left."""

    exit_code = 130


@dataclass(frozen=True, slots=True)
class Written:
    digest: str
    size: int


def plain_diff_id(layer: LayerRecord) -> str:
    """Of one that was fitted to an image: that of its archive."""
    return layer.diff_id.partition("+")[0]


def check_recipe(layer: LayerRecord, what: str) -> None:
    """Whether its archive can be made again; ``what``: ``save web:1``."""
    if layer.tar:
        return
    raise NotFound(
        f"cannot {what}: the archive of its layer {short(layer.diff_id)} cannot be made again",
        host="it names a file twice, or an older cove unpacked it",
        hint="remove the image and pull, load or import it again",
    )


def write_archive(
    store: Store,
    layer: LayerRecord,
    out: int,
    *,
    what: str,
    kind: str = "none",
    gone: Callable[[], bool] = lambda: False,
    tell: Callable[[int], None] | None = None,
) -> Written:
    """Its archive to ``out``, from where that stands, compressed as ``kind`` (none, gzip, zstd)."""
    check_recipe(layer, what)
    diff_id = plain_diff_id(layer)
    try:
        recipe = os.open(store.layout.recipe(layer.key), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise HostError(f"cannot {what}: recipe of layer {short(diff_id)}: {reason}") from error
    with contextlib.ExitStack() as stack:
        ends = stack.enter_context(contextlib.ExitStack())
        ends.callback(os.close, recipe)
        argv = [init_program(), "repack", store.layout.layer(layer.key)]
        repacker = stack.enter_context(pipeline.child(argv, stdin=recipe))
        assert repacker.stdout is not None and repacker.stderr is not None
        pipeline.widen(repacker.stdout.fileno())
        options = {"out": out, "kind": kind, "diff_hash": diff_id.partition(":")[0]}
        encoder = stack.enter_context(
            pipeline.open_child(
                encode.__file__, options, stdin=repacker.stdout.fileno(), keep=(out,)
            )
        )
        repacker.stdout.close()
        ends.close()
        poured = listen(encoder, gone, tell)
        complaint = repacker.stderr.read()
        repacker.wait()
    return _checked(poured, complaint, layer, what)


def listen(
    encoder: subprocess.Popen[bytes], gone: Callable[[], bool], tell: Callable[[int], None] | None
) -> pipeline.Poured:
    """The last line is the result; meanwhile the caller may leave."""
    assert encoder.stdout is not None
    poured, pending = pipeline.Poured(), b""
    fd = encoder.stdout.fileno()
    while True:
        if gone():
            raise Unwanted("interrupted")
        if not readable(fd, LOOK):
            continue
        data = os.read(fd, 1 << 16)
        if not data:
            break
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            poured = pipeline.decode_poured(line)
            if tell is not None:
                tell(poured.read)
    encoder.wait()
    return poured


def _checked(poured: pipeline.Poured, complaint: bytes, layer: LayerRecord, what: str) -> Written:
    diff_id = plain_diff_id(layer)
    if poured.error == "closed":
        raise BrokenPipeError
    if poured.error:
        raise HostError(f"cannot {what}: cannot write it: {poured.text}", exit_code=1)
    if poured.diff == diff_id:
        return Written(poured.blob, poured.wrote)
    if not poured.diff:
        raise Bug(f"bug: encoder of layer {diff_id} ended without a result")
    said = printable(complaint.decode("utf-8", "backslashreplace")).strip()
    raise HostError(
        f"cannot {what}: layer {short(diff_id)} is not what was unpacked: "
        + (said.removeprefix("repack: ") or "its files were changed"),
        hint="look at what else was changed: cove system check",
        exit_code=1,
    )
