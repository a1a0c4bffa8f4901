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
import signal
import socket
import struct
import subprocess
import sys
from typing import Any

NOBODY = 65534
NAMESPACES = 0x00020000 | 0x08000000 | 0x04000000 | 0x20000000 | 0x40000000
"""NEWNS, NEWIPC, NEWUTS, NEWPID, NEWNET."""
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MOUNT_SETATTR, AT_RECURSIVE, AT_FDCWD = 442, 0x8000, -100
RDONLY, NOSUID = 1, 2
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
COMMAND = ("-P", "-m", "cove.git.jail")
FAILED = 7
PLACE = "/mnt"
"""Where the directory is in the jail; cove itself may be below /tmp."""
TOP = f"{PLACE}/tree"
COMMIT = "0123456789abcdef"
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


def outer(directory: str, caller_fd: str) -> int:
    def end(*_: object) -> None:
        raise SystemExit(FAILED)

    signal.signal(signal.SIGTERM, end)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a daemon has blocked some
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _done(_libc.unshare(NAMESPACES), "unshare")
    _mount("none", "/", "none", MS_REC | MS_PRIVATE)
    os.chown(directory, NOBODY, NOBODY)
    attributes = struct.pack("=QQQQ", RDONLY | NOSUID, 0, 0, 0)
    size = len(attributes)
    setattr_ = _libc.syscall(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, size)
    _done(setattr_, "mount_setattr")
    _mount(directory, PLACE, "none", MS_BIND)
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
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (asked["room"], asked["room"]))
    try:
        socks, plain = map(int, ports.split(","))
        work = Work(asked, socks, plain)
        work.fetch()
        work.pack()
    except Failed as failed:
        sys.stderr.write(str(failed))
        return FAILED
    return 0


class Work:
    """One repository, from its address to an archive on descriptor 1."""

    def __init__(self, asked: dict[str, Any], socks: int, plain: int) -> None:
        """``plain``: the port of a door that leads to the repository's own host alone, for git's
        own protocol, which knows no proxies."""
        self.remote, self.ref, self.folder = asked["remote"], asked["ref"], asked["folder"]
        self.keep, self.checksum = asked["keep"], asked["checksum"]
        self.submodules = asked["submodules"]
        self.shallow: tuple[str, ...] = ("--depth=1",)
        os.mkdir(f"{PLACE}/home")
        os.mkdir(f"{PLACE}/tmp")
        self.env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8",
            "HOME": f"{PLACE}/home", "TMPDIR": f"{PLACE}/tmp",
            "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false", "GIT_ALLOW_PROTOCOL": "http:https:git",
            "GIT_HTTP_LOW_SPEED_LIMIT": "1", "GIT_HTTP_LOW_SPEED_TIME": "120",
            "GIT_TEMPLATE_DIR": "", "GIT_LFS_SKIP_SMUDGE": "1",
        }  # fmt: skip
        if self.remote.startswith("git://"):
            host = self.remote.split("/", 3)[2]
            self.env["GIT_OVERRIDE_VIRTUAL_HOST"] = host
            self.remote = f"git://127.0.0.1:{plain}/{self.remote.split('/', 3)[3]}"
        self.settings = {
            "http.proxy": f"socks5h://127.0.0.1:{socks}",
            "core.hooksPath": "/dev/null",
            "core.fsmonitor": "false",
            "core.symlinks": "true",
            "core.autocrlf": "false",
            "protocol.version": "2",
            "transfer.fsckObjects": "true",
            "transfer.credentialsInUrl": "allow",
            "submodule.recurse": "false",
            "gc.auto": "0",
            "advice.detachedHead": "false",
            "init.defaultBranch": "main",
        }

    def git(self, *words: str, tree: bool = True) -> bytes:
        front = [x for name, value in self.settings.items() for x in ("-c", f"{name}={value}")]
        where = ["-C", TOP] if tree else []
        argv = ["git", *front, *where, *words]
        ran = subprocess.run(argv, env=self.env, capture_output=True, check=False)
        if ran.returncode:
            raise Failed(_last(ran.stderr) or f"git {words[0]} ended with {ran.returncode}")
        return ran.stdout

    def fetch(self) -> None:
        self.git("init", "-q", TOP, tree=False)
        said = self.remote.replace("\\", "\\\\").replace('"', '\\"')
        with open(f"{TOP}/.git/config", "a") as file:
            file.write(f'[remote "origin"]\n\turl = "{said}"\n')
        name, commit = self._resolve()
        whole = len(commit) in (40, 64) and not commit.strip(COMMIT)
        if self.checksum and whole and not commit.startswith(self.checksum):
            raise Failed(f"{self.ref or 'HEAD'} is the commit {commit}, not {self.checksum}")
        self._take(name, commit=not name.startswith("refs/") and name != "HEAD")
        commit = self.git("rev-parse", "HEAD").decode().strip()
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
                self.git("checkout", "-q", "--detach", name)
                return
            if "shallow" not in str(failed):
                raise
            self.git("fetch", "-q", "--no-tags", "origin", name)
        self.git("checkout", "-q", "--detach", "FETCH_HEAD")

    def _resolve(self) -> tuple[str, str]:
        """The full name of what is meant, and its commit as far as it is known: branches before
        tags; what is no name there may be a commit."""
        ref = self.ref or "HEAD"
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
        argv = ["tar", "-C", top, *left, "--owner=0", "--group=0", "--numeric-owner",
                "--sort=name", "--format=pax", "-cf", "-", "."]  # fmt: skip
        ran = subprocess.run(argv, env=self.env, stderr=subprocess.PIPE, check=False)
        if ran.returncode:
            raise Failed(_last(ran.stderr) or "its files cannot be read")


def _last(said: bytes) -> str:
    """The line that says why: git's first ``fatal:`` or its last one."""
    lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    worst = [line for line in lines if line.startswith(("fatal: ", "error: "))]
    found = (worst or lines or [""])[0 if worst else -1]
    return found.partition(": ")[2][:300] if worst else found[:300]


if __name__ == "__main__":
    sys.exit(outer(*sys.argv[2:4]) if sys.argv[1] == "outer" else inner(sys.argv[2]))
