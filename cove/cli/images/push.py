"""``push``."""

from __future__ import annotations

from cove.cli.command import Command, Typed
from cove.cli.images.pull import login_for
from cove.cli.progress import follow
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine.calls.ship import ImagePush
from cove.errors import Unsupported, UsageError
from cove.oci.reference import DEFAULT_TAG, parse_reference
from cove.spec.flags import Flag, parse_platform

COMPRESSIONS = ("gzip", "zstd")


def parse_compression(text: str) -> str:
    if text not in COMPRESSIONS:
        raise UsageError(f'no such compression: "{text}"', hint=f"one of {', '.join(COMPRESSIONS)}")
    return text


def push(typed: Typed, terminal: Terminal, client: Client) -> int:
    image, quiet = typed.words[0], typed.on("quiet")
    if not typed.values.get("unsigned", True):
        raise Unsupported(
            f"cannot push {image}: cove does not sign", origin="--disable-content-trust=false"
        )
    name = parse_reference(image, default_tag=False)
    every = typed.on("all_tags")
    if not quiet:
        if not (every or name.tag or name.digest):
            terminal.write(f"Using default tag: {DEFAULT_TAG}\n")
        terminal.write(f"The push refers to repository [{name.name}]\n")
    params = ImagePush(
        image,
        typed.text("platform"),
        login_for(terminal, image),
        all_tags=every,
        compression=typed.text("compression"),
    )
    for done in follow(client.image_push(params, terminal.cancelled), terminal, quiet=quiet):
        reference = parse_reference(done.tags[0])
        if quiet:
            terminal.write(f"{reference}\n")
        else:
            terminal.write(f"{reference.tag}: digest: {done.digest} size: {done.total}\n")
    return 130 if terminal.cancelled.is_set() else 0


PUSH = Command(
    "push",
    push,
    help="Send an image to a registry",
    flags=(
        Flag("all-tags", "all_tags", "Every tag of the repository", "a"),
        Flag("compression", "compression", "Of layers that the registry has not: gzip or zstd; "
             "otherwise gzip", "", "KIND", parse_compression),
        Flag("disable-content-trust", "unsigned", "Accepted; nothing is signed", default=True),
        Flag("platform", "platform", "Of several images of a name this one: linux/amd64", "",
             "PLATFORM", parse_platform),
        Flag("quiet", "quiet", "Show no progress, print only the name", "q"),
    ),
    words="NAME[:TAG]",
    group="Images",
    about="The name says where to: cove tag IMAGE HOST/NAME:TAG. What the registry has, in this "
    "repository or in one that the image was pulled from, is not sent again; what is cut off goes "
    "on from there.",
)  # fmt: skip
