"""``cove image convert``: the same images in another form: Docker's media types or OCI's, layers
compressed otherwise. Configs and what layers unpack to stay what they are; a layer that is
compressed as it shall be keeps its bytes.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import FileIO
from typing import Any

import msgspec

from cove.errors import BadArchive, HostError, Unsupported
from cove.image import compress, encode, pipeline
from cove.image.copying.copying import linked_of
from cove.image.copying.sources import CHUNK, Item, Source
from cove.image.layers import Progress, Step, short
from cove.image.repacking import listen
from cove.linux.pump import write_all
from cove.oci.archive import Span
from cove.oci.digest import digest_of
from cove.oci.linked import is_foreign
from cove.oci.manifest import CONFIGS, Descriptor

COMPRESSIONS = ("gzip", "zstd", "none")
OCI, DOCKER = "application/vnd.oci.image.", "application/vnd.docker."
TYPES = {
    "oci": {
        "index": f"{OCI}index.v1+json",
        "manifest": f"{OCI}manifest.v1+json",
        "config": f"{OCI}config.v1+json",
        "none": f"{OCI}layer.v1.tar",
        "gzip": f"{OCI}layer.v1.tar+gzip",
        "zstd": f"{OCI}layer.v1.tar+zstd",
    },
    "docker": {
        "index": f"{DOCKER}distribution.manifest.list.v2+json",
        "manifest": f"{DOCKER}distribution.manifest.v2+json",
        "config": f"{DOCKER}container.image.v1+json",
        "none": f"{DOCKER}image.rootfs.diff.tar",
        "gzip": f"{DOCKER}image.rootfs.diff.tar.gzip",
    },
}
OF_IMAGE = "vnd.docker.reference.digest"
"""By this note what was told of an image says of which."""


@dataclass(frozen=True, slots=True)
class Form:
    media: str = ""
    """oci or docker; empty: as it is."""
    compression: str = ""

    @property
    def asked(self) -> bool:
        return bool(self.media or self.compression)


@dataclass
class Converted:
    """A source whose layers are partly made here; use ``converted``."""

    source: Source
    place: str
    """For files without a name."""
    tell: Progress
    gone: Callable[[], bool]
    stack: ExitStack
    text: str = ""
    made: dict[str, tuple[int, int]] = field(default_factory=dict)
    """File and size of what was compressed anew, by digest."""
    known: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)

    def root(self) -> Item:
        return self.source.root()

    def child(self, descriptor: Descriptor) -> Item:
        return self.source.child(descriptor)

    def pieces(self, descriptor: Descriptor, at: int) -> Iterator[bytes]:
        if descriptor.digest not in self.made:
            yield from self.source.pieces(descriptor, at)
            return
        fd, size = self.made[descriptor.digest]
        while at < size and (data := os.pread(fd, min(CHUNK, size - at), at)):
            at += len(data)
            yield data

    def compression(self, one: Descriptor) -> str:
        """As its first bytes tell, whatever it is called."""
        first = b""
        for piece in self.source.pieces(one, 0):
            first += piece
            if len(first) >= compress.MAGIC_LENGTH:
                break
        kind = compress.detect(first)
        if kind not in COMPRESSIONS:
            raise Unsupported(
                f"cannot convert {self.text}: its layer {short(one.digest)} is packed by {kind}"
            )
        return kind

    def layer(self, one: Descriptor, kind: str) -> tuple[str, int]:
        """Digest and size of a layer, compressed as ``kind``."""
        found = self.known.get((one.digest, kind))
        if found is None:
            fd, path = tempfile.mkstemp(prefix="convert-", dir=self.place)
            self.stack.callback(os.close, fd)
            os.unlink(path)
            found = self.known[one.digest, kind] = self._compress(one, kind, fd)
            self.made[found[0]] = fd, found[1]
        return found

    def _compress(self, one: Descriptor, kind: str, out: int) -> tuple[str, int]:
        with ExitStack() as stack:
            (coded, feed), (plain, decoded) = _pipe(stack), _pipe(stack)
            options = {"out": out, "kind": kind, "diff_hash": "sha256"}
            encoder = stack.enter_context(
                pipeline.open_child(encode.__file__, options, stdin=plain.fileno(), keep=(out,))
            )
            plain.close()  # or who writes waits for ever once the encoder is no more
            failures: list[BaseException] = []
            threads = [
                _Thread(failures, lambda: self._feed(one, feed.fileno()), feed),
                _Thread(
                    failures, lambda: self._decode(one, coded.fileno(), decoded.fileno()),
                    coded, decoded,
                ),
            ]  # fmt: skip
            try:
                shown = short(one.digest)
                poured = listen(
                    encoder, self.gone,
                    lambda read: self.tell(Step("compressing", shown, read)),
                )  # fmt: skip
            except BaseException:
                encoder.kill()
                raise
            finally:
                for thread in threads:
                    thread.join()
        if failures:
            raise failures[0]
        if poured.error or not poured.blob:
            why = poured.text or f"its process got signal {-encoder.returncode}"
            raise HostError(f"cannot convert {self.text}: {short(one.digest)}: {why}", exit_code=1)
        return poured.blob, poured.wrote

    def _feed(self, one: Descriptor, fd: int) -> None:
        for piece in self.source.pieces(one, 0):
            write_all(fd, piece)

    def _decode(self, one: Descriptor, source: int, out: int) -> None:
        what = f"layer {one.digest} of {self.text}"
        poured = pipeline.spool(
            Span(source, -1, -1), out, what=what, limit=pipeline.BYTES_MAX, digest=one.digest
        )
        if poured.error != "closed" and poured.blob != one.digest:  # else the encoder says why
            raise BadArchive(
                f"cannot convert {self.text}: what comes as {one.digest} has the digest "
                f"{poured.blob}"
            )


class _Thread(threading.Thread):
    """Closes its ends when it is done; the cause of what others complain about comes first."""

    def __init__(
        self, failures: list[BaseException], work: Callable[[], None], *ends: FileIO
    ) -> None:
        super().__init__(name="convert", daemon=True)
        self._failures, self._work, self._ends = failures, work, ends
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BrokenPipeError:
            pass  # the reader says why
        except BaseException as error:
            self._failures.append(error)
        finally:
            for end in self._ends:
                end.close()


def _pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    """Its ends; whoever is done with one closes it, at the latest the end of ``stack``."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pipeline.widen(writer)
    return stack.enter_context(FileIO(reader, "r")), stack.enter_context(FileIO(writer, "w"))


