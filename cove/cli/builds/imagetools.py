"""``buildx imagetools``: images in registries, without fetching them."""

from __future__ import annotations

import json
from typing import Any

from cove.cli.command import Command, Group, Typed
from cove.cli.images.manifest import logins_of
from cove.cli.progress import follow
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.engine.calls.lists import ManifestInspect, ManifestPush
from cove.engine.calls.ship import ImageCopy
from cove.errors import UsageError, printable
from cove.oci.digest import digest_of
from cove.oci.linked import Linked, parse_linked
from cove.oci.reference import parse_reference
from cove.shown.functions import to_json
from cove.shown.template import Record, compile_template
from cove.spec.flags import Flag

_WHEN = "not in this version of cove"


class Tagged(Record):
    """A struct of Go's: ``.Digest`` in a template, ``digest`` as JSON."""

    def __missing__(self, name: str) -> Any:
        return super().__getitem__(_tag(name))

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or super().__contains__(_tag(str(name)))


def _tag(name: str) -> str:
    return name[:1].lower() + name[1:]


def _tagged(value: Any) -> Any:
    if isinstance(value, dict):
        return Tagged({key: _tagged(item) for key, item in value.items()})
    return [_tagged(item) for item in value] if isinstance(value, list) else value


def _document(text: str, terminal: Terminal, client: Client) -> tuple[str, Linked]:
    """What the registry has under a name, as its text and read."""
    asked = ManifestInspect(text, logins=logins_of(terminal, text), remote=True)
    data = client.manifest_inspect(asked, terminal.cancelled).text
    return data, parse_linked(data.encode(), f"manifest of {text}")


def inspect(typed: Typed, terminal: Terminal, client: Client) -> int:
    text, form = typed.words[0], typed.text("format")
    reference = parse_reference(text)
    data, document = _document(text, terminal, client)
    if typed.on("raw"):
        terminal.write(data)
        return 0
    digest, size = digest_of(data.encode()), len(data.encode())
    if form:
        about = _tagged({**json.loads(data), "mediaType": document.kind})
        about |= {"digest": digest, "size": size}
        shown = Record(Name=str(reference), Manifest=about)
        whole = to_json(shown) if form == "json" else compile_template(form).render(shown)
        terminal.write(f"{printable(whole)}\n")
        return 0
    lines = [f"Name:      {reference}", f"MediaType: {document.kind}", f"Digest:    {digest}"]
    lines += ["", "Manifests:"] if document.is_index else []
    for one in document.children:
        lines += [f"  Name:      {reference.name}@{one.digest}",
                  f"  MediaType: {one.media_type}", f"  Platform:  {one.platform or ''}",
                  ""]  # fmt: skip
    terminal.write("".join(f"{printable(line)}".rstrip() + "\n" for line in lines))
    return 0


def create(typed: Typed, terminal: Terminal, client: Client) -> int:
    tags: tuple[str, ...] = typed.values.get("tags", ())
    if not tags:
        raise UsageError("cannot create an image: it has no name", hint="say where to: -t NAME")
    for tag in tags:
        sources = (tag, *typed.words) if typed.on("append") else typed.words
        read = {text: _document(text, terminal, client)[1] for text in sources}
        logins = logins_of(terminal, tag, *sources)
        if len(sources) == 1 and read[sources[0]].is_index:
            ours, theirs = parse_reference(tag).domain, parse_reference(sources[0]).domain
            copy = ImageCopy(
                f"docker://{sources[0]}", f"docker://{tag}", every=True,
                source_login=logins.get(theirs), target_login=logins.get(ours),
            )  # fmt: skip
            steps = client.image_copy(copy, calls.Call(cancelled=terminal.cancelled))
        else:
            members = tuple(one for text in sources for one in _members(text, read[text]))
            steps = client.manifest_push(ManifestPush(tag, False, logins, members),
                                         terminal.cancelled)  # fmt: skip
        for done in follow(steps, terminal, quiet=False):
            terminal.error(f"pushed {tag}: {done.digest}\n")
        if terminal.cancelled.is_set():
            return 130
    return 0


def _members(text: str, document: Linked) -> list[str]:
    """Of an index its images; what is for no platform (attestations) is about bytes of others."""
    if not document.is_index:
        return [text]
    repository = parse_reference(text).name
    known = [one for one in document.children if one.platform and one.platform.os != "unknown"]
    return [f"{repository}@{one.digest}" for one in known]


CREATE = Command(
    "create",
    create,
    help="Make a name in a registry of images that lie in registries",
    flags=(
        Flag("append", "append", "What the name means already stays in it"),
        Flag("tag", "tags", "The name", "t", "NAME[:TAG]", repeat=True),
    ),
    words="SOURCE [SOURCE...]",
    group="Images",
    refused={
        **dict.fromkeys(("annotation", "file", "metadata-file", "platform"), (_WHEN, True)),
        **dict.fromkeys(("dry-run", "prefer-index"), (_WHEN, False)),
    },
    about="One source that is an index is copied as it is. Of several the images are put together, "
    "without attestations; `cove manifest` does it step by step.",
)
INSPECT = Command(
    "inspect",
    inspect,
    help="Show what a registry has under a name",
    flags=(
        Flag("format", "format", "json, or a template: {{.Manifest.Digest}}", "", "FORMAT"),
        Flag("raw", "raw", "The document, byte for byte"),
    ),
    words="NAME",
    group="Images",
)
IMAGETOOLS = Group(
    "imagetools", {"create": CREATE, "inspect": INSPECT}, help="Images in registries",
    group="Images",
)  # fmt: skip
