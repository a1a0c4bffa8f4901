"""A COPY of many files into a folder that is new or empty: the archive of its files is the layer.

What leads there is put into the tree as ever, and read back as the archive's beginning: owners,
modes and marks are those that the tree gives. The files follow, and are written once, by the
unpacker, where nothing lies below them. So does a layer that is pulled come into being.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable

from cove.build.files.poured import divided
from cove.build.files.select import Place
from cove.build.files.tars import Gone, Tar
from cove.engine.builds import trees
from cove.engine.builds.gathering import Gathered
from cove.engine.builds.packs import check_room, write_all, write_entries
from cove.engine.builds.writing import Writing
from cove.image.layers import Blob, add_layer
from cove.image.pipeline import widen
from cove.oci.archive import Span
from cove.store.records import LayerRecord

END = bytes(1024)


def pour(
    writing: Writing,
    found: Gathered,
    place: Place,
    now_ns: int,
    gone: Gone,
    pins: contextlib.ExitStack,
) -> LayerRecord | None:
    """The layer; None: the files have to go through the tree. Those that went already may do so
    again.
    """
    parts = divided(found.parts, place)
    if parts is None or (place.exists and not writing.is_empty(place.path)):
        return None
    check_room(writing.home.store.layout.roots, found.placed)
    ahead, rest = parts
    writing.put(Gathered(ahead), now_ns, gone)
    begun = trees.archive_of(writing.home, writing.tree, writing.upper, writing.what)
    if begun is None or not _leads_to(begun, place.path, gone):
        return None

    def write(out: int) -> None:
        write_all(out, begun.removesuffix(END))
        for fd, mine in rest:
            write_entries(out, fd, mine, now_ns, gone)
        write_all(out, END)

    return _added(writing, write, pins)


def _leads_to(begun: bytes, path: str, gone: Gone) -> bool:
    """Whether the folder is what its name says: a link of the tree may have led elsewhere."""
    tar = Tar(io.BytesIO(begun), "the layer of a step", gone)
    return any(member.isdir() and member.name.strip("/") == path for member in tar)


def _added(
    writing: Writing, write: Callable[[int], None], pins: contextlib.ExitStack
) -> LayerRecord:
    """An archive without its end, whatever kept it from that, is no layer."""
    failed: list[BaseException] = []
    reader, writer = os.pipe2(os.O_CLOEXEC)

    def work() -> None:
        try:
            widen(writer)
            write(writer)
        except BrokenPipeError:
            pass  # who reads it says why
        except BaseException as error:
            failed.append(error)
        finally:
            os.close(writer)

    thread = threading.Thread(target=work, name="layer", daemon=True)
    thread.start()
    try:
        blob = Blob(Span(reader, -1, -1), "the layer of a step")
        return add_layer(writing.home.store, blob, pins=pins)
    except BaseException:
        os.close(reader)
        reader = -1
        thread.join()
        if failed:
            raise failed[0] from None
        raise
    finally:
        if reader >= 0:
            os.close(reader)
            thread.join()
