"""``build --push`` and ``--metadata-file``: the result goes to registries under its names, and what
came of it is written down in BuildKit's words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from cove.cli.builds.output import Output
from cove.cli.command import Typed
from cove.cli.images.pull import login_for
from cove.cli.progress import follow
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.engine.calls.build import BuildStep
from cove.engine.calls.ship import ImagePush
from cove.errors import CoveError, Unsupported, UsageError, printable
from cove.oci.reference import parse_reference

BUILDER = "default"
"""The one that there is."""


def parse_builder(text: str) -> str:
    if text not in ("", BUILDER):
        raise Unsupported(
            f'cannot use builder "{printable(text)}": cove has one, called {BUILDER}',
            hint="leave it out: platforms, caches and --push need no other",
        )
    return text


def tags_of(typed: Typed) -> tuple[str, ...]:
    """Names of the result, those of ``--output name=`` behind those of ``--tag``."""
    output: Output | None = typed.values.get("output")
    return (*typed.values.get("tags", ()), *(output.names if output else ()))


def to_registry(typed: Typed) -> bool:
    output: Output | None = typed.values.get("output")
    return typed.on("push") or (output is not None and output.push)


def check_push(typed: Typed) -> None:
    """Before anything is built: what is pushed has names, and is in the store."""
    if not to_registry(typed) or typed.on("check"):
        return
    output: Output | None = typed.values.get("output")
    if output is not None and not output.to_store:
        raise UsageError(
            f"cannot push what is written as files: --output type={output.kind}",
            origin="--push",
            hint="build once for each; the second finds everything in the cache",
            exit_code=1,
        )
    if not tags_of(typed):
        raise UsageError(
            "cannot push the result: it has no name",
            origin="--push",
            hint="say where to: -t HOST/NAME:TAG",
            exit_code=1,
        )


def push(
    typed: Typed, terminal: Terminal, client: Client, tags: Sequence[str], *, quiet: bool
) -> dict[str, calls.Progress] | None:
    """Each name with what it means in its registry now; None: interrupted."""
    output: Output | None = typed.values.get("output")
    done: dict[str, calls.Progress] = {}
    for tag in tags if to_registry(typed) else ():
        compression = output.compression if output else ""
        params = ImagePush(tag, login=login_for(terminal, tag), compression=compression)
        try:
            steps = client.image_push(params, terminal.cancelled)
            for step in follow(steps, terminal, quiet=quiet):
                done[tag] = step
        except CoveError as error:
            error.exit_code = 1
            raise
        if terminal.cancelled.is_set():
            return None
        if not quiet:
            terminal.error(f"pushed {tag}: {done[tag].digest}\n")
    return done


def metadata(typed: Typed, done: BuildStep, pushed: Mapping[str, calls.Progress]) -> str:
    """What ``--metadata-file`` gets. ``containerimage.digest`` is the digest in the registry; of an
    image that was not pushed its id, as of Docker's own store, and of several nothing.
    """
    output: Output | None = typed.values.get("output")
    found: dict[str, object] = {}
    if output is None or output.kind not in ("local", "tar"):
        if len(done.images) == 1:
            found["containerimage.config.digest"] = done.image
            found["containerimage.digest"] = done.image
        for step in pushed.values():
            found["containerimage.descriptor"] = {
                "mediaType": step.kind, "digest": step.digest, "size": step.total,
            }  # fmt: skip
            found["containerimage.digest"] = step.digest
        if done.tags:
            found["image.name"] = ",".join(str(parse_reference(tag)) for tag in done.tags)
    return json.dumps(found, indent=2, sort_keys=True) + "\n"
