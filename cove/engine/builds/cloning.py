"""ADD of a git repository: its files as an archive, which git makes behind walls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cove.build.graph.data import Git
from cove.build.source import Place, misfit
from cove.engine.builds.agents import served
from cove.engine.builds.packs import room
from cove.engine.events import Cancel, Cancelled
from cove.git.fetching import GitStopped, GitTrouble, Identity, Repository, fetch_git, ssh_hint
from cove.git.jail import NOBODY
from cove.linux.cgroups.tree import Cgroups
from cove.oci.logins import redacted
from cove.planner.defaults import PIDS
from cove.spec.machine import Limits


def identity_of(agent: int | None, known_hosts: bytes) -> Identity | None:
    """``agent``: a socket's descriptor."""
    if agent is None:
        return None
    return Identity(lambda path: served(agent, path, 0o600, NOBODY, NOBODY), known_hosts)


@contextmanager
def limited(groups: Cgroups) -> Iterator[tuple[str, ...]]:
    """Where git enters a control group that has as many processes as a machine."""
    with groups.lent(Limits(pids=PIDS)) as group:
        yield group.entrances


def clone(
    git: Git,
    out: int,
    line: Place,
    stopped: Cancel,
    *,
    place: str,
    loopback: bool,
    identity: Identity | None,
    groups: Cgroups,
) -> None:
    """Into the file ``out``; over the host's network, like ADD of a URL."""
    wanted = Repository(
        git.remote, git.ref, git.folder, git.keep_git_dir, git.checksum, git.submodules
    )
    try:
        with limited(groups) as entrances:
            fetch_git(
                wanted, out, stopped.is_set, place=place, room=room(out),
                loopback=loopback, identity=identity, entrances=entrances,
            )  # fmt: skip
    except GitStopped:
        raise Cancelled("interrupted") from None
    except GitTrouble as trouble:
        hint = "allow it to the build: --network host" if "own loopback" in str(trouble) else ""
        hint = hint or ssh_hint(str(trouble), "give it yours: --ssh default")
        shown = redacted(git.remote)
        raise misfit(line, f"{shown} cannot be cloned: {trouble}", hint=hint) from trouble
