"""From keyword arguments to a spec. Every flag of ``cove run`` is an option of the same name, read
by the flag's own parser: what the command line says of a bad value is said here too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypedDict

import msgspec

from cove.errors import Unsupported, UsageError
from cove.spec.assemble import Caller, assemble_exec, assemble_machine, needs_caller
from cove.spec.check import check_command, check_exec, check_machine
from cove.spec.flags import EXEC, REFUSED, RUN, Flag
from cove.spec.machine import ExecSpec, MachineSpec
from cove.spec.suggest import did_you_mean
from cove.spec.typed import Typed, read_values

Word = str | bytes | os.PathLike[str]
Words = Sequence[str] | Mapping[str, str]
Size = int | str
"""Bytes, or text with a unit: ``64m``."""


class Options(TypedDict, total=False):
    """What a machine may be made with. The names are those of the flags of ``cove run``, where
    ``docs/cli.md`` describes more of them; any other flag may be given too, with ``_`` for ``-``.
    """

    env: Mapping[str, str | None] | Sequence[str]
    """Variables. None as a value: the caller's own."""
    workdir: str
    """Directory to start in; absolute."""
    user: str | int
    """Name or id, or ``user:group``."""
    memory: Size
    """Most memory: bytes or ``64m``. More ends the program with the reason ``oom``."""
    cpus: float | str
    """How many CPUs' worth of time: 0.5, 2."""
    pids: int
    """Most processes and threads at once; -1: any. Default 2048."""
    timeout: float | str
    """Seconds from the start, or ``5m``; then it is killed, with the reason ``timeout``."""
    storage: Size
    """How much it may write to its root file system; more ends it with the reason ``storage``."""
    shm_size: Size
    """Of /dev/shm. Default 64m."""
    network: str | Sequence[str]
    """``none``, ``host``, or networks' names; default: ``bridge``. See docs/networks.md."""
    isolation: str
    """``container`` (the default) or ``vm``."""
    volumes: Sequence[str] | Mapping[str, str]
    """Directories of the host: ``/src:/dst:ro`` words, or host path to ``/dst`` or ``/dst:ro``."""
    mounts: Sequence[str]
    """The same as ``type=…,source=…,target=…`` words."""
    tmpfs: Sequence[str]
    """Empty directories in memory: ``/run`` or ``/run:size=8m``."""
    read_only: bool
    """No writing to the root file system."""
    entrypoint: str
    """Instead of the image's; empty: none."""
    hostname: str
    name: str
    """Of the machine; it must be free."""
    labels: Mapping[str, str] | Sequence[str]
    init: bool
    """A small init as process 1, that reaps and forwards signals."""
    privileged: bool
    """No walls but namespaces: see docs/security.md before you use it."""
    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    security_opt: Sequence[str]
    ulimits: Sequence[str]
    """``nofile=1024:2048``."""
    sysctls: Mapping[str, str] | Sequence[str]
    devices: Sequence[str]
    platform: str
    """Of the image: ``linux/arm64``."""


RENAMED = {
    "pids": "pids-limit",
    "volumes": "volume",
    "mounts": "mount",
    "labels": "label",
    "ulimits": "ulimit",
    "sysctls": "sysctl",
    "devices": "device",
    "groups": "group-add",
}
_OURS = ("rm", "cidfile", "quiet", "pull", "detach", "attach", "sig-proxy", "interactive", "tty",
         "detach-keys")  # fmt: skip
"""Flags about the caller's terminal, and what the API decides itself."""

FLAGS = {flag.name: flag for flag in RUN if flag.name not in _OURS}
EXEC_FLAGS = {flag.name: flag for flag in EXEC if flag.name not in _OURS}


