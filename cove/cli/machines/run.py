"""``run create start attach exec``: from what was typed to one call of the client."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Literal

from cove.cli.command import Command, Typed
from cove.cli.each import each
from cove.cli.images.pull import with_image
from cove.cli.machines.notes import note_bound_devices, note_emulated, note_low_ports, note_ports
from cove.cli.parse import Typed as Flags
from cove.cli.parse import read_values
from cove.cli.progress import follow
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.engine.calls import snapshots
from cove.engine.calls.prepare import Prepare
from cove.errors import Conflict, CoveError, NotFound, UsageError, printable
from cove.spec.assemble import Caller, assemble_exec, assemble_machine, needs_caller, with_command
from cove.spec.check import check_command, check_exec, check_machine
from cove.spec.flags import CREATE, EXEC, FROM_SNAPSHOT, REFUSED, RUN, Flag
from cove.spec.inherit import inherit
from cove.spec.machine import MachineSpec

# ---- what was typed, as a spec ----


def caller(terminal: Terminal) -> Caller:
    def read(name: str) -> str:
        try:
            return terminal.read_text(name)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UsageError(f"cannot read {name}: {reason}", origin=name) from error

    return Caller(terminal.cwd, terminal.env, read, *terminal.ids)


@lru_cache(maxsize=256)
def _same_everywhere(flags: Flags) -> MachineSpec:
    """The checked spec of flags that mean the same to every caller; without image and command."""
    nobody = Caller("/", {}, lambda name: "")
    spec = assemble_machine(read_values(flags), nobody, image="-", command=())
    check_machine(spec)
    return spec


def _inherited(typed: Typed, terminal: Terminal, client: Client) -> MachineSpec:
    """What was typed, over the spec of the snapshot's machine."""
    ask = snapshots.SnapshotInspect(typed.text("snapshot"), sizes=False)
    try:
        other = client.snapshot_inspect(ask).record.spec
    except CoveError as error:
        error.exit_code = 125  # as a missing image
        raise
    spec = assemble_machine(typed.values, caller(terminal), image="-", command=typed.words)
    spec = inherit(other, spec, typed.values.keys())
    check_machine(spec)
    return spec


def machine_spec(typed: Typed, terminal: Terminal, client: Client) -> MachineSpec:
    if typed.text("snapshot"):
        return _inherited(typed, terminal, client)
    image, command = typed.words[0], typed.words[1:]
    if not image or needs_caller(typed.values):
        spec = assemble_machine(typed.values, caller(terminal), image=image, command=command)
        check_machine(spec)
        return spec
    check_command(command)
    return with_command(_same_everywhere(typed.flags), image, command)


def streams(typed: Typed) -> calls.Streams:
    """What to attach to: as typed with ``-a``, else the output, and the input with ``-i``."""
    chosen: set[str] = set(typed.values.get(".attach", ()))
    if not chosen:
        chosen = {"stdout", "stderr"} | ({"stdin"} if typed.on("stdin_open") else set())
    every: tuple[Literal["stdin", "stdout", "stderr"], ...] = ("stdin", "stdout", "stderr")
    return tuple(name for name in every if name in chosen)


def want_terminal(terminal: Terminal, wanted: object, attach: calls.Streams) -> None:
    """Docker's own check, with its words: ``-t`` with input from something else helps nobody."""
    if wanted and "stdin" in attach and not terminal.is_terminal(0):
        raise UsageError(
            "cannot use -t: the input device is not a TTY",
            hint="leave -t out, or run it from a terminal",
            exit_code=1,
        )


# ---- run and create ----


def run(typed: Typed, terminal: Terminal, client: Client) -> int | None:
    spec = machine_spec(typed, terminal, client)
    note_low_ports(spec, terminal, client)
    note_ports(spec, terminal)
    note_bound_devices(spec, terminal)
    act = partial(_run, typed, terminal, client, spec)
    try:
        return act() if spec.snapshot else with_image(typed, terminal, client, spec, act)
    except (Conflict, NotFound) as error:
        if error.exit_code == 1:
            error.exit_code = 125  # 1 could be the command's own
        raise


