"""ADD of a git repository: its files as an archive, which git makes behind walls."""

from __future__ import annotations

from cove.build.graph.data import Git
from cove.build.source import Place, misfit
from cove.engine.builds.packs import room
from cove.engine.events import Cancel, Cancelled
from cove.git.fetching import GitStopped, GitTrouble, Repository, fetch_git
from cove.oci.logins import redacted


def clone(git: Git, out: int, line: Place, stopped: Cancel, *, place: str, loopback: bool) -> None:
    """Into the file ``out``; over the host's network, like ADD of a URL."""
    wanted = Repository(
        git.remote, git.ref, git.folder, git.keep_git_dir, git.checksum, git.submodules
    )
    try:
        fetch_git(
            wanted, out, stopped.is_set, place=place,
            room=room(out), loopback=loopback,
        )  # fmt: skip
    except GitStopped:
        raise Cancelled("interrupted") from None
    except GitTrouble as trouble:
        hint = "allow it to the build: --network host" if "own loopback" in str(trouble) else ""
        shown = redacted(git.remote)
        raise misfit(line, f"{shown} cannot be cloned: {trouble}", hint=hint) from trouble
