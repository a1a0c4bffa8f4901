"""``build --platform``: one, or several at a time."""

from __future__ import annotations

from cove.cli.builds.output import LAYOUT, Output
from cove.cli.command import Typed
from cove.errors import Unsupported, UsageError
from cove.spec import values
from cove.spec.flags import parse_platform

OTHER_SYSTEMS = ("windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "wasi", "js")


def parse_platforms(text: str) -> tuple[str, ...]:
    found = []
    for one in text.split(","):
        if one.strip().lower().partition("/")[0] in OTHER_SYSTEMS:
            why = "cove knows images for Linux alone"
            raise values.bad("platform", one.strip(), why, hint="write linux/amd64")
        found.append(parse_platform(one.strip()))
    return tuple(found)


def platforms_of(typed: Typed) -> tuple[str, ...]:
    """Each once, in the order in which they were typed."""
    known: tuple[tuple[str, ...], ...] = typed.values.get("platforms", ())
    return tuple(dict.fromkeys(one for each in known for one in each))


def check_several(typed: Typed) -> None:
    """What images for several platforms can become."""
    if len(platforms_of(typed)) < 2 or typed.on("check"):
        return
    output: Output | None = typed.values.get("output")
    to_store = output is None or output.to_store
    if output is not None and not to_store and output.kind not in ("oci", LAYOUT):
        raise Unsupported(
            f"cannot write images for several platforms as {output.kind}: one at a time, or all "
            "of them as an OCI archive",
            origin=f"--output type={output.kind}",
            hint="--output type=oci,dest=FILE",
            exit_code=1,
        )
    if to_store and not (typed.values.get("tags") or (output and output.names)):
        raise UsageError(
            "cannot keep images for several platforms together: they have no name",
            origin="--platform",
            hint="give them one: -t NAME",
            exit_code=1,
        )
