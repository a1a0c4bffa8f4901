"""Both ends of a copy, opened for as long as it lasts."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cove.errors import UsageError
from cove.image.copying.sources import FromRegistry, Source, open_local
from cove.image.copying.targets import Target, ToArchive, ToRegistry
from cove.image.layers import Progress
from cove.image.loading import seekable
from cove.image.registries import open_for
from cove.image.saving import Sink
from cove.oci.archive import open_files
from cove.oci.auth import Credentials
from cove.oci.places import Place
from cove.oci.reference import parse_reference
from cove.oci.uploading import Upload
from cove.oci.web import Patience
from cove.store.db import Store


@dataclass(frozen=True, slots=True)
class Copying:
    """Who copies, and who watches."""

    store: Store
    tell: Progress
    stopped: threading.Event
    patience: Patience | None = None


@contextmanager
def open_source(
    work: Copying, place: Place, credentials: Credentials | None, body: int
) -> Iterator[tuple[Source, Callable[[], None]]]:
    """The source, and what ends it. ``body``: the file or directory, of one that is here."""
    if not place.local:
        with open_for(
            work.store, place.name, credentials, work.tell, work.stopped, work.patience, "copy"
        ) as (_, registry):
            yield FromRegistry(place.text, registry), registry.stop
        return
    if body < 0:
        raise UsageError(f"cannot copy {place.text}: nothing was sent", origin=place.text)
    with (
        seekable(work.store, body, place.text, work.tell) as fd,
        open_files(fd, place.text) as files,
    ):
        directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        yield open_local(place, fd, files, directory=directory), lambda: None


@contextmanager
def open_registry_target(
    work: Copying, place: Place, credentials: Credentials | None, source: Place
) -> Iterator[tuple[Target, Callable[[], None]]]:
    if parse_reference(place.name).digest:
        raise UsageError(
            f"cannot copy to {place.text}: a digest is no place to copy to", hint="name a tag"
        )
    with open_for(
        work.store, place.name, credentials, work.tell, work.stopped, work.patience, "copy to",
        Upload,
    ) as (reference, registry):  # fmt: skip
        assert isinstance(registry, Upload)
        beside = "" if source.local else _beside(source.name, reference.domain, reference.path)
        yield ToRegistry(place.text, registry, beside), registry.stop


def archive_target(place: Place, sink: int, gone: Callable[[], bool]) -> Target:
    return ToArchive(place, Sink(sink, gone))


def _beside(source: str, domain: str, path: str) -> str:
    """The source's repository, if it is another one of the same registry."""
    reference = parse_reference(source)
    return reference.path if reference.domain == domain and reference.path != path else ""
