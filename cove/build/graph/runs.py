"""RUN: the program, what it is given, and the mounts beside its root. Pure."""

from __future__ import annotations

import posixpath
from dataclasses import replace

from cove.build.dockerfile import instructions as i
from cove.build.dockerfile.heredoc import opening
from cove.build.dockerfile.mounts import Mount, parse_mount
from cove.build.graph.data import SCRATCH, InlineFile, Origin, RunStep, StepMount
from cove.build.graph.sources import absolute
from cove.build.graph.walk import Walk, title_of
from cove.build.source import misfit

SCRIPTS = "/dev/pipes"
SECRETS = "/run/secrets"
SSH = "/run/buildkit/ssh_agent"


def run_step(walk: Walk, by: i.Run) -> RunStep:
    words, files = _program(by)
    argv = walk.with_shell(words) if by.command.shell else words
    state = walk.state
    shown = {name: state.env.get(name, "") for name in state.arguments}
    before = [f"|{len(shown)}", *(f"{name}={value}" for name, value in shown.items())]
    proxies = {n: v for n, v in walk.rules.scope.proxies.items() if n not in state.arguments}
    return RunStep(
        by.place,
        title_of(by),
        " ".join(["RUN", *(before if shown else []), *argv]),
        argv=argv,
        env=tuple(f"{name}={value}" for name, value in state.env.items()),
        proxies=tuple(f"{name}={value}" for name, value in proxies.items()),
        workdir=state.config.workdir or "/",
        user=state.config.user,
        mounts=_mounts(walk, by),
        files=files,
        network=by.network,
        security=by.security,
    )


def _program(by: i.Run) -> tuple[tuple[str, ...], tuple[InlineFile, ...]]:
    """A here-document alone is the program: a script of its own with ``#!``, else the shell's text.
    With anything beside it the shell gets the whole of it."""
    if not by.heredocs:
        return by.command.words, ()
    line = by.command.words[0]
    if opening(line) is None:
        bodies = "".join(f"\n{doc.content}{doc.name}" for doc in by.heredocs)
        return (line + bodies,), ()
    doc = by.heredocs[0]
    if not doc.body.startswith("#!"):
        return (doc.body,), ()
    if "/" in doc.name or doc.name in (".", ".."):
        raise misfit(by.place, f'a script cannot be called "{doc.name}"')
    path = f"{SCRIPTS}/{doc.name}"
    return (path,), (InlineFile(path, doc.body),)


def _mounts(walk: Walk, by: i.Run) -> tuple[StepMount, ...]:
    found: list[StepMount] = []
    agents = 0
    for text in by.mounts:
        mount = parse_mount(text, by.place, lambda word: walk.expand(word, by))
        if mount.type == "ssh":
            found.append(_ssh(walk, mount, agents))
            agents += 1
        elif mount.type == "secret":
            found.append(_secret(walk, mount))
        else:
            found.append(_files(walk, by, mount))
    return tuple(found)


def _files(walk: Walk, by: i.Run, mount: Mount) -> StepMount:
    target = _target(walk, mount.target)
    if target == "/":
        raise misfit(by.place, "a mount has / as its target", hint="write target=/path")
    if mount.type == "tmpfs":
        return StepMount(mount, target)
    if mount.type == "cache":
        named = mount.id or posixpath.normpath(mount.target or ".")
        mount = replace(mount, id=named, sharing=mount.sharing or "shared")
        if not mount.origin:
            return StepMount(mount, target, Origin(SCRATCH))
    return StepMount(mount, target, walk.find(mount.origin, by))


def _secret(walk: Walk, mount: Mount) -> StepMount:
    """Without a target it is a file below /run/secrets, unless it is a variable."""
    named = mount.source or mount.id or posixpath.basename(mount.target)
    target = _target(walk, mount.target) if mount.target else ""
    if not target and mount.env is None:
        target = f"{SECRETS}/{posixpath.basename(named)}"
    mount = replace(mount, id=named, source="", mode=0o400 if mount.mode is None else mount.mode)
    return StepMount(mount, target)


def _ssh(walk: Walk, mount: Mount, number: int) -> StepMount:
    target = _target(walk, mount.target) if mount.target else f"{SSH}.{number}"
    mode = 0o600 if mount.mode is None else mount.mode
    return StepMount(replace(mount, id=mount.id or "default", mode=mode), target)


def _target(walk: Walk, target: str) -> str:
    return absolute(posixpath.join(walk.state.config.workdir or "/", target))
