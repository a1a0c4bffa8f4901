"""Manifest lists: which manifests a name shall have, for which platforms, and their push: what lies
in other repositories is copied into that of the list.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import msgspec

from cove.errors import Conflict, NotFound, UsageError
from cove.image.copying.copying import copy, gather
from cove.image.copying.sources import FromRegistry, Item
from cove.image.copying.targets import ToRegistry
from cove.image.layers import Progress, Step
from cove.image.registries import open_for
from cove.oci.auth import Credentials
from cove.oci.digest import digest_of
from cove.oci.linked import OCI_INDEX, parse_linked
from cove.oci.manifest import CONFIGS
from cove.oci.reference import Reference, parse_reference
from cove.oci.registry import Registry
from cove.oci.uploading import Upload
from cove.oci.web import Patience
from cove.store.db import Store
from cove.store.lists import ManifestList, Member, read_list, remove_list, write_list

DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_changing = threading.Lock()
"""A list is read and written anew by one thread at a time, and never while a registry is asked."""


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks registries, as whom."""

    store: Store
    logins: Mapping[str, Credentials]
    tell: Progress
    stopped: threading.Event
    patience: Patience | None = None

    def credentials(self, text: str) -> Credentials | None:
        return self.logins.get(parse_reference(text).domain)


def create(asking: Asking, text: str, members: tuple[str, ...], *, amend: bool) -> ManifestList:
    name = _place(text, "create")
    _there(asking.store, name, text, amend=amend)
    looked_up = [_look_up(asking, one) for one in members]
    with _changing:
        known = _there(asking.store, name, text, amend=amend)
        found = {member.digest: member for member in (*known, *looked_up)}
        made = ManifestList(str(name), tuple(found.values()))
        write_list(asking.store.layout, made)
    return made


def _there(store: Store, name: Reference, text: str, *, amend: bool) -> tuple[Member, ...]:
    """What the list has already; nothing may be there unless it is added to."""
    known = read_list(store.layout, str(name))
    if known is not None and not amend:
        raise Conflict(
            f"cannot create manifest list {name.familiar()}: it is there",
            origin=text,
            hint=f"add to it: --amend; or begin anew: cove manifest rm {name.familiar()}",
        )
    return known.members if known else ()


def _place(text: str, verb: str) -> Reference:
    name = parse_reference(text)
    if name.digest:
        raise UsageError(
            f'cannot {verb} manifest list "{text}": a digest is no name for it', origin=text
        )
    return name


def _look_up(asking: Asking, text: str) -> Member:
    """A manifest in its registry, and what its config says that it is for."""
    with open_for(
        asking.store, text, asking.credentials(text), asking.tell, asking.stopped, asking.patience,
        "look up",
    ) as (reference, registry):  # fmt: skip
        item = FromRegistry(text, registry).root()
        linked = parse_linked(item.data, f"manifest of {text}", item.kind)
        if linked.is_index:
            raise UsageError(
                f"cannot add {text}: it is a manifest list itself",
                origin=text,
                hint=f"name one of its manifests by digest: cove manifest inspect {text}",
                exit_code=1,
            )
        config = linked.blobs[0]
        about: object = {}
        if config.media_type in CONFIGS:
            about = msgspec.json.decode(registry.config(config))
    said = about if isinstance(about, dict) else {}
    features = said.get("os.features")
    return Member(
        str(reference),
        item.digest,
        len(item.data),
        item.kind,
        os=str(said.get("os") or ""),
        architecture=str(said.get("architecture") or ""),
        variant=str(said.get("variant") or ""),
        os_version=str(said.get("os.version") or ""),
        os_features=tuple(map(str, features)) if isinstance(features, list) else (),
    )


def known_list(store: Store, text: str, verb: str) -> ManifestList:
    name = _place(text, verb)
    known = read_list(store.layout, str(name))
    if known is None:
        raise NotFound(
            f"cannot {verb} manifest list {name.familiar()}: no such list",
            origin=text,
            hint=f"make it: cove manifest create {name.familiar()} MANIFEST...",
        )
    return known


def annotate(store: Store, text: str, member: str, given: dict[str, object]) -> ManifestList:
    """``given``: fields of the member, those that are not empty."""
    said = {key: value for key, value in given.items() if value}
    with _changing:
        known = known_list(store, text, "annotate")
        one = _member(known, member, "annotate")
        changed = msgspec.structs.replace(one, **said)
        made = msgspec.structs.replace(
            known, members=tuple(changed if m is one else m for m in known.members)
        )
        write_list(store.layout, made)
    return made


