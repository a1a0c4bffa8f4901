"""``system units``: the files by which systemd keeps the daemon and the socket of Docker's API."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping

from cove.cli.command import Command, Typed
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.errors import HostError, UsageError
from cove.spec.flags import Flag

PATH = "/run/cove/docker.sock"
OF_SOCKET = ("COVE_DOCKER_SOCKET", "COVE_DOCKER_GROUP")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

SOCKET = """\
[Unit]
Description=Docker's API of cove

[Socket]
ListenStream={path}
SocketMode={mode}
{group}DirectoryMode=0755

[Install]
WantedBy=sockets.target
"""

SERVICE = """\
[Unit]
Description=cove: containers and virtual machines
Requires=cove.socket
After=cove.socket network.target local-fs.target

[Service]
Type=notify
ExecStart={program} -P -m cove.daemon --root {root} --foreground
Restart=on-failure
RestartSec=1
# Machines go on without a daemon, and the next one finds them.
KillMode=process
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
OOMPolicy=continue
{environment}
[Install]
WantedBy=multi-user.target
"""


def parse_path(text: str) -> str:
    if not text.startswith("/") or any(c.isspace() or c in "%\\\"'" for c in text):
        raise UsageError(f'cannot use "{text}" as a socket: not an absolute path without spaces')
    return text


def parse_group(text: str) -> str:
    if not NAME.fullmatch(text):
        raise UsageError(f'cannot use "{text}" as a group: not a name or a number')
    return text


def quoted(text: str) -> str:
    """A word of a command line of systemd's."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if re.search(r"[^A-Za-z0-9/._+:@%$-]", text) else escaped


def environment(settings: Mapping[str, str]) -> str:
    """What the daemon was given, but for the socket's place and group: these are the socket's."""
    told = {name: text for name, text in settings.items() if name not in OF_SOCKET and text}
    return "".join(f"Environment={assigned(name, text)}\n" for name, text in told.items())


def assigned(name: str, text: str) -> str:
    """A variable as Environment= has it, where a dollar is a dollar (systemd.exec(5))."""
    escaped = text.translate({ord("\\"): "\\\\", ord('"'): '\\"', ord("%"): "%%", ord("\n"): "\\n"})
    return f'"{name}={escaped}"'


def unit_files(
    *, path: str, group: str, root: str, program: str, settings: Mapping[str, str]
) -> dict[str, str]:
    """Of root alone, or of a group's members as well: they are root on this host then."""
    owner = f"SocketGroup={group}\n" if group else ""
    return {
        "cove.socket": SOCKET.format(path=path, mode="0660" if group else "0600", group=owner),
        "cove.service": SERVICE.format(
            program=quoted(program), root=quoted(root), environment=environment(settings)
        ),
    }


def units(typed: Typed, terminal: Terminal, client: Client) -> int:
    seen = client.info()
    group = typed.text("group") or seen.settings.get(OF_SOCKET[1], "")
    files = unit_files(
        path=typed.text("socket") or parse_path(seen.settings.get(OF_SOCKET[0], PATH)),
        group=parse_group(group) if group else "",
        root=seen.root,
        program=sys.executable,
        settings=seen.settings,
    )
    for name in (name for name, text in seen.settings.items() if not text):
        terminal.error(f"warning: {name} has a login, which everybody may read in a unit: it is "
                       "left out; systemctl edit cove.service\n")  # fmt: skip
    if not typed.words:
        terminal.write("\n".join(f"# {name}\n{text}" for name, text in files.items()))
        return 0
    for name, text in files.items():
        place = os.path.join(terminal.path(typed.words[0]), name)
        try:
            with open(place, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            hint = f"mkdir -p {typed.words[0]}" if isinstance(error, FileNotFoundError) else ""
            raise HostError(f"cannot write {place}: {reason}", hint=hint, exit_code=1) from error
        terminal.write(f"{place}\n")
    return 0


COMMANDS = {
    "units": Command(
        "units",
        units,
        help="The files with which systemd keeps cove and the socket of Docker's API",
        flags=(
            Flag("group", "group", "Whose members may connect, besides root: they are root on this "
                 "host then", "", "GROUP", parse_group),
            Flag("socket", "socket", f"Where Docker's API is served; {PATH} if "
                 "neither this nor COVE_DOCKER_SOCKET says it", "",
                 "PATH", parse_path),
        ),
        words="[DIRECTORY]",
        about="Shown, or written to DIRECTORY: cove system units /etc/systemd/system; systemctl "
        "enable --now cove.socket cove.service. The service takes the place of a daemon that runs "
        "already, with its settings; its machines go on.",
    )
}  # fmt: skip
