"""``--change``: Dockerfile instructions applied to a config, as ``docker import`` does. Pure."""

from __future__ import annotations

import re
import shlex
from typing import Any

import msgspec

from cove.errors import UsageError

Start = dict[str, Any]
"""The ``config`` object of an image config."""


def apply_changes(start: Start, changes: tuple[str, ...]) -> Start:
    """The config with each instruction applied in turn."""
    result = dict(start)
    for change in changes:
        word, _, rest = change.strip().partition(" ")
        instruction = INSTRUCTIONS.get(word.upper())
        if instruction is None:
            known = ", ".join(INSTRUCTIONS)
            raise _error(change, f"{word!r} is not one of {known}")
        if not rest.strip():
            raise _error(change, f"{word.upper()} needs an argument")
        instruction(result, rest.strip(), change)
    return result


def _exec_form(text: str, change: str) -> list[str] | None:
    """``["a", "b"]``, or None for the shell form."""
    if not text.startswith("["):
        return None
    try:
        return msgspec.json.decode(text.encode(), type=list[str])
    except msgspec.MsgspecError:
        return None


def _command(start: Start, text: str, change: str) -> list[str]:
    words = _exec_form(text, change)
    return words if words is not None else [*start.get("Shell", ["/bin/sh", "-c"]), text]


def _cmd(start: Start, text: str, change: str) -> None:
    start["Cmd"] = _command(start, text, change)


def _entrypoint(start: Start, text: str, change: str) -> None:
    start["Entrypoint"] = _command(start, text, change)


def _pairs(text: str, change: str) -> list[tuple[str, str]]:
    """``A=b C="d e"``, or the old ``A b``."""
    first = text.split(maxsplit=1)
    if "=" not in first[0]:
        if len(first) < 2:
            raise _error(change, "it must be NAME=VALUE")
        return [(first[0], first[1])]
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise _error(change, str(error).lower()) from None
    pairs = [word.partition("=") for word in words]
    if not all(equals and name for name, equals, _ in pairs):
        raise _error(change, "it must be NAME=VALUE")
    return [(name, value) for name, _, value in pairs]


def _env(start: Start, text: str, change: str) -> None:
    for name, value in _pairs(text, change):
        others = [item for item in start.get("Env", []) if item.partition("=")[0] != name]
        start["Env"] = [*others, f"{name}={value}"]


def _label(start: Start, text: str, change: str) -> None:
    start["Labels"] = {**start.get("Labels", {}), **dict(_pairs(text, change))}


def _expose(start: Start, text: str, change: str) -> None:
    ports = dict(start.get("ExposedPorts", {}))
    for word in text.split():
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", word)
        if match is None:
            raise _error(change, f"{word!r} is not PORT[-PORT][/PROTOCOL]")
        low, high = int(match[1]), int(match[2] or match[1])
        if not 0 < low <= high < 65536:
            raise _error(change, f"{word!r} is no range of ports")
        ports |= {f"{port}/{match[3] or 'tcp'}": {} for port in range(low, high + 1)}
    start["ExposedPorts"] = ports


def _volume(start: Start, text: str, change: str) -> None:
    paths = _exec_form(text, change) or text.split()
    start["Volumes"] = {**start.get("Volumes", {}), **{path: {} for path in paths}}


def _workdir(start: Start, text: str, change: str) -> None:
    path = text if text.startswith("/") else f"{start.get('WorkingDir', '/').rstrip('/')}/{text}"
    start["WorkingDir"] = path


def _user(start: Start, text: str, change: str) -> None:
    start["User"] = text


def _stopsignal(start: Start, text: str, change: str) -> None:
    start["StopSignal"] = text


def _onbuild(start: Start, text: str, change: str) -> None:
    start["OnBuild"] = [*start.get("OnBuild", []), text]


def _shell(start: Start, text: str, change: str) -> None:
    words = _exec_form(text, change)
    if not words:
        raise _error(change, 'SHELL must be written as ["PROGRAM", "ARGUMENT"]')
    start["Shell"] = words


def _healthcheck(start: Start, text: str, change: str) -> None:
    if text.upper() == "NONE":
        start["Healthcheck"] = {"Test": ["NONE"]}
        return
    word, _, rest = text.partition(" ")
    if word.upper() != "CMD" or not rest.strip():
        raise _error(change, "it must be HEALTHCHECK NONE or HEALTHCHECK CMD COMMAND")
    words = _exec_form(rest.strip(), change)
    start["Healthcheck"] = {
        "Test": ["CMD", *words] if words is not None else ["CMD-SHELL", rest.strip()]
    }


INSTRUCTIONS = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}


def _error(change: str, reason: str) -> UsageError:
    return UsageError(f'cannot apply change "{change}": {reason}', origin=f"--change {change}")