def _prepare(typed: Typed, terminal: Terminal, client: Client, spec: MachineSpec) -> None:
    """People see what the first virtual machine waits for, and may leave it with Ctrl-C."""
    if spec.isolation != "vm" or not terminal.is_terminal(2):
        return
    steps = client.prepare(Prepare(spec), terminal.cancelled)
    for _ in follow(steps, terminal, quiet=typed.on(".quiet")):
        pass
    if terminal.cancelled.is_set():
        raise CoveError("interrupted", exit_code=130)
    note_emulated(spec, terminal, client)


def _run(typed: Typed, terminal: Terminal, client: Client, spec: MachineSpec) -> int | None:
    cidfile = typed.text(".cidfile")
    _prepare(typed, terminal, client, spec)
    if typed.on(".detach"):
        if ".attach" in typed.values:
            raise UsageError("cannot use --attach with --detach", hint="leave one of them out")
        created = _with_cidfile(client, terminal, spec, cidfile) if cidfile else None
        if created:
            client.start(calls.Start(created.id))
        else:
            created = client.run_detached(calls.Run(spec))
            _warn(terminal, created)
        terminal.write(created.id + "\n")
        return 0
    attach = streams(typed)
    want_terminal(terminal, spec.tty, attach)
    sig_proxy = bool(typed.values.get(".sig_proxy", True))
    if cidfile:
        created = _with_cidfile(client, terminal, spec, cidfile)
        start = calls.Start(created.id, attach, sig_proxy, spec.detach_keys)
        return client.start_attached(start, terminal)
    return client.run(calls.Run(spec, attach, sig_proxy), terminal)


def create(typed: Typed, terminal: Terminal, client: Client) -> int:
    spec = machine_spec(typed, terminal, client)
    note_low_ports(spec, terminal, client)
    note_ports(spec, terminal)
    note_bound_devices(spec, terminal)
    note_emulated(spec, terminal, client)
    act = partial(_create, typed, terminal, client, spec)
    if spec.snapshot:
        return act()
    return with_image(typed, terminal, client, spec, act)


def _create(typed: Typed, terminal: Terminal, client: Client, spec: MachineSpec) -> int:
    cidfile = typed.text(".cidfile")
    if cidfile:
        created = _with_cidfile(client, terminal, spec, cidfile)
    else:
        created = client.create(calls.Create(spec))
        _warn(terminal, created)
    terminal.write(created.id + "\n")
    return 0


def _with_cidfile(
    client: Client, terminal: Terminal, spec: MachineSpec, cidfile: str
) -> calls.Created:
    """Create, with the id in a new file; the machine goes again when the file cannot be written."""
    import os

    if os.path.lexists(terminal.path(cidfile)):
        raise UsageError(
            f"cannot write the id to {cidfile}: the file exists",
            origin=f"--cidfile {cidfile}",
            hint="remove it, or name another file",
        )
    created = client.create(calls.Create(spec))
    _warn(terminal, created)
    try:
        terminal.create_file(cidfile, created.id)
    except OSError as error:
        client.remove(calls.Remove(created.id, force=True))
        raise UsageError(
            f"cannot write the id to {cidfile}: {(error.strerror or 'i/o error').lower()}",
            origin=f"--cidfile {cidfile}",
        ) from error
    return created


def _warn(terminal: Terminal, created: calls.Created) -> None:
    for warning in created.warnings:
        terminal.error(f"cove: note: {printable(warning)}\n")


# ---- verbs on machines that exist ----


def start(typed: Typed, terminal: Terminal, client: Client) -> int | None:
    keys = typed.text("detach_keys")
    if not (typed.on(".attach") or typed.on("stdin_open")):
        return each(
            typed.words,
            terminal,
            lambda name: (client.start(calls.Start(name, detach_keys=keys)), name)[1],
        )
    if len(typed.words) > 1:
        raise UsageError(
            "cannot attach to more than one machine", hint="start them without -a and -i"
        )
    attach: calls.Streams = ("stdout", "stderr")
    if typed.on("stdin_open"):
        attach = ("stdin", "stdout", "stderr")
        _want_terminal_of(client, terminal, typed.words[0])
    sig_proxy = bool(typed.values.get(".sig_proxy", True))
    return client.start_attached(calls.Start(typed.words[0], attach, sig_proxy, keys), terminal)


