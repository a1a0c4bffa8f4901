"""``image ls/inspect/rm/import``, ``load`` and Docker's other spellings of them."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import tzinfo

from cove.cli.command import Command, Typed
from cove.cli.each import each
from cove.cli.images.history import HISTORY, TAG
from cove.cli.images.pull import PULL
from cove.cli.images.push import PUSH
from cove.cli.images.save import SAVE
from cove.cli.images.transfer import CONVERT, COPY
from cove.cli.machines import inspect
from cove.cli.machines.ps import FORMAT, FULL, QUIET
from cove.cli.progress import follow
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.errors import UsageError
from cove.oci.reference import familiar
from cove.shown import filters, table, units
from cove.shown.template import Record
from cove.spec.flags import Flag, parse_platform

NONE = "<none>"
PROXIES = ("http_proxy", "https_proxy", "no_proxy")

HEADINGS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "VirtualSize": "SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "Containers": "MACHINES",
}
LISTING = table.Listing(
    HEADINGS, "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
)
DIGESTS = table.Listing(
    HEADINGS, "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
)


def short_id(image: str) -> str:
    return image.removeprefix("sha256:")[:12]


def split_tag(tag: str) -> tuple[str, str]:
    """Repository and tag of a familiar name."""
    if not tag:
        return NONE, NONE
    name, colon, version = tag.rpartition(":")
    if not colon or "/" in version:
        return tag, "built-in" if tag == filters.HOST else NONE
    return name, version


def familiar_name(digest: str) -> str:
    """The repository of ``NAME@DIGEST``, as people write it."""
    return familiar(digest).partition("@")[0]


def names_of(image: calls.Image, *, digests: bool) -> Iterator[tuple[str, str, str]]:
    """Repository, tag and digest of each row."""
    known: dict[str, list[str]] = {}
    for name in image.record.digests:
        known.setdefault(familiar_name(name), []).append(name.partition("@")[2])
    tags = [split_tag(tag) for tag in image.tags]
    for repository, version in tags:
        for digest in (known.get(repository) if digests else None) or (NONE,):
            yield repository, version, digest
    for repository in known.keys() - {repository for repository, _ in tags}:
        for digest in known[repository] if digests else [NONE]:
            yield repository, NONE, digest
    if not tags and not known:
        yield NONE, NONE, NONE


def rows(
    image: calls.Image, *, now: float, full: bool, zone: tzinfo | None, digests: bool = False
) -> Iterator[Record]:
    """One row a tag, and one for each repository of which only a digest is known, as Docker lists
    them; with ``digests`` one for each digest.
    """
    record = image.record
    for repository, version, digest in names_of(image, digests=digests):
        yield Record(
            Repository=repository,
            Tag=version,
            Digest=digest,
            ID=record.id if full else short_id(record.id),
            CreatedSince=units.human_duration(now - record.created) + " ago",
            CreatedAt=units.clock_text(record.created, zone),
            Size=units.human_size(record.size),
            VirtualSize=units.human_size(record.size, digits=4),
            SharedSize="N/A",
            UniqueSize="N/A",
            Containers=str(image.machines),
        )


def ls(typed: Typed, terminal: Terminal, client: Client) -> int:
    now, full = time.time(), typed.on("full")
    wanted = filters.gather(typed.values.get("filter", ()), filters.IMAGE_KEYS)
    if typed.words:
        wanted["reference"] = (*wanted.get("reference", ()), typed.words[0])
    images = filters.keep_images(client.images(calls.ImageList()).images, wanted, now)
    form = typed.text("format")
    if typed.on("quiet") and not form:
        ids = dict.fromkeys(i.record.id if full else short_id(i.record.id) for i in images)
        terminal.write("".join(f"{name}\n" for name in ids))
        return 0
    zone = units.time_zone(terminal.env)
    digests = typed.on("digests") or ".Digest" in form
    listed = [
        row
        for image in images
        for row in rows(image, now=now, full=full, zone=zone, digests=digests)
    ]
    terminal.write(table.render(listed, DIGESTS if typed.on("digests") else LISTING, form))
    return 0


def remove(typed: Typed, terminal: Terminal, client: Client) -> int:
    force, prune = typed.on("force"), not typed.on("no_prune")

    def one(name: str) -> str:
        removed = client.image_remove(calls.ImageRemove(name, force, prune))
        lines = [f"Untagged: {tag}" for tag in removed.untagged]
        lines += [f"Deleted: {image}" for image in removed.deleted]
        return "\n".join(lines)

    # In turn: with its last name goes the image, which is told under that name.
    return each(typed.words, terminal, one, lenient=force, at_once=1)


@contextmanager
def opened(terminal: Terminal, name: str, verb: str) -> Iterator[int]:
    """The bytes to send: the caller's file, directory or stdin."""
    if name == "-" and terminal.is_terminal(0):
        raise UsageError(
            f"cannot {verb} from your terminal: it holds no archive",
            hint=f"name a file, or pipe one in: cove {verb} … < image.tar",
        )
    if "://" in name and not os.path.exists(terminal.path(name)):
        raise UsageError(
            f"cannot {verb} {name}: cove does not download",
            hint="fetch it first, then name the file",
        )
    try:
        with terminal.open_input(name) as fd:
            if verb == "import" and stat.S_ISDIR(os.fstat(fd).st_mode):
                raise UsageError(
                    f"cannot import {name}: it is a directory",
                    hint=f"send a tar of it: tar -C {name} -c . | cove image import - NAME",
                )
            yield fd
    except OSError as error:
        if error.filename is None:
            raise
        reason = (error.strerror or "i/o error").lower()
        raise UsageError(f"cannot {verb} {name}: {reason}", origin=name) from error


