"""ADD of a git repository: its files as an archive, which git makes behind walls."""

from __future__ import annotations

from cove.build.graph.data import Git
from cove.build.source import Place, misfit
from cove.engine.builds.agents import served
from cove.engine.builds.packs import room
from cove.engine.events import Cancel, Cancelled
from cove.git.fetching import GitStopped, GitTrouble, Identity, Repository, fetch_git, ssh_hint
from cove.git.jail import NOBODY
from cove.oci.logins import redacted


def identity_of(agent: int | None, known_hosts: bytes) -> Identity | None:
    """``agent``: a socket's descriptor."""
    if agent is None:
        return None
    return Identity(lambda path: served(agent, path, 0o600, NOBODY, NOBODY), known_hosts)


def clone(
    git: Git,
    out: int,
    line: Place,
    stopped: Cancel,
    *,
    place: str,
    loopback: bool,
    identity: Identity | None,
) -> None:
    """Into the file ``out``; over the host's network, like ADD of a URL."""
    wanted = Repository(
        git.remote, git.ref, git.folder, git.keep_git_dir, git.checksum, git.submodules
    )
    try:
        fetch_git(
            wanted, out, stopped.is_set, place=place,
            room=room(out), loopback=loopback, identity=identity,
        )  # fmt: skip
    except GitStopped:
        raise Cancelled("interrupted") from None
    except GitTrouble as trouble:
        hint = "allow it to the build: --network host" if "own loopback" in str(trouble) else ""
        hint = hint or ssh_hint(str(trouble), "give it yours: --ssh default")
        shown = redacted(git.remote)
        raise misfit(line, f"{shown} cannot be cloned: {trouble}", hint=hint) from trouble
