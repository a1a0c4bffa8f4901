"""Images that commands have for themselves alone: the cache that a build is given, the result that
is only asked for as files. Such an image goes with the last command that has it, unless somebody
else wanted it meanwhile.

Who has an image is in its record: the next daemon takes away what commands of the last one had.
"""

from __future__ import annotations

import msgspec

from cove.image.removing import Removed, remove_if
from cove.store.db import Store
from cove.store.records import ImageRecord

NOBODY = ""
"""Who let go of an image that a verb was at work with: whoever has it next takes it away."""


def put(store: Store, record: ImageRecord, holder: str = "") -> ImageRecord:
    """Into the store, for ``holder`` alone or for everybody; one that is there stays as it is."""
    with store.transaction():
        known = store.image(record.id)
        made = msgspec.structs.replace(known or record, holders=holders(known, holder))
        if made != known:
            store.put_image(made)
    return made


def holders(known: ImageRecord | None, holder: str) -> tuple[str, ...]:
    """Who has an image from now on. One that was there for nobody in particular is everybody's."""
    if not holder or (known is not None and not known.holders):
        return ()
    before = known.holders if known is not None else ()
    others = (one for one in before if one not in (NOBODY, holder))
    return (*others, holder)


def release(store: Store, holder: str) -> tuple[Removed, ...]:
    """Of all that it has; what nobody has any more, and nobody has named, is removed."""
    mine = [image.id for image in store.images() if holder in image.holders]
    found = [remove_if(store, image_id, lambda image: _let_go(store, image, holder))
             for image_id in mine]  # fmt: skip
    return tuple(one for one in found if one is not None)


def release_all(store: Store) -> None:
    """By a daemon that begins: nobody is left who has anything."""
    for holder in {one for image in store.images() for one in image.holders}:
        release(store, holder)


def _let_go(store: Store, image: ImageRecord, holder: str) -> bool:
    """Whether the image may go; in the transaction in which it does."""
    if holder not in image.holders:
        return False
    rest = tuple(one for one in image.holders if one != holder)
    busy = image.id in store.pins()
    store.put_image(msgspec.structs.replace(image, holders=rest or ((NOBODY,) if busy else ())))
    return not rest
