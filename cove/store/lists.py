"""Lists of manifests that are being put together, a file each below ``lists``, until they are
pushed or removed. What they name is in registries, not here.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress

import msgspec

from cove.errors import NOT_JSON, HostError
from cove.store.layout import Layout

SIZE_MAX = 4 << 20


class Member(msgspec.Struct, frozen=True):
    reference: str
    """Full, as it was asked for."""
    digest: str
    size: int
    kind: str
    """Media type."""
    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()


class ManifestList(msgspec.Struct, frozen=True):
    name: str
    """Full."""
    members: tuple[Member, ...] = ()


# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
_decode = msgspec.json.Decoder(ManifestList).decode


def read_list(layout: Layout, name: str) -> ManifestList | None:
    try:
        with open(layout.manifest_list(_key(name)), "rb") as file:
            return _decode(file.read(SIZE_MAX))
    except FileNotFoundError:
        return None
    except (OSError, *NOT_JSON) as error:
        raise HostError(f"cannot read manifest list {name}: {error}", exit_code=1) from error


def write_list(layout: Layout, known: ManifestList) -> None:
    """Whole, or as it was."""
    fd, path = tempfile.mkstemp(prefix="list-", dir=layout.tmp)
    try:
        with open(fd, "wb") as file:
            file.write(msgspec.json.encode(known))
        os.rename(path, layout.manifest_list(_key(known.name)))
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(path)
        raise


def remove_list(layout: Layout, name: str) -> bool:
    """Whether there was one."""
    try:
        os.unlink(layout.manifest_list(_key(name)))
    except FileNotFoundError:
        return False
    return True


def _key(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