def _want_terminal_of(client: Client, terminal: Terminal, name: str) -> None:
    if not terminal.is_terminal(0):
        record = client.inspect(calls.Inspect(name)).record
        want_terminal(terminal, record.spec.tty and record.spec.stdin_open, ("stdin",))


def attach(typed: Typed, terminal: Terminal, client: Client) -> int | None:
    name = typed.words[0]
    taken: calls.Streams = ("stdout", "stderr")
    if not typed.on(".no_stdin"):
        taken = ("stdin", "stdout", "stderr")
        _want_terminal_of(client, terminal, name)
    sig_proxy = bool(typed.values.get(".sig_proxy", True))
    params = calls.Attach(name, taken, sig_proxy, typed.text("detach_keys"))
    return client.attach(params, terminal)


def exec_(typed: Typed, terminal: Terminal, client: Client) -> int | None:
    spec = assemble_exec(typed.values, caller(terminal), command=typed.words[1:])
    check_exec(spec)
    name = typed.words[0]
    if typed.on(".detach"):
        client.exec_detached(calls.Exec(name, spec))
        return 0
    taken = streams(typed)
    want_terminal(terminal, spec.tty, taken)
    return client.exec(calls.Exec(name, spec, taken), terminal)


# ---- the commands ----

_KEYS = next(flag for flag in RUN if flag.name == "detach-keys")
_SIG_PROXY = next(flag for flag in RUN if flag.name == "sig-proxy")
MACHINES = "MACHINE [MACHINE...]"
RUNNING = "Run"


class OfImage(Command):
    """One whose first word is an image, unless a snapshot is named."""

    def read(self, path: str, args: Sequence[str]) -> Typed:
        try:
            return super().read(path, args)
        except UsageError:
            flags, words = self._scan(path, args)
            if words or not any(flag is FROM_SNAPSHOT for flag, _ in flags):
                raise
            return Typed(read_values(flags), words, flags)


COMMANDS: dict[str, Command] = {
    command.name or "": command
    for command in (
        OfImage(
            "run",
            run,
            help="Make a machine from an image and run a command in it",
            flags=RUN,
            words="IMAGE [COMMAND] [ARG...]",
            interspersed=False,
            group=RUNNING,
            refused=REFUSED,
            about="Without a command the image's own is run. The exit code is the command's; 125 "
            "when cove could not start it, 126 when it cannot be executed, 127 when it is not "
            "found, 128 and the signal's number when a signal ended it.",
        ),
        OfImage(
            "create",
            create,
            help="Make a machine without starting it",
            flags=CREATE,
            words="IMAGE [COMMAND] [ARG...]",
            interspersed=False,
            group=RUNNING,
            refused=REFUSED,
        ),
        Command(
            "exec",
            exec_,
            help="Run one more command in a running machine",
            flags=EXEC,
            words="MACHINE COMMAND [ARG...]",
            interspersed=False,
            group=RUNNING,
        ),
        Command(
            "start",
            start,
            help="Start machines that do not run",
            flags=(
                Flag("attach", ".attach", "Attach to its output", "a"),
                Flag("interactive", "stdin_open", "Attach your input too", "i"),
                _KEYS,
                _SIG_PROXY,
            ),
            words=MACHINES,
            group=RUNNING,
            refused=dict.fromkeys(
                ("checkpoint", "checkpoint-dir"), ("cove keeps no checkpoints", True)
            ),
        ),
        Command(
            "attach",
            attach,
            help="Attach to a running machine's input and output",
            flags=(
                Flag("no-stdin", ".no_stdin", "Leave your input out"),
                _KEYS,
                _SIG_PROXY,
            ),
            words="MACHINE",
            group=RUNNING,
        ),
    )
}
