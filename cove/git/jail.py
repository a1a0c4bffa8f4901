"""A process of its own: git in namespaces of its own, as nobody, with what it may say on descriptor
1, the archive of the files; what went wrong on 2; the listeners of its doors go over a socket.

``outer`` makes the namespaces, ``inner`` is the first process in them: with it ends everything. The
host's files are there to be read as far as nobody may read them, and nothing can be written but
the directory that becomes /mnt.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import selectors
import signal
import socket
import stat
import struct
import subprocess
import sys
from contextlib import suppress
from typing import Any

from cove.git.settings import environment, read_address, settings, ssh_command

NOBODY = 65534
NAMESPACES = 0x00020000 | 0x08000000 | 0x04000000 | 0x20000000 | 0x40000000
"""NEWNS, NEWIPC, NEWUTS, NEWPID, NEWNET."""
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MS_MOVE = 8192
MOUNT_SETATTR, AT_RECURSIVE, AT_FDCWD = 442, 0x8000, -100
RDONLY, NOSUID = 1, 2
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 1, 22, 38, 2
INSTRUCTION = 8
"""Bytes of a struct sock_filter."""
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
COMMAND = ("-P", "-m", "cove.git.jail")
FAILED = 7
UNKNOWN = "the key of its host is not known"
PLACE = "/mnt"
"""Where the directory is in the jail; cove itself may be below /tmp."""
TOP = f"{PLACE}/tree"
COMMIT = "0123456789abcdef"
MEMORY = 3 << 30
"""Of each process, in addresses: a repository can be a few objects that stand for 10^9 names."""
STDOUT_MAX, STDERR_MAX = 4 << 20, 64 << 10
DEVICES = ("null", "zero", "urandom")
_libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """What git, or what is not in the repository, is to be told of."""


def _done(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    words = (source.encode(), target.encode(), kind.encode(), flags, None)
    _done(_libc.mount(*words), f"mount {target}")


# ---- outside ----


def outer(directory: str, caller_fd: str, *entrances: str) -> int:
    def end(*_: object) -> None:
        raise SystemExit(FAILED)

    signal.signal(signal.SIGTERM, end)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a daemon has blocked some
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # it goes first, not what else is in the daemon's group
    for path in entrances:  # of a control group, before there is a second process
        with open(path, "w") as file:
            file.write("0")
    _done(_libc.unshare(NAMESPACES), "unshare")
    _mount("none", "/", "none", MS_REC | MS_PRIVATE)
    os.chown(directory, NOBODY, NOBODY)
    inside = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    _cover()
    attributes = struct.pack("=QQQQ", RDONLY | NOSUID, 0, 0, 0)
    size = len(attributes)
    setattr_ = _libc.syscall(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, size)
    _done(setattr_, "mount_setattr")
    _mount(f"/proc/self/fd/{inside}", PLACE, "none", MS_BIND)
    os.close(inside)
    flags = struct.pack("=QQQQ", NOSUID, RDONLY, 0, 0)
    _done(_libc.syscall(MOUNT_SETATTR, AT_FDCWD, PLACE.encode(), 0, flags, size), "mount_setattr")
    with socket.socket() as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("=16sH14x", b"lo", IFF_UP))
    doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    with socket.socket(fileno=int(caller_fd)) as caller:
        socket.send_fds(caller, [b"doors"], [door.fileno() for door in doors])
        ports = ",".join(str(door.getsockname()[1]) for door in doors)
        for door in doors:
            door.close()
        wish = caller.recv(1 << 17)
    # With the first process in it the whole namespace has ended, once that is waited for.
    words = (sys.executable, *COMMAND, "inner", ports)
    return subprocess.run(words, input=wish, check=False).returncode


def _cover() -> None:
    """The host's sockets lie in /run, and a socket is connected to on a read-only mount, too."""
    _mount("tmpfs", PLACE, "tmpfs", MS_NOSUID | MS_NOEXEC)
    for name in DEVICES:
        os.mknod(f"{PLACE}/{name}", stat.S_IFREG)
        _mount(f"/dev/{name}", f"{PLACE}/{name}", "none", MS_BIND)
    _mount(PLACE, "/dev", "none", MS_MOVE)
    _mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)


