"""A repository's files, as an archive in a file."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from cove.errors import Unsupported
from cove.git.door import Door
from cove.git.jail import COMMAND, FAILED, NOBODY, UNKNOWN
from cove.git.settings import AGENT, HOSTS, Address, read_address
from cove.linux.pidfd import wait_exit
from cove.oci.endpoint import forbidden
from cove.planner.seccomp.filters import compile_default, compile_missing

NO_AGENT = "a repository over ssh needs an agent"
LOOK = 0.2
SAID_MAX = 4096
SPACE_LEFT, NAMES_LEFT = 64 << 20, 50_000
"""Bytes and inodes of the file system that are for others."""


class GitTrouble(Exception):
    """Why there are no files."""


class GitStopped(Exception):
    """Nobody wants them any more."""


@dataclass(frozen=True, slots=True)
class Repository:
    """``https://host/repo.git``, and what is wanted of it."""

    remote: str
    ref: str = ""
    """A branch, a tag, a commit, ``refs/...``; empty: what the server calls HEAD."""
    folder: str = ""
    keep_git_dir: bool = False
    checksum: str = ""
    """The beginning of the commit that it has to be."""
    submodules: bool = True


@dataclass(frozen=True, slots=True)
class Identity:
    """What ssh is given of who asks."""

    agent: Callable[[str], AbstractContextManager[object]]
    """Makes a directory of that path, in which there is an agent's socket for a while."""
    known_hosts: bytes
    """Keys of hosts, as ssh's file of that name has them."""


def ssh_hint(why: str, agent: str) -> str:
    """``agent``: how one is given."""
    if why == NO_AGENT:
        return agent
    if why != UNKNOWN:
        return ""
    return "compare it with what the host's people say, then: ssh-keyscan HOST >>~/.ssh/known_hosts"


def fetch_git(
    repository: Repository,
    out: int,
    stopped: Callable[[], bool],
    *,
    place: str,
    room: int,
    loopback: bool = False,
    typed: bool = False,
    env: Mapping[str, str] = os.environ,
    identity: Identity | None = None,
    entrances: Sequence[str] = (),
) -> None:
    """Into the file ``out``. ``place``: a directory in which one for git's files is made; ``room``:
    how many bytes there may be of them. ``loopback``: servers on this host's own loopback, too;
    ``typed``: of these the repository's own, which somebody named as such. ``entrances``: files of
    a control group to which git's first process writes 0; none: it stays in the caller's.
    """
    address = read_address(repository.remote)
    if address is None:
        raise GitTrouble("it is no address of a repository")
    if address.scheme == "ssh" and identity is None:
        raise GitTrouble(NO_AGENT)
    if os.geteuid() != 0:
        raise Unsupported("cannot run git behind walls: that needs root", exit_code=1)
    if shutil.which("git") is None:
        raise GitTrouble("this host has no git: install it, apt install git")
    if address.scheme == "ssh" and shutil.which("ssh") is None:
        raise GitTrouble("this host has no ssh: install it, apt install openssh-client")
    around = tempfile.mkdtemp(
        prefix="cove-git-", dir=place
    )  # 0700: there are others who are nobody
    try:
        directory = f"{around}/files"
        os.mkdir(directory, 0o700)
        with ExitStack() as stack:
            if address.scheme == "ssh" and identity is not None:
                _identify(identity, directory, stack)
            _Run(
                repository, address, out, stopped, room, loopback, typed, env, tuple(entrances)
            ).run(directory)
    finally:
        shutil.rmtree(around, ignore_errors=True)


def _identify(identity: Identity, directory: str, stack: ExitStack) -> None:
    with open(f"{directory}/{HOSTS}", "xb") as file:
        file.write(identity.known_hosts)
    stack.enter_context(identity.agent(f"{directory}/{AGENT}"))
    for path in (f"{directory}/{HOSTS}", f"{directory}/{AGENT}"):
        os.chown(path, NOBODY, NOBODY)


@dataclass(slots=True)
class _Run:
    repository: Repository
    address: Address
    out: int
    stopped: Callable[[], bool]
    room: int
    loopback: bool
    typed: bool
    env: Mapping[str, str]
    entrances: tuple[str, ...]

    def run(self, directory: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, tempfile.TemporaryFile() as said:
            with theirs:
                child = self._spawn(directory, theirs, said.fileno())
            doors: list[Door] = []
            try:
                self._open(ours, doors)
                self._wait(child, directory)
            finally:
                child.terminate()  # it ends the others, and waits for them
                child.wait()
                for door in doors:
                    door.close()
            if child.returncode:
                said.seek(0)
                text = said.read(SAID_MAX).decode("utf-8", "replace").strip()
                raise GitTrouble(self._why(child.returncode, text, doors))

    def _spawn(self, directory: str, theirs: socket.socket, said: int) -> subprocess.Popen[bytes]:
        words = (
            sys.executable, *COMMAND, "outer", directory, str(theirs.fileno()), *self.entrances
        )  # fmt: skip
        env = {name: self.env[name] for name in ("PATH", "PYTHONPATH") if name in self.env}
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=self.out, stderr=said, env=env, cwd="/",
            pass_fds=(theirs.fileno(),), start_new_session=True,
        )  # fmt: skip

    def _open(self, ours: socket.socket, doors: list[Door]) -> None:
        """The doors, once their listeners are there; then the jail is told what is wanted."""
        try:
            _, fds, _, _ = socket.recv_fds(ours, 16, 2)
            listeners = [socket.socket(fileno=fd) for fd in fds]
            if len(listeners) < 2:
                return
            one = self.repository
            wish = {
                "remote": one.remote, "ref": one.ref, "folder": one.folder,
                "keep": one.keep_git_dir, "checksum": one.checksum, "submodules": one.submodules,
                "room": self.room, "filters": _filters(os.uname().machine),
            }  # fmt: skip
            place = (self.address.host, self.address.port)
            doors.append(Door(listeners[0], self._forbidden, self.env))
            doors.append(Door(listeners[1], self._forbidden, self.env, only=place))
            ours.send(json.dumps(wish).encode())
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has ended, and says why

    def _forbidden(self, host: str, asked: tuple[str, int]) -> str:
        """``host``: who was asked for, or an address of it."""
        own = self.typed and self._is_own(*asked)
        return forbidden(host, loopback=self.loopback or own)

    def _is_own(self, host: str, port: int) -> bool:
        """On the loopback a port is a server, whatever the host is called there."""
        here = bool(forbidden(host, loopback=False)) and not forbidden(host, loopback=True)
        return here and port == self.address.port

    def _wait(self, child: subprocess.Popen[bytes], directory: str) -> None:
        pidfd = os.pidfd_open(child.pid)
        try:
            space = min(self.room, SPACE_LEFT)
            names = min(os.statvfs(directory).f_favail // 2, NAMES_LEFT)
            while not wait_exit(pidfd, LOOK):
                if self.stopped():
                    raise GitStopped
                free = os.statvfs(directory)
                if free.f_bavail * free.f_frsize < space or free.f_favail < names:
                    raise GitTrouble("no space left on device")
        finally:
            os.close(pidfd)
        child.wait()

    def _why(self, code: int, text: str, doors: list[Door]) -> str:
        for door in doors:
            if door.refused:
                return door.refused
        if code == FAILED and text:
            return text
        last = text.splitlines()[-1] if text else f"git ended with {code}"
        return last[:300]


def _filters(arch: str) -> tuple[str, ...]:
    """Those of a machine without a capability, as hexadecimal digits."""
    return tuple(make(arch, frozenset()).hex() for make in (compile_missing, compile_default))
