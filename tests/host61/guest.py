"""The first process of the guest: mounts what a Debian host has, runs the command it is sent in a
control group as a login session has one, and tells its exit code. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import threading

LIBC = ctypes.CDLL(None, use_errno=True)
MS_BIND = 4096
MS_MOVE = 8192
MS_SHARED_RECURSIVE = 1 << 20 | 1 << 14
SESSION = "/sys/fs/cgroup/user.slice/session-1.scope"
NOEXEC = 2 | 4 | 8
MOUNTS = (
    ("proc", "/proc", "proc", NOEXEC, ""),
    ("sysfs", "/sys", "sysfs", NOEXEC, ""),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", NOEXEC, "nsdelegate,memory_recursiveprot"),
    ("securityfs", "/sys/kernel/security", "securityfs", NOEXEC, ""),
    ("devpts", "/dev/pts", "devpts", 2 | 8, "gid=5,mode=620,ptmxmode=000"),
    ("tmpfs", "/dev/shm", "tmpfs", 2 | 4, "mode=1777"),
    ("mqueue", "/dev/mqueue", "mqueue", NOEXEC, ""),
    ("tmpfs", "/run", "tmpfs", 2 | 4, "mode=755"),
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    words = [word.encode() or None for word in (source, target, kind)]
    if LIBC.mount(*words, flags, data.encode() or None):
        raise OSError(ctypes.get_errno(), f"mount {kind or source} on {target}")


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def furnish(root: str) -> None:
    """What systemd does on a Debian host, as far as cove can see it."""
    for source, target, kind, flags, data in MOUNTS:
        os.makedirs(target, exist_ok=True)
        mount(source, target, kind, flags, data)
    mount("none", "/", "", MS_SHARED_RECURSIVE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1 << 20))
    os.makedirs(root, exist_ok=True)
    mount("/mnt", root, "", MS_BIND)
    for name, target in (("fd", "self/fd"), ("stdin", "self/fd/0"), ("stdout", "self/fd/1")):
        if not os.path.lexists(f"/dev/{name}"):
            os.symlink(f"/proc/{target}", f"/dev/{name}")
    LIBC.sethostname(b"debian", 6)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["modprobe", "-a", "fuse", "loop", "overlay", "tun"], check=True)
    shutil.copytree(f"{root}/built", "/tmp/cove-tests-0")
    os.chmod("/tmp/cove-tests-0", 0o700)
    os.makedirs(SESSION)
    write("/sys/fs/cgroup/cgroup.subtree_control", "+memory +pids")


def open_channel() -> int:
    subprocess.run(["modprobe", "virtio_console"], check=True)
    while True:  # the node is there before its driver is
        for path in glob.glob("/dev/vport*p*"):
            try:
                return os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
        select.select([], [], [], 0.01)


def receive(channel: int) -> dict[str, object]:
    data = b""
    while not data.endswith(b"\n"):
        data += os.read(channel, 65536)  # nothing, until the host has opened its end
    return dict(json.loads(data))


def run(argv: list[str], environment: dict[str, str], root: str, channel: int) -> int:
    base = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "CI": "1"}
    enter = f'echo 0 > {SESSION}/cgroup.procs; exec "$@"'
    ours, theirs = os.pipe()  # the front takes no device as its output
    child = subprocess.Popen(
        ["sh", "-c", enter, "sh", *argv],
        cwd=root,
        env=base | environment,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    relay = threading.Thread(target=carry, args=(ours, channel), daemon=True)
    relay.start()
    while True:  # everybody's orphans are the first process's
        pid, status = os.wait()
        if pid == child.pid:
            relay.join(5)  # what it left running may hold the pipe
            return os.waitstatus_to_exitcode(status)


def carry(source: int, target: int) -> None:
    while data := os.read(source, 65536):
        while data:
            data = data[os.write(target, data) :]


def main() -> None:
    mount("proc", "/proc", "proc")
    mount("sysfs", "/sys", "sysfs")
    channel = open_channel()
    LIBC.umount2(b"/sys", 2)
    LIBC.umount2(b"/proc", 2)
    task = receive(channel)
    root = str(task["root"])
    furnish(root)
    code = run(task["argv"], task["environment"], root, channel)  # type: ignore[arg-type]
    os.write(channel, b"\n--- host61 ends with %d\n" % (code if code >= 0 else 128 - code))
    while True:  # until the host ends it: the kernel panics without a first process
        signal.pause()


if __name__ == "__main__":
    main()