def _member(known: ManifestList, text: str, verb: str) -> Member:
    wanted = parse_reference(text)
    for one in known.members:
        if one.reference == str(wanted) or (wanted.digest and one.digest == wanted.digest):
            return one
    listed = parse_reference(known.name).familiar()
    raise NotFound(
        f"cannot {verb} {text}: the list {listed} has no such manifest",
        origin=text,
        hint=f"add it: cove manifest create --amend {listed} {text}",
    )


def document_of(known: ManifestList) -> Item:
    """In Docker's language where all that it names is."""
    docker = all(".docker." in one.kind for one in known.members)
    kind = DOCKER_LIST if docker else OCI_INDEX
    document = {
        "schemaVersion": 2,
        "mediaType": kind,
        "manifests": [
            {"mediaType": one.kind, "size": one.size, "digest": one.digest,
             "platform": _platform(one)}
            for one in known.members
        ],
    }  # fmt: skip
    data = msgspec.json.format(msgspec.json.encode(document), indent=3)
    return Item(kind, digest_of(data), data)


def _platform(one: Member) -> dict[str, object]:
    found: dict[str, object] = {"architecture": one.architecture, "os": one.os}
    more = {
        "os.version": one.os_version,
        "os.features": list(one.os_features),
        "variant": one.variant,
    }
    return found | {key: value for key, value in more.items() if value}


def inspect(asking: Asking, text: str, member: str, *, remote: bool = False) -> bytes:
    """As it would be pushed, or as a registry has it; ``remote``: as that has it in any case."""
    if member:
        one = _member(known_list(asking.store, text, "inspect"), member, "inspect")
        text = f"{parse_reference(one.reference).name}@{one.digest}"
    elif not remote and (known := read_list(asking.store.layout, str(parse_reference(text)))):
        return document_of(known).data
    with open_for(
        asking.store, text, asking.credentials(text), asking.tell, asking.stopped, asking.patience,
        "inspect",
    ) as (_, registry):  # fmt: skip
        return FromRegistry(text, registry).root().data


def push(asking: Asking, text: str, *, purge: bool) -> Item:
    known = known_list(asking.store, text, "push")
    item = _send(asking, known, text)
    if purge:
        with _changing:  # not what was added meanwhile, and is in no registry
            if read_list(asking.store.layout, known.name) == known:
                remove_list(asking.store.layout, known.name)
    return item


def push_together(asking: Asking, text: str, members: tuple[str, ...]) -> Item:
    """A list that nobody keeps."""
    name = _place(text, "push")
    found = {one.digest: one for one in (_look_up(asking, member) for member in members)}
    return _send(asking, ManifestList(str(name), tuple(found.values())), text)


def _send(asking: Asking, known: ManifestList, text: str) -> Item:
    for one in known.members:
        if not (one.os and one.architecture):
            raise UsageError(
                f"cannot push manifest list {text}: what {one.reference} is for is not known",
                origin=text,
                hint=f"say it: cove manifest annotate {text} {one.reference} --os linux --arch …",
                exit_code=1,
            )
    name = parse_reference(known.name)
    for one in known.members:
        _bring(asking, one, name)
    item = document_of(known)
    with _upload(asking, known.name) as (reference, registry):
        assert isinstance(registry, Upload)
        registry.manifest(reference.tag, item.kind, item.data)
    return item


def _upload(asking: Asking, text: str) -> AbstractContextManager[tuple[Reference, Registry]]:
    return open_for(
        asking.store, text, asking.credentials(text), asking.tell, asking.stopped, asking.patience,
        "push", Upload,
    )  # fmt: skip


def _bring(asking: Asking, one: Member, name: Reference) -> None:
    """A manifest into the list's repository, if it lies in another."""
    source = parse_reference(one.reference)
    asking.tell(Step("looking", one.digest.partition(":")[2][:12]))
    if source.name == name.name:
        return
    there = f"{source.name}@{one.digest}"
    with (
        open_for(
            asking.store, there, asking.credentials(there), asking.tell, asking.stopped,
            asking.patience, "copy",
        ) as (_, origin),
        _upload(asking, f"{name.name}@{one.digest}") as (_, registry),
    ):  # fmt: skip
        _copy(origin, registry, source, name, there, asking)


def _copy(
    origin: Registry, registry: Registry, source: Reference, name: Reference, there: str,
    asking: Asking,
) -> None:  # fmt: skip
    assert isinstance(registry, Upload)
    beside = source.path if source.domain == name.domain else ""
    found, target = FromRegistry(there, origin), ToRegistry(str(name), registry, beside)

    def stop() -> None:
        origin.stop()
        registry.stop()

    copy(found, target, gather(found, None), asking.tell, stop)
