"""What the process that serves a virtual machine's shared directories is given."""

from __future__ import annotations

from cove.planner.virtual.file_server import server_spec
from cove.spec.machine import Mount


def test_a_mount_is_looked_for_where_it_was() -> None:
    """What a build's step is shown lies ``within`` a directory, and no link leads out of that."""
    mount = Mount(
        "bind", "/x", "/d/1/made", within="/d", read_only=True, idmap="caller", origin="-v"
    )
    _, moved = server_spec({3: mount}).mounts
    assert (moved.within, moved.source, moved.target) == ("/d", "/d/1/made", "/srv/3")
    assert (moved.read_only, moved.idmap, moved.origin) == (True, "caller", "-v")