# ---- inside ----


def inner(ports: str) -> int:
    wish = sys.stdin.buffer.read()
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.umask(0o022)
    os.chdir(PLACE)
    asked: dict[str, Any] = json.loads(wish)
    for text in asked["filters"]:
        _filter(bytes.fromhex(text))
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, asked["room"])
    _limit(resource.RLIMIT_AS, MEMORY)
    try:
        socks, plain = map(int, ports.split(","))
        work = Work(asked, socks, plain)
        work.fetch()
        work.pack()
    except Failed as failed:
        sys.stderr.write(str(failed))
        return FAILED
    return 0


def _filter(instructions: bytes) -> None:
    """seccomp(2), which holds for all that is started here, too."""
    held = ctypes.create_string_buffer(instructions, len(instructions))
    program = struct.pack("@HP", len(instructions) // INSTRUCTION, ctypes.addressof(held))
    _done(_libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0), "seccomp")


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    least = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (least, least))


class Work:
    """One repository, from its address to an archive on descriptor 1."""

    def __init__(self, asked: dict[str, Any], socks: int, plain: int) -> None:
        self.ref, self.folder = asked["ref"], asked["folder"]
        self.keep, self.checksum = asked["keep"], asked["checksum"]
        self.submodules = asked["submodules"]
        self.shallow: tuple[str, ...] = ("--depth=1",)
        address = read_address(asked["remote"])
        assert address is not None, "who asked has read it"
        self.url = address.url
        home, tmp = f"{PLACE}/home", f"{PLACE}/tmp"
        os.mkdir(home)
        os.mkdir(tmp)
        self.env = environment(address, home, tmp)
        self.settings = settings(address, socks, plain)
        if address.scheme == "ssh":
            self.env |= {"GIT_SSH_COMMAND": ssh_command(address, plain, PLACE)}
            self.env |= {"GIT_SSH_VARIANT": "ssh"}

    def git(self, *words: str, tree: bool = True) -> bytes:
        front = [x for name, value in self.settings.items() for x in ("-c", f"{name}={value}")]
        where = ["-C", TOP] if tree else []
        argv = ["git", *front, *where, *words]
        code, said, why = self._run(argv)
        if code:
            raise Failed(_of_ssh(why) or _last(why) or f"git {words[0]} ended with {code}")
        return said

    def _run(self, argv: list[str], out: int = subprocess.PIPE) -> tuple[int, bytes, bytes]:
        """How it ends, what it says, and the last of what it complains of. A server decides how
        much that is."""
        with subprocess.Popen(argv, env=self.env, stdout=out, stderr=subprocess.PIPE) as child:
            said, why = bytearray(), bytearray()
            with selectors.DefaultSelector() as selector:
                for file, into in ((child.stdout, said), (child.stderr, why)):
                    if file is not None:
                        selector.register(file, selectors.EVENT_READ, into)
                while selector.get_map():
                    for key, _ in selector.select():
                        data = os.read(key.fd, 1 << 16)
                        key.data.extend(data)
                        if not data:
                            selector.unregister(key.fileobj)
                    if len(said) > STDOUT_MAX:
                        child.kill()
                        raise Failed("its server says too much")
                    del why[:-STDERR_MAX]
        return child.returncode, bytes(said), bytes(why)

    def fetch(self) -> None:
        self.git("init", "-q", TOP, tree=False)
        said = self.url.replace("\\", "\\\\").replace('"', '\\"')
        with open(f"{TOP}/.git/config", "a") as file:
            file.write(f'[remote "origin"]\n\turl = "{said}"\n')
        name, commit = self._resolve()
        if self.checksum and _is_whole(commit) and not commit.startswith(self.checksum):
            raise Failed(f"{self.ref or 'HEAD'} is the commit {commit}, not {self.checksum}")
        named = not name.startswith("refs/") and name != "HEAD"
        self._take(name, commit=named)
        commit = self.git("rev-parse", "HEAD").decode().strip()
        if named and not commit.startswith(name):
            raise Failed(f"{self.ref} is the commit {commit}")
        if self.checksum and not commit.startswith(self.checksum):
            raise Failed(f"{self.ref or 'HEAD'} is the commit {commit}, not {self.checksum}")
        if self.submodules and os.path.lexists(f"{TOP}/.gitmodules"):
            words = ("submodule", "--quiet", "update", "--init", "--recursive")
            self.git(*words, *self.shallow)

    def _take(self, name: str, *, commit: bool) -> None:
        """One commit and nothing before it, where the server can do that: one of plain files
        cannot, and some give no commit that has no name."""
        try:
            self.git("fetch", "-q", "--no-tags", "--depth=1", "origin", name)
        except Failed as failed:
            self.shallow = ()
            if commit:
                self.git("fetch", "-q", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
                try:
                    self.git("rev-parse", "--verify", "-q", f"{name}^{{commit}}")
                except Failed:
                    raise Failed(f"it has no commit {name}") from None
                self.git("checkout", "-q", "--detach", name)
                return
            if "shallow" not in str(failed):
                raise
            self.git("fetch", "-q", "--no-tags", "origin", name)
        self.git("checkout", "-q", "--detach", "FETCH_HEAD")

    def _resolve(self) -> tuple[str, str]:
        """The full name of what is meant, and its commit as far as it is known: branches before
        tags; what is no name there may be a commit. A whole one is that commit, whatever the
        server has a branch of that name for."""
        ref = self.ref or "HEAD"
        if _is_whole(ref.lower()):
            return ref.lower(), ref.lower()
        lines = self.git("ls-remote", "origin", ref, f"{ref}^{{}}").decode("utf-8", "replace")
        known = {name: commit for commit, _, name in (x.partition("\t") for x in lines.split("\n"))}
        for name in (ref, f"refs/heads/{ref}", f"refs/tags/{ref}", f"refs/{ref}"):
            if name in known:
                return name, known.get(f"{name}^{{}}", known[name])
        if 7 <= len(ref) <= 64 and not ref.strip(COMMIT):
            return ref, ref
        raise Failed(f"it has no branch, tag or commit {ref}")

    def pack(self) -> None:
        top = os.path.realpath(os.path.join(TOP, self.folder))
        if not f"{top}/".startswith(f"{TOP}/") or not os.path.isdir(top):
            raise Failed(f"it has no folder {self.folder}")
        left = [] if self.keep else ["--exclude=.git"]
        with suppress(FileNotFoundError):
            os.unlink(f"{TOP}/.git/FETCH_HEAD")
        argv = ["tar", "-C", top, *left, "--owner=0", "--group=0", "--numeric-owner",
                "--sort=name", "--format=pax", "-cf", "-", "."]  # fmt: skip
        code, _, why = self._run(argv, out=1)
        if code:
            raise Failed(_last(why) or "its files cannot be read")


def _is_whole(commit: str) -> bool:
    return len(commit) in (40, 64) and not commit.strip(COMMIT)


def _of_ssh(said: bytes) -> str:
    """What ssh says is the cause of what git says."""
    if b"IDENTIFICATION HAS CHANGED" in said:
        return "its host has another key than the one that is known"
    if b"Host key verification failed" in said:
        return UNKNOWN
    if b"Permission denied (" in said:
        return "its server takes none of the agent's keys"
    return ""


def _last(said: bytes) -> str:
    """The line that says why: git's first ``fatal:`` or its last one."""
    lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    worst = [line for line in lines if line.startswith(("fatal: ", "error: "))]
    found = (worst or lines or [""])[0 if worst else -1]
    return found.partition(": ")[2][:300] if worst else found[:300]


if __name__ == "__main__":
    sys.exit(outer(*sys.argv[2:]) if sys.argv[1] == "outer" else inner(sys.argv[2]))