def machine_spec(
    image: object, argv: object, options: Mapping[str, Any], *, stdin: bool = False,
    remove: bool = True,
) -> MachineSpec:  # fmt: skip
    """The checked spec of a machine."""
    words, name = command(argv), _text(image, "the image")
    typed = _typed(options, FLAGS)
    values = read_values(typed)
    if needs_caller(values):
        spec = assemble_machine(values, _caller(), image=name, command=words)
        check_machine(spec)
    else:
        spec = _same_everywhere(typed)
    spec = msgspec.structs.replace(spec, image=name, command=words, stdin_open=stdin, remove=remove)
    if not name:
        check_machine(spec)
    check_command((name, *words))
    return spec


@lru_cache(maxsize=256)
def _same_everywhere(typed: Typed) -> MachineSpec:
    nobody = Caller("/", {}, lambda name: "")
    spec = assemble_machine(read_values(typed), nobody, image="-", command=())
    check_machine(spec)
    return spec


def exec_spec(argv: object, options: Mapping[str, Any], *, stdin: bool) -> ExecSpec:
    values = read_values(_typed(options, EXEC_FLAGS))
    spec = assemble_exec(values, _caller(), command=command(argv))
    spec = msgspec.structs.replace(spec, stdin_open=stdin)
    check_exec(spec)
    return spec


def command(argv: object) -> tuple[str, ...]:
    """The words of a command line, of which a program gets each as it is: no shell reads them."""
    if argv is None:
        return ()
    if isinstance(argv, str | bytes) or not isinstance(argv, Iterable):
        raise UsageError(
            f"cannot run {argv!r}: a command is a list of words",
            hint='["ls", "-l"], or ["sh", "-c", "ls -l | wc -l"] for what wants a shell',
        )
    return tuple(_text(word, "the command") for word in argv)


def _text(word: object, what: str) -> str:
    if isinstance(word, bytes):
        return word.decode("utf-8", "surrogateescape")
    if isinstance(word, os.PathLike):
        return _text(os.fspath(word), what)
    if not isinstance(word, str):
        raise UsageError(f"cannot use {what}: {word!r} is a {type(word).__name__}, not text")
    return word


def _typed(options: Mapping[str, Any], flags: Mapping[str, Flag]) -> Typed:
    """As if it were typed: flags with the text of their values, in the order given."""
    typed: list[tuple[Flag, str]] = []
    for name, value in options.items():
        if value is None:
            continue
        if name == "storage" and "storage-opt" in flags:
            typed.append((flags["storage-opt"], f"size={_one(name, value)}"))
            continue
        flag = flags.get(RENAMED.get(name, name.replace("_", "-")))
        if flag is None:
            raise _unknown(name, flags)
        typed += [(flag, word) for word in _words(flag, name, value)]
    return tuple(typed)


def _words(flag: Flag, name: str, value: Any) -> Iterable[str]:
    if not flag.repeat:
        return (_one(name, value),)
    if isinstance(value, Mapping):
        mark = ":" if name in ("volumes", "volume", "tmpfs", "add_host") else "="
        return [
            _text(key, name) if item is None else f"{_text(key, name)}{mark}{_one(name, item)}"
            for key, item in value.items()
        ]
    if isinstance(value, str | bytes | os.PathLike):
        return (_text(value, name),)
    return [_one(name, item) for item in value]


def _one(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:f}"
    return _text(value, f"{name}=")


def _unknown(name: str, flags: Mapping[str, Flag]) -> UsageError | Unsupported:
    dashed = RENAMED.get(name, name.replace("_", "-"))
    if dashed in REFUSED:
        return Unsupported(f"cannot use {name}=: {REFUSED[dashed][0]}", origin=f"{name}=")
    known = [*Options.__annotations__, *(key.replace("-", "_") for key in flags)]
    return UsageError(f"cannot use {name}=: no such option", hint=did_you_mean(name, known))


def _caller() -> Caller:
    def read(name: str) -> str:
        try:
            with open(name, encoding="utf-8", errors="surrogateescape") as file:
                return file.read(1 << 20)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UsageError(f"cannot read {name}: {reason}", origin=name) from error

    return Caller(os.getcwd(), os.environ, read, os.geteuid(), os.getegid())
