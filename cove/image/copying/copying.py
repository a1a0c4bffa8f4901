"""``cove image copy``: the documents first, then what is not there of the blobs, then the documents
in the target, children first: what is cut off in the middle has changed no name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cove.errors import BadArchive, NotFound
from cove.image.copying.sources import Item, Source
from cove.image.copying.targets import Target
from cove.image.layers import Progress, Step, short
from cove.oci.archive import DEPTH_MAX
from cove.oci.linked import Linked, is_foreign, parse_linked
from cove.oci.manifest import Descriptor, Index, Platform, choose, platforms

DOCUMENTS_MAX = 2000
BYTES_MAX = 64 << 20
"""Of all documents of one copy."""


@dataclass(frozen=True, slots=True)
class Copied:
    digest: str
    size: int
    """Of what the name means there."""


def gather(source: Source, platform: Platform | None) -> tuple[Item, ...]:
    """Everything below the root, children first, each once; with ``platform`` only its manifest."""
    found: dict[str, Item] = {}
    root = source.root()
    if platform is not None:
        root = _narrowed(source, root, platform)
    size = 0
    for item in _below(source, root, DEPTH_MAX, found):
        size += len(item.data)
        if len(found) >= DOCUMENTS_MAX or size > BYTES_MAX:
            raise BadArchive(
                f"cannot copy {source.text}: it has more than {DOCUMENTS_MAX} manifests, or more "
                f"than {BYTES_MAX >> 20} MiB of them",
                origin=source.text,
            )
        found[item.digest] = item
    return tuple(found.values())


def _below(source: Source, item: Item, depth: int, found: dict[str, Item]) -> Iterator[Item]:
    linked = linked_of(item, source.text)
    if linked.children and depth == 0:
        raise BadArchive(f"cannot copy {source.text}: indexes within indexes", origin=source.text)
    for child in linked.children:
        if child.digest not in found:
            yield from _below(source, source.child(child), depth - 1, found)
    yield item


def _narrowed(source: Source, item: Item, platform: Platform) -> Item:
    for _ in range(DEPTH_MAX):
        linked = linked_of(item, source.text)
        if not linked.is_index:
            return item
        index = Index(linked.children)
        chosen = choose(index, platform)
        if chosen is None:
            raise NotFound(
                f"cannot copy {source.text}: it has nothing for {platform}",
                origin=source.text,
                host=f"it has: {platforms(index)}",
                hint="name one of them: --platform, or all: --all",
            )
        item = source.child(chosen)
    raise BadArchive(f"cannot copy {source.text}: indexes within indexes", origin=source.text)


def linked_of(item: Item, text: str) -> Linked:
    return parse_linked(item.data, f"manifest {item.digest} of {text}", item.kind)


def blobs_of(items: Sequence[Item], text: str) -> tuple[Descriptor, ...]:
    """Each once; what nobody may give away stays where it is."""
    found: dict[str, Descriptor] = {}
    for item in items:
        for one in linked_of(item, text).blobs:
            known = found.setdefault(one.digest, one)
            if known.size != one.size:
                raise BadArchive(
                    f"cannot copy {text}: {one.digest} has {known.size} bytes by one manifest, "
                    f"{one.size} by another"
                )
    return tuple(one for one in found.values() if not is_foreign(one))


def copy(
    source: Source, target: Target, items: Sequence[Item], tell: Progress, stop: Callable[[], None]
) -> Copied:
    """``stop`` ends what other threads ask for."""
    target.begin(items)
    wanted = blobs_of(items, source.text)
    place_all(wanted, lambda one: _place(source, target, one, tell), target.at_once, stop)
    target.end(items)
    return Copied(items[-1].digest, len(items[-1].data))


def place_all(
    wanted: Sequence[Descriptor],
    place: Callable[[Descriptor], None],
    at_once: int,
    stop: Callable[[], None],
) -> None:
    """Several at once; the first error ends the others."""
    failures: list[BaseException] = []

    def one(descriptor: Descriptor) -> None:
        if failures:
            return
        try:
            place(descriptor)
        except BaseException as error:
            failures.append(error)
            stop()

    with ThreadPoolExecutor(at_once, "copy") as pool:
        for _ in pool.map(one, wanted):
            pass
    if failures:
        raise failures[0]


def _place(source: Source, target: Target, one: Descriptor, tell: Progress) -> None:
    shown = short(one.digest)
    there = target.placed(one)
    if there:
        tell(Step(there, shown))
        return
    tell(Step("copying", shown, 0, one.size))
    target.put(
        one,
        lambda at: source.pieces(one, at),
        lambda at: tell(Step("copying", shown, at, one.size)),
    )
    tell(Step("copied", shown))
