"""Where a daemon is: what the caller named, or the environment says."""

from __future__ import annotations

import os

from cove.client.spawn import DEFAULT_ROOT
from cove.errors import HostError, Unsupported

UNIX = "unix://"


def socket_path(host: str, root: str) -> str:
    """Where the daemon that ``host`` names listens; without a host the one of ``root``."""
    if not host:
        return f"{root}/run/api.sock"
    if not host.startswith(f"{UNIX}/"):
        raise Unsupported(
            f'cannot connect to "{host}": only unix sockets are known',
            hint="-H or COVE_HOST names unix:///path/of/api.sock; over ssh: a forwarded socket",
        )
    return host.removeprefix(UNIX)


def chosen(root: str, host: str) -> tuple[str, str]:
    """State directory and host: what is named, else as the command ``cove`` finds them."""
    if not root and not host:
        root, host = os.environ.get("COVE_ROOT", ""), os.environ.get("COVE_HOST", "")
    return os.path.abspath(root or DEFAULT_ROOT), host


def start_daemon(root: str) -> None:
    """Return when a daemon answers in ``root``; what keeps one from starting is raised."""
    from cove.client import spawn

    try:
        spawn.start_daemon(root)
    except spawn.CannotStart as error:
        raise error_from_text(str(error)) from None


def error_from_text(text: str) -> HostError:
    """An error as it is shown, taken apart again."""
    first, *rest = text.strip().splitlines() or ["cannot start the daemon"]
    found = {"from": "", "host": "", "hint": ""}
    for line in rest:
        label, colon, words = line.strip().partition(": ")
        if colon and label in found and not found[label]:
            found[label] = words
    message = first.removeprefix("cove: ")
    return HostError(message, origin=found["from"], host=found["host"], hint=found["hint"])
