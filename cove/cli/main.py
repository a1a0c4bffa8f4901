"""The tree of commands, and ``main``: one command line on one terminal.

Many run at once in threads of the daemon: nothing here touches what belongs to the process.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from cove.cli.command import Command, Group, help_text
from cove.cli.parse import HelpWanted, read_values, scan
from cove.cli.terminal import Gone, Terminal
from cove.client.api import Client
from cove.errors import CoveError, Unsupported, UsageError, printable
from cove.spec.flags import Flag
from cove.spec.suggest import did_you_mean

GLOBAL = (
    Flag("debug", "debug", "Show where an error comes from", "D"),
    Flag("host", "host", "Socket of the daemon: unix:///path", "H", "URL"),
    Flag("root", "root", "State directory of the daemon", "", "DIR"),
    Flag("version", "version", "Print the version", "v"),
)

WHEN = "not in this version of cove, it comes with a later one"
LATER = {
    **dict.fromkeys(("compose", "plugin", "search"), WHEN),
    **dict.fromkeys(
        ("config", "node", "secret", "service", "stack", "swarm"), "cove is no scheduler"
    ),
    "checkpoint": "cove keeps no checkpoints of processes",
    "scout": "cove looks for no weaknesses in images",
    "trust": "cove checks digests, not signatures",
}
"""Commands that Docker's users will try: refused by name."""

INSTEAD = {
    "checkpoint": "of disk and memory, of virtual machines: cove snapshot",
    "compose": "docker-compose, with DOCKER_HOST=$(cove system docker-socket)",
    "secret": "of a build: cove build --secret",
    "stack": "docker-compose, with DOCKER_HOST=$(cove system docker-socket)",
}
"""What does the work of a command that is not here."""


def _of_machines() -> dict[str, click.Command]:
    from cove.cli.machines import copy, life, logs, ports, ps, run, snapshots, watch

    return {
        **run.COMMANDS, **life.COMMANDS, **ps.COMMANDS, **logs.COMMANDS, **watch.COMMANDS,
        **copy.COMMANDS, **snapshots.COMMANDS, **ports.COMMANDS,
    }  # fmt: skip


def _of_networks() -> click.Command:
    from cove.cli.networks import verbs

    return Group(
        "network", verbs.GROUPED, help="What machines reach each other through",
        group=verbs.GROUP,
    )  # fmt: skip


def _of_volumes() -> click.Command:
    from cove.cli import volumes

    return Group(
        "volume", volumes.GROUPED, help="What machines keep, and share", group=volumes.GROUP
    )


def _of_contexts() -> click.Command:
    from cove.cli.system import contexts

    return Group(
        "context", contexts.GROUPED, help="Where Docker's own command finds cove",
        group=contexts.GROUP,
    )  # fmt: skip


def _of_images() -> click.Command:
    from cove.cli.builds import build
    from cove.cli.images import verbs
    from cove.cli.system import disk

    commands = {**verbs.GROUPED, **disk.GROUPED, "build": build.BUILD}
    return Group(
        "image", commands, help="Images and how to get them", group="Images", later={"search": WHEN}
    )


def _of_builds() -> dict[str, click.Command]:
    from cove.cli.builds import build, builder, buildx

    kept = Group("builder", builder.BUILDER, help="What builds keep", group="Images")
    return {"build": build.BUILD, "builder": kept, "buildx": buildx.BUILDX}


def _of_manifests() -> click.Command:
    from cove.cli.images import manifest

    return Group(
        "manifest", manifest.COMMANDS, help="Lists of manifests, one for each platform",
        group="Images",
    )  # fmt: skip


def _of_virtual_machines() -> dict[str, click.Command]:
    from cove.cli.system import kernels, templates

    under = "Virtual machines"
    return {
        "kernel": Group(
            "kernel", kernels.COMMANDS, help="Kernels for virtual machines", group=under
        ),
        "template": Group(
            "template", templates.COMMANDS, help="Booted guests that others are clones of",
            group=under,
        ),
    }  # fmt: skip


def _tree() -> Group:
    from cove.cli import completion
    from cove.cli.images import login, verbs
    from cove.cli.machines import inspect, life, plan, snapshots
    from cove.cli.system import check, daemon, disk, events, info, unitfiles

    machines = _of_machines()
    of_machine = {**machines, "ls": machines["ps"], "inspect": inspect.MACHINE}
    of_machine |= {"list": of_machine["ls"], "remove": of_machine["rm"], "prune": life.PRUNE}
    top: dict[str, click.Command] = {
        **machines,
        "inspect": inspect.ANY,
        **plan.COMMANDS,
        "image": _of_images(),
        **verbs.TOP,
        "manifest": _of_manifests(),
        **_of_builds(),
        **login.COMMANDS,
        "network": _of_networks(),
        "volume": _of_volumes(),
        "context": _of_contexts(),
        "snapshot": Group(
            "snapshot", snapshots.GROUPED, help="What machines were, to go back to",
            group=snapshots.GROUP,
        ),
        **events.COMMANDS,
        **_of_virtual_machines(),
        **info.COMMANDS,
        **daemon.TOP,
        **completion.commands(root),
        "system": Group(
            "system",
            {**info.COMMANDS, **disk.SYSTEM, **events.COMMANDS, **check.COMMANDS,
             **unitfiles.COMMANDS},
            help="About cove and this host", group="cove",
        ),
        "container": Group(
            "container", of_machine, help="The same verbs as Docker spells them", hidden=True
        ),
        "machine": Group("machine", of_machine, help="The same verbs", hidden=True),
    }  # fmt: skip
    return Group(
        "cove",
        top,
        help="Run machines: isolated commands, services and systems on this host",
        about="First steps: cove run --rm -it host bash. More: cove COMMAND --help",
        flags=GLOBAL,
        later=LATER,
        instead=INSTEAD,
    )