def load(typed: Typed, terminal: Terminal, client: Client) -> int:
    name = typed.text("input") or (typed.words[0] if typed.words else "-")
    quiet = typed.on("quiet")
    with opened(terminal, name, "load") as fd:
        call = calls.Call(body=fd, cancelled=terminal.cancelled)
        steps = client.image_load(calls.ImageLoad(origin=name), call)
        for done in follow(steps, terminal, quiet=quiet):
            for tag in done.tags:
                terminal.write(f"Loaded image: {tag}\n")
            if not done.tags:
                terminal.write(f"Loaded image ID: {done.image}\n")
    return 130 if terminal.cancelled.is_set() else 0


def import_(typed: Typed, terminal: Terminal, client: Client) -> int:
    name = typed.words[0]
    params = calls.ImageImport(
        reference=typed.words[1] if len(typed.words) > 1 else "",
        message=typed.text("message"),
        changes=typed.values.get("changes", ()),
        platform=typed.text("platform"),
        origin=name,
    )
    with opened(terminal, name, "import") as fd:
        call = calls.Call(body=fd, cancelled=terminal.cancelled)
        steps = client.image_import(params, call)
        for done in follow(steps, terminal, quiet=typed.on("quiet")):
            terminal.write(f"{done.image}\n")
    return 130 if terminal.cancelled.is_set() else 0


def bootstrap(typed: Typed, terminal: Terminal, client: Client) -> int:
    params = calls.ImageBootstrap(
        distribution=typed.words[0],
        variant=typed.text("variant"),
        include=typed.values.get("include", ()),
        mirror=typed.text("mirror"),
        tag=typed.text("tag"),
        env=tuple(f"{name}={terminal.env[name]}" for name in PROXIES if terminal.env.get(name)),
        platform=typed.text("platform"),
    )
    steps = client.image_bootstrap(params, terminal.cancelled)
    for done in follow(steps, terminal, quiet=typed.on("quiet")):
        terminal.write("".join(f"{tag}\n" for tag in done.tags))
    return 130 if terminal.cancelled.is_set() else 0


LS = Command(
    "ls",
    ls,
    help="List images",
    flags=(
        Flag("all", "all", "Accepted; there are no hidden images", "a"),
        Flag("digests", "digests", "Show digests"),
        Flag("filter", "filter", "Only what matches: NAME=VALUE", "f", "FILTER",
             filters.parse_filter, repeat=True),
        FORMAT,
        FULL,
        QUIET,
    ),
    words="[REPOSITORY[:TAG]]",
    group="Images",
    about="Filters: reference, label, dangling, before, since, until.",
)  # fmt: skip
RM = Command(
    "rm",
    remove,
    help="Remove images",
    flags=(
        Flag("force", "force", "Also when machines were made from it", "f"),
        Flag("no-prune", "no_prune", "Accepted; images have no parents here"),
    ),
    words="IMAGE [IMAGE...]",
    group="Images",
)
LOAD = Command(
    "load",
    load,
    help="Get images from a docker-archive, an OCI archive or an OCI layout directory",
    flags=(
        Flag("input", "input", "File or directory; otherwise standard input", "i", "FILE"),
        Flag("quiet", "quiet", "Show no progress", "q"),
    ),
    words="[FILE]",
    group="Images",
)
IMPORT = Command(
    "import",
    import_,
    help="Make an image of a root file system's tar, plain or compressed",
    flags=(
        Flag("change", "changes", "A Dockerfile instruction: CMD, ENV, USER, …", "c",
             "INSTRUCTION", repeat=True),
        Flag("message", "message", "A comment", "m", "TEXT"),
        Flag("platform", "platform", "What it runs on: linux/amd64", "", "PLATFORM"),
        Flag("quiet", "quiet", "Show no progress", "q"),
    ),
    words="FILE|- [NAME[:TAG]]",
    group="Images",
)  # fmt: skip
BOOTSTRAP = Command(
    "bootstrap",
    bootstrap,
    help="Make an image of a distribution from its packages",
    flags=(
        Flag("include", "include", "A package more; several with commas", "", "PACKAGE",
             repeat=True),
        Flag("mirror", "mirror", "Package sources other than this host's own", "", "URL"),
        Flag("platform", "platform", "Another than this host's: linux/arm64, by emulation", "",
             "PLATFORM", parse_platform),
        Flag("quiet", "quiet", "Show no progress, print only the name", "q"),
        Flag("tag", "tag", "Its name, if not the distribution's", "t", "NAME[:TAG]"),
        Flag("variant", "variant", "Which packages: essential, apt, minbase, buildd, important, "
             "standard; otherwise minbase", "", "VARIANT"),
    ),
    words="DISTRIBUTION:SUITE",
    group="Images",
    about="As in `cove image bootstrap debian:bookworm`. No registry is asked: mmdebstrap "
    "or debootstrap runs in a machine of the image `host`, and takes the packages from the host's "
    "own sources.",
)  # fmt: skip

GROUPED = {
    "ls": LS, "list": LS, "inspect": inspect.IMAGE, "rm": RM, "remove": RM, "load": LOAD,
    "import": IMPORT, "pull": PULL, "bootstrap": BOOTSTRAP, "tag": TAG, "history": HISTORY,
    "save": SAVE, "push": PUSH, "copy": COPY,
    "convert": CONVERT,
}  # fmt: skip
TOP = {
    "images": LS, "load": LOAD, "import": IMPORT, "rmi": RM, "pull": PULL, "tag": TAG,
    "history": HISTORY, "save": SAVE, "push": PUSH,
}  # fmt: skip
