"""``builder``: what builds keep."""

from __future__ import annotations

import time

from cove.cli.ask import ELSEWHERE, confirmed, must_go_elsewhere
from cove.cli.builds.build import BUILD
from cove.cli.command import Command, Typed
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine.calls.build import MOUNT, REGULAR, BuildPrune
from cove.errors import UsageError
from cove.shown import filters
from cove.shown.units import human_size
from cove.spec import values
from cove.spec.flags import Flag

KINDS = (REGULAR, MOUNT)


def prune(typed: Typed, terminal: Terminal, client: Client) -> int:
    if not typed.on("force") and must_go_elsewhere(terminal):
        return ELSEWHERE
    params = _params(typed)
    warning = "WARNING! This will forget what the steps of builds have made."
    if not typed.on("force") and not confirmed(terminal, warning):
        return 0
    pruned = client.build_prune(params)
    text = "".join(f"{key}\n" for key in pruned.keys)
    text = f"Deleted build cache objects:\n{text}\n" if text else ""
    terminal.write(f"{text}Total reclaimed space: {human_size(pruned.reclaimed)}\n")
    return 0


def _params(typed: Typed) -> BuildPrune:
    now = time.time()
    given = filters.gather(typed.values.get("filter", ()), ("until", "type"))
    until, kinds = given.get("until", ()), given.get("type", ())
    if len(until) > 1:
        raise UsageError("cannot filter by several until: one is enough")
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(
                f'cannot filter by type "{kind}": nothing kept is of it',
                origin=f"--filter type={kind}",
                hint=f"the types are {', '.join(KINDS)}",
            )
    return BuildPrune(
        older=max(0.0, now - values.parse_time(until[0], now)) if until else 0.0,
        reserved=int(typed.values.get("reserved", 0)),
        most=int(typed.values.get("most", 0)),
        free=int(typed.values.get("free", 0)),
        kinds=kinds,
    )


PRUNE = Command(
    "prune",
    prune,
    help="Forget what steps of builds have made",
    flags=(
        Flag("all", "all", "Accepted; all of it is forgotten", "a"),
        Flag("filter", "filter", "Only what matches: until=24h, type=exec.cachemount", "", "FILTER",
             filters.parse_filter, repeat=True),
        Flag("force", "force", "Do not ask", "f"),
        Flag("keep-storage", "reserved", "Keep so much: another name of --reserved-space", "",
             "SIZE", values.parse_size),
        Flag("max-used-space", "most", "Keep at most so much, what was used last", "", "SIZE",
             values.parse_size),
        Flag("min-free-space", "free", "Go on until so much of the disk is free", "", "SIZE",
             values.parse_size),
        Flag("reserved-space", "reserved", "So much may stay in any case", "", "SIZE",
             values.parse_size),
    ),
    group="Images",
    about="What was used longest ago goes first, nothing goes that a build has which runs. Cache "
    "mounts are counted. After each build and every hour cove does this by itself, by builder.json "
    "in the state directory.",
)  # fmt: skip
BUILDER = {"prune": PRUNE, "build": BUILD}
