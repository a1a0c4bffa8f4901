"""``build --ssh``: which agent a step may ask."""

from __future__ import annotations

from cove.cli.terminal import Terminal
from cove.errors import Unsupported, UsageError

VARIABLE = "SSH_AUTH_SOCK"


def agent_of(text: str, terminal: Terminal) -> tuple[str, str]:
    """``ID[=SOCKET]``: without a socket the caller's own agent."""
    name, equals, path = text.partition("=")
    if not name or (equals and not path):
        raise UsageError(
            f'cannot use agent "{text}": it is default or ID=SOCKET', origin=f"--ssh {text}"
        )
    if "," in path:
        raise Unsupported(
            f'cannot use agent "{text}": it has more sockets than one',
            origin=f"--ssh {text}",
            exit_code=1,
        )
    if not path:
        path = terminal.env.get(VARIABLE, "")
        if not path:
            raise UsageError(
                f"cannot use agent {name}: {VARIABLE} is not set",
                origin=f"--ssh {text}",
                hint='start one: eval "$(ssh-agent)"; ssh-add',
                exit_code=1,
            )
    return name, terminal.path(path)