PORTABLE = frozenset(("events", "logs", "pull", "stats"))
"""Commands that may be begun again, in the daemon that takes this one's place, by the caller who
still waits for them; ``logs`` goes on where it was."""

ROOT: list[Group] = []


def root() -> Group:
    """The tree, made once."""
    if not ROOT:
        ROOT.append(_tree())
    return ROOT[0]


def find(argv: Sequence[str], terminal: Terminal) -> tuple[str, click.Command, tuple[str, ...]]:
    """The command meant, how it was called, and the words after it."""
    found: click.Command = root()
    path, rest = "cove", tuple(argv)
    while isinstance(found, Group):
        flags, rest = _own_flags(found, path, rest)
        read_values(flags)  # they may be wrong
        if any(flag.name == "debug" and text == "true" for flag, text in flags):
            terminal.debug = True
        if path == "cove" and any(flag.name == "version" for flag, _ in flags):
            return "cove version", found.commands["version"], ("--format", SHORT_VERSION)
        if not rest or rest[0] == "help":
            found, path = _described(found, path, rest[1:])
            raise _Help(found, path)
        name, rest = rest[0], rest[1:]
        if name not in found.commands:
            raise _unknown(name, found, path)
        found = found.commands[name]
        path = f"{path} {name}"
    return path, found, rest


SHORT_VERSION = "cove {{.Client.Version}}"


class _Help(Exception):
    def __init__(self, command: click.Command, path: str) -> None:
        super().__init__()
        self.command, self.path = command, path


def _own_flags(
    group: Group, path: str, args: tuple[str, ...]
) -> tuple[tuple[tuple[Flag, str], ...], tuple[str, ...]]:
    try:
        return scan(args, group.spellings, interspersed=False)
    except HelpWanted:
        raise _Help(group, path) from None


def _described(group: Group, path: str, names: tuple[str, ...]) -> tuple[click.Command, str]:
    """What ``cove help NAME…`` is about."""
    found: click.Command = group
    for name in names:
        if not isinstance(found, Group) or name not in found.commands:
            raise _unknown(name, found if isinstance(found, Group) else group, path)
        found, path = found.commands[name], f"{path} {name}"
    return found, path


def _unknown(name: str, group: Group, path: str) -> CoveError:
    if name in group.later:
        return Unsupported(
            f'cannot run "{name}": {group.later[name]}',
            hint=group.instead.get(name, ""),
        )
    return UsageError(
        f'cannot run "{name}": {path} has no such command',
        hint=did_you_mean(name, sorted(group.commands)) or f"{path} --help lists them",
    )


def main(argv: Sequence[str], terminal: Terminal, client: Client) -> int | None:
    """Carry one command line out: its exit code, or None when the session has gone to a monitor."""
    try:
        return _main(argv, terminal, client)
    except Gone as gone:
        return gone.exit_code


def _main(argv: Sequence[str], terminal: Terminal, client: Client) -> int | None:
    try:
        path, command, args = find(argv, terminal)
        if not isinstance(command, Command):
            raise UsageError(f"cannot run {path}: it is no command")
        try:
            typed = command.read(path, args)
        except HelpWanted:
            raise _Help(command, path) from None
        terminal.portable = path.rpartition(" ")[2] in PORTABLE
        return command.action(typed, terminal, client)
    except _Help as wanted:
        terminal.write(help_text(wanted.command, wanted.path, terminal.width))
        return 0
    except CoveError as error:
        terminal.error(error.render() + _trace(terminal, error))
        return error.exit_code
    except (Gone, MemoryError):
        raise
    except Exception as error:
        terminal.error(_bug(error) + _trace(terminal, error))
        return 125


def _bug(error: Exception) -> str:
    """cove's own mistake, in one line that says where."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = ""
    if last is not None:
        code = last.tb_frame.f_code
        where = f" at {code.co_filename.rpartition('/cove/')[2]}:{last.tb_lineno}"
    return f"cove: bug: {type(error).__name__}: {printable(str(error))}{where}; please report\n"


def _trace(terminal: Terminal, error: BaseException) -> str:
    if not (terminal.debug or terminal.env.get("COVE_DEBUG")):
        return ""
    import traceback

    return "".join(traceback.format_exception(error))
