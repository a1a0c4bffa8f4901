"""``manifest``: lists of manifests, as Docker spells it."""

from __future__ import annotations

import json

from cove.cli.command import Command, Typed
from cove.cli.each import each
from cove.cli.images.pull import login_for
from cove.cli.progress import follow
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.engine.calls import lists
from cove.oci.reference import parse_reference
from cove.spec.flags import Flag


def logins_of(terminal: Terminal, *names: str) -> dict[str, calls.Login]:
    found: dict[str, calls.Login] = {}
    for name in names:
        domain = parse_reference(name).domain
        login = None if domain in found else login_for(terminal, name)
        if login is not None:
            found[domain] = login
    return found


def create(typed: Typed, terminal: Terminal, client: Client) -> int:
    name, *members = typed.words
    made = client.manifest_create(
        lists.ManifestCreate(
            name, tuple(members), typed.on("amend"), logins_of(terminal, name, *members)
        ),
        terminal.cancelled,
    )
    terminal.write(f"Created manifest list {made.name}\n")
    return 0


def annotate(typed: Typed, terminal: Terminal, client: Client) -> int:
    name, member = typed.words
    features = [
        one for text in typed.values.get("os_features", ()) for one in str(text).split(",") if one
    ]
    client.manifest_annotate(
        lists.ManifestAnnotate(
            name,
            member,
            typed.text("os"),
            typed.text("arch"),
            typed.text("variant"),
            typed.text("os_version"),
            tuple(features),
        )
    )
    return 0


def inspect(typed: Typed, terminal: Terminal, client: Client) -> int:
    name, member = (*typed.words, "")[:2]
    shown = client.manifest_inspect(
        lists.ManifestInspect(name, member, logins_of(terminal, member or name)), terminal.cancelled
    )
    terminal.write(json.dumps(json.loads(shown.text), indent=3, ensure_ascii=False) + "\n")
    return 0


def push(typed: Typed, terminal: Terminal, client: Client) -> int:
    name = typed.words[0]
    known = client.manifest_inspect(lists.ManifestInspect(name, local=True), terminal.cancelled)
    logins = logins_of(terminal, name, *known.members)
    params = lists.ManifestPush(name, typed.on("purge"), logins)
    for done in follow(client.manifest_push(params, terminal.cancelled), terminal, quiet=False):
        terminal.write(f"{done.digest}\n")
    return 130 if terminal.cancelled.is_set() else 0


def remove(typed: Typed, terminal: Terminal, client: Client) -> int:
    return each(
        typed.words,
        terminal,
        lambda name: client.manifest_remove(lists.ManifestRemove(name)).name,
    )


CREATE = Command(
    "create",
    create,
    help="Begin a list of manifests that lie in registries",
    flags=(
        Flag("amend", "amend", "Add to a list that is there", "a"),
        Flag("insecure", "insecure", "Accepted; registries.json says which registries are"),
    ),
    words="LIST MANIFEST [MANIFEST...]",
    group="Images",
    about="What each is for is read from its config. The list is kept here until it is pushed "
    "with --purge, or removed.",
)
ANNOTATE = Command(
    "annotate",
    annotate,
    help="Say what a manifest of a list is for",
    flags=(
        Flag("arch", "arch", "Its architecture: arm64", "", "ARCH"),
        Flag("os", "os", "Its operating system: linux", "", "OS"),
        Flag("os-features", "os_features", "What it needs of that", "", "FEATURE", repeat=True),
        Flag("os-version", "os_version", "Which version of that", "", "VERSION"),
        Flag("variant", "variant", "Of the architecture: v8", "", "VARIANT"),
    ),
    words="LIST MANIFEST",
    group="Images",
)
INSPECT = Command(
    "inspect",
    inspect,
    help="Show a list, one manifest of it, or what a registry has",
    flags=(Flag("insecure", "insecure", "Accepted; registries.json says which registries are"),),
    words="[LIST] MANIFEST",
    group="Images",
)
PUSH = Command(
    "push",
    push,
    help="Send a list to its registry",
    flags=(
        Flag("insecure", "insecure", "Accepted; registries.json says which registries are"),
        Flag("purge", "purge", "Forget the list then", "p"),
    ),
    words="LIST",
    group="Images",
    about="What lies in other repositories, or other registries, is copied into that of the list; "
    "what it has is not sent.",
)
RM = Command(
    "rm",
    remove,
    help="Forget lists; registries keep what they have",
    words="LIST [LIST...]",
    group="Images",
)
COMMANDS = {"create": CREATE, "annotate": ANNOTATE, "inspect": INSPECT, "push": PUSH, "rm": RM}
