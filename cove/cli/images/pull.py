"""``pull``, and the pull that ``run`` and ``create`` begin with when the image is not here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cove.cli.command import Command, Typed
from cove.cli.progress import follow
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.client.logins import keeper_of
from cove.engine import calls
from cove.errors import CoveError, NoSuchImage, Unsupported, UsageError
from cove.oci.reference import DEFAULT_TAG, parse_reference
from cove.spec.flags import Flag, parse_platform
from cove.spec.machine import MachineSpec

BUILT_IN = ("host", "host:latest", "host:built-in")

Result = TypeVar("Result")


def login_for(terminal: Terminal, image: str) -> calls.Login | None:
    """The caller's login for the image's registry."""
    found = keeper_of(terminal.env, terminal.cwd).find(parse_reference(image).domain)
    return calls.Login(found.username, found.password, found.identity) if found else None


def fetch(
    client: Client,
    terminal: Terminal,
    image: str,
    *,
    platform: str,
    quiet: bool,
    beside: bool = False,
) -> calls.Progress:
    """Pull, showing how far it is on stderr: the last step."""
    params = calls.ImagePull(image, platform, login_for(terminal, image), beside=beside)
    steps = client.image_pull(params, terminal.cancelled)
    for done in follow(steps, terminal, quiet=quiet):
        return done
    raise CoveError("interrupted", exit_code=130)


def status(done: calls.Progress) -> str:
    """Docker's last words on a pull."""
    (name,) = done.tags
    news = "Downloaded newer image for" if done.fresh else "Image is up to date for"
    return f"Digest: {done.digest}\nStatus: {news} {name}\n"


def refuse_signatures(image: str, unsigned: object) -> None:
    if not unsigned:
        raise Unsupported(
            f"cannot pull {image}: cove checks digests, not signatures",
            origin="--disable-content-trust=false",
        )


def pull(typed: Typed, terminal: Terminal, client: Client) -> int:
    image, quiet = typed.words[0], typed.on("quiet")
    refuse_signatures(image, typed.values.get("unsigned", True))
    if typed.on("all_tags"):
        return _pull_all(typed, terminal, client)
    reference = parse_reference(image)
    bare = not parse_reference(image, default_tag=False).tag and not reference.digest
    if bare and not quiet:
        terminal.write(f"Using default tag: {DEFAULT_TAG}\n")
    done = fetch(client, terminal, image, platform=typed.text("platform"), quiet=quiet)
    terminal.write(("" if quiet else status(done)) + f"{reference}\n")
    return 0


def _pull_all(typed: Typed, terminal: Terminal, client: Client) -> int:
    image, quiet = typed.words[0], typed.on("quiet")
    reference = parse_reference(image, default_tag=False)
    login, platform = login_for(terminal, image), typed.text("platform")
    params = calls.ImagePull(image, platform, login, all_tags=True)
    fresh = False
    for done in follow(client.image_pull(params, terminal.cancelled), terminal, quiet=quiet):
        fresh = fresh or done.fresh
        if not quiet:
            terminal.write(f"{done.tags[0]}: {done.digest}\n")
    if terminal.cancelled.is_set():
        return 130
    news = "Downloaded newer image for" if fresh else "Image is up to date for"
    status = "" if quiet else f"Status: {news} {reference.familiar()}\n"
    terminal.write(f"{status}{reference}\n")
    return 0


# ---- before a machine ----


def with_image(
    typed: Typed,
    terminal: Terminal,
    client: Client,
    spec: MachineSpec,
    act: Callable[[], Result],
) -> Result:
    """``act``, with the image fetched before it as ``--pull`` says. Nothing is asked where it is
    here: ``act`` finds out.
    """
    refuse_signatures(spec.image, typed.values.get(".unsigned", True))
    when = typed.text(".pull", "missing")
    if when == "always" and spec.image not in BUILT_IN:
        _fetch_for(typed, terminal, client, spec)
    try:
        return act()
    except NoSuchImage as missing:
        if when != "missing" or not _is_name(spec.image):
            raise
        if not typed.on(".quiet"):
            kind = f" for {spec.platform}" if spec.platform else ""
            terminal.error(f'cove: cannot find image "{spec.image}"{kind} locally: pulling it\n')
        _fetch_for(typed, terminal, client, spec, missing)
    return act()


def _fetch_for(
    typed: Typed,
    terminal: Terminal,
    client: Client,
    spec: MachineSpec,
    missing: CoveError | None = None,
) -> None:
    quiet = typed.on(".quiet")
    try:
        done = fetch(client, terminal, spec.image, platform=spec.platform, quiet=quiet)
    except CoveError as error:
        if error.exit_code != 130:
            error.exit_code = 125
        tell_what_is_here(error, missing)
        raise
    if not quiet:
        terminal.error(status(done))


def tell_what_is_here(error: CoveError, missing: CoveError | None) -> None:
    """A pull's error, beside why it was pulled: another name, or another platform, is here."""
    if missing is None:
        return
    if missing.hint.startswith("did you mean") or (missing.host and missing.hint):
        error.hint = missing.hint
    if missing.host:
        error.origin, error.host = missing.origin, missing.host


def _is_name(image: str) -> bool:
    """What looks like an id, or is built in, is not looked for in a registry."""
    try:
        built_in = image in BUILT_IN or image.startswith("sha256:")
        return not built_in and bool(parse_reference(image))
    except UsageError:
        return False


PULL = Command(
    "pull",
    pull,
    help="Get an image from a registry",
    flags=(
        Flag("all-tags", "all_tags", "Every tag of the repository", "a"),
        Flag("disable-content-trust", "unsigned", "Accepted; signatures are not checked",
             default=True),
        Flag("platform", "platform", "Another than this host's: linux/arm64", "", "PLATFORM",
             parse_platform),
        Flag("quiet", "quiet", "Show no progress, print only the name", "q"),
    ),
    words="NAME[:TAG|@DIGEST]",
    group="Images",
    about="Without a host in the name it is Docker's registry. Logins are those of `cove login` "
    "and `docker login`. Plain http is spoken only on loopback, and where registries.json in the "
    "state directory says so. A pull that is cut off goes on from there the next time.",
)  # fmt: skip