def convert(items: Sequence[Item], form: Form, source: Converted) -> tuple[Item, ...]:
    """The documents anew, children first, with the layers that they need."""
    if form.media == "docker" and form.compression == "zstd":
        raise Unsupported(
            f"cannot convert {source.text}: Docker's form of an image has no zstd",
            origin="--format docker --compression zstd",
            hint="--format oci has",
        )
    became: dict[str, Item] = {}
    for item in items:
        linked = linked_of(item, source.text)
        document = msgspec.json.decode(item.data)
        if linked.is_index:
            made = _index(item, document, form, became)
        elif all(_is_layer(one) for one in linked.blobs[1:]) and (
            linked.blobs[0].media_type in CONFIGS | {""}
        ):
            made = _manifest(item, document, linked.blobs, form, source)
        else:
            made = _other(item, form, source)
        became[item.digest] = made
    return tuple(became.values())


def _manifest(
    item: Item, document: dict[str, Any], blobs: Sequence[Descriptor], form: Form, source: Converted
) -> Item:
    media = form.media or ("docker" if item.kind.startswith(DOCKER) else "oci")
    types = TYPES[media]
    if form.media:
        document["config"]["mediaType"] = types["config"]
    changed = item.kind != types["manifest"]
    for entry, one in zip(document.get("layers") or (), blobs[1:], strict=True):
        has = source.compression(one)
        wanted = form.compression or has
        if wanted not in types:
            raise Unsupported(
                f"cannot convert {source.text}: Docker's form of an image has no {wanted}",
                hint="add --compression gzip",
            )
        if wanted != has:
            entry["digest"], entry["size"] = source.layer(one, wanted)
            changed = True
        entry["mediaType"] = types[wanted]
    if not changed:
        return item
    if media == "docker":
        document.pop("annotations", None)
    document["mediaType"] = types["manifest"]
    return _encoded(document, types["manifest"])


def _index(item: Item, document: dict[str, Any], form: Form, became: dict[str, Item]) -> Item:
    kind = TYPES[form.media]["index"] if form.media else item.kind
    if kind == item.kind and all(name == made.digest for name, made in became.items()):
        return item
    for entry in document["manifests"]:
        made = became[entry["digest"]]
        entry |= {"digest": made.digest, "size": len(made.data), "mediaType": made.kind}
        notes = entry.get("annotations") or {}
        if notes.get(OF_IMAGE) in became:
            notes[OF_IMAGE] = became[notes[OF_IMAGE]].digest
    document["mediaType"] = kind
    return _encoded(document, kind)


def _other(item: Item, form: Form, source: Converted) -> Item:
    """What is no image stays; Docker has no such thing."""
    if form.media == "docker":
        raise Unsupported(
            f"cannot convert {source.text}: it holds what is no image, which Docker's form has not",
            hint="choose one image: --platform",
        )
    return item


def _is_layer(one: Descriptor) -> bool:
    return not is_foreign(one) and one.media_type.startswith(
        (f"{OCI}layer.", f"{DOCKER}image.rootfs.")
    )


def _encoded(document: dict[str, Any], kind: str) -> Item:
    data = msgspec.json.encode(document)
    return Item(kind, digest_of(data), data)
