"""Starting a daemon: by the first command that finds none, and by ``cove daemon start``.

It is on the path of the first command, so it imports nothing heavy.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing costs 4 ms
if TYPE_CHECKING:
    import _socket

DEFAULT_ROOT = "/var/lib/cove"
WAIT_SECONDS = 30.0
REPLACE_SECONDS = 20.0
SUPERVISED_SECONDS = 80.0
"""Less than systemd's patience."""
PASSED_ON = frozenset(
    (
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "TZ",
        "PYTHONPATH",
        "COVE_ROOT",
        "COVE_DEBUG",
        "COVE_DEFAULT_NETWORK",
        "COVE_DOCKER_GROUP",
        "COVE_DOCKER_SOCKET",
        "COVE_DOCKER_TLS",
        "COVE_INIT",
        "COVE_PUBLISH_ADDRESS",
        "COVE_VM_LEAVING",
        "COVE_VM_PATIENCE",
        "COVE_VM_POOL",
        "COVE_RESTART_DELAY",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    )
)
"""The daemon outlives the shell that started it: nothing else of its environment is kept."""

LOCK_FD, READY_FD = 3, 4


class CannotStart(Exception):
    """What to print, whole."""


def start_daemon(root: str) -> None:
    """Return when a daemon answers in ``root``, started by us or by somebody else just now."""
    if os.geteuid() != 0:
        raise cannot_start(
            "cannot start the daemon: not root", host=own_uid(), hint="run it with sudo"
        )
    import time

    try:
        lock = _open_lock(root)
    except OSError as error:
        raise _unusable(root, error) from error
    end = time.monotonic() + WAIT_SECONDS
    try:
        turn = os.open(f"{root}/run", os.O_RDONLY | os.O_DIRECTORY)
        try:
            # Whom a leaving daemon sends away would start one of the older build again.
            while not _locked(turn) and time.monotonic() < end:
                time.sleep(0.01)
            _replace(root, older=True)
            while not _answers(root):
                if _locked(lock):
                    _spawn_daemon(root, lock)
                    return
                if time.monotonic() > end:
                    raise cannot_start(
                        "cannot reach the daemon: it runs and does not answer",
                        host=f"{root}/lock is held",
                        hint=f"its last words are in {root}/run/daemon.log",
                    )
                time.sleep(0.01)
        finally:
            os.close(turn)
    finally:
        os.close(lock)


def take_place(root: str) -> tuple[int, int]:
    """For a daemon that the host's supervisor starts: the lock of the state directory, and a
    descriptor that nobody starts another one beside, until it is closed. A daemon that a command or
    a monitor started meanwhile makes way.
    """
    import time

    end = time.monotonic() + SUPERVISED_SECONDS
    try:
        lock = _open_lock(root)
        turn = os.open(f"{root}/run", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(root, error) from error
    while not _locked(turn) or not _locked(lock):
        if _locked(turn):
            _replace(root, older=False)
        if time.monotonic() > end:
            raise cannot_start(
                "cannot start the daemon: another one does not make way",
                host=f"{root}/lock is held",
                hint=f"its last words are in {root}/run/daemon.log",
            )
        time.sleep(0.01)
    return lock, turn


def _locked(fd: int) -> bool:
    """Whether the lock is ours; it goes with the descriptor."""
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _replace(root: str, *, older: bool) -> None:
    """Have a daemon, or only one of an older build, make way for the one that is started next: it
    ends what it does, and its machines go on.
    """
    if not _answers(root):
        return
    import _signal  # type: ignore[import-not-found]  # signal imports enum and re

    from cove.linux.program import build_stamp, is_older
    from cove.linux.ready import readable

    own = os.environ.get("COVE_STAMP") or build_stamp()
    pid = _listener(root)
    if not pid:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The stamp is written before the socket is there: it is this daemon's, or a later one's.
        stamp = _stamp(root)
        fits = not older or (stamp and is_older(stamp, own))
        if fits and _listener(root) == pid:
            _signal.pidfd_send_signal(pidfd, _signal.SIGHUP)
            if not readable(pidfd, REPLACE_SECONDS):
                raise cannot_start(
                    "cannot replace the daemon: it was asked to make way, and does not end",
                    host=f"pid {pid}",
                    hint=f"its last words are in {root}/run/daemon.log",
                )
    finally:
        os.close(pidfd)


def _stamp(root: str) -> str:
    try:
        with open(f"{root}/run/daemon.version", encoding="ascii", errors="replace") as file:
            return file.read(128).strip()
    except OSError:
        return ""


def _listener(root: str) -> int:
    """The daemon that listens; 0: none."""
    probe = _connect(root)
    if probe is None:
        return 0
    import _socket

    credentials = probe.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    probe.close()
    return int.from_bytes(credentials[:4], sys.byteorder)


def _open_lock(root: str) -> int:
    """The lock file, not locked yet; makes the directories that log and lock need."""
    for directory, mode in ((root, 0o711), (f"{root}/run", 0o700)):
        if not os.path.isdir(directory):
            os.makedirs(directory, exist_ok=True)
            os.chmod(directory, mode)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return _high(os.open(f"{root}/lock", flags, 0o600))


def _high(fd: int) -> int:
    """``fd`` moved out of the way of the numbers that the daemon gets."""
    import fcntl

    moved: int = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(fd)
    return moved


def _answers(root: str) -> bool:
    probe = _connect(root)
    if probe is None:
        return False
    probe.close()
    return True


def _connect(root: str) -> _socket.socket | None:
    import _socket  # the module socket costs 17 ms

    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    directory = -1
    try:
        directory = os.open(f"{root}/run", os.O_PATH | os.O_DIRECTORY)
        probe.connect(f"/proc/self/fd/{directory}/front.sock")  # whatever the length of root
    except OSError:
        probe.close()
        return None
    finally:
        if directory >= 0:
            os.close(directory)
    return probe


def _spawn_daemon(root: str, lock: int) -> None:
    """Start the daemon, give it the lock, and wait for its word that it listens."""
    import _signal

    reader, writer = os.pipe()
    writer = _high(writer)
    log = f"{root}/run/daemon.log"
    words = ["-P", "-m", "cove.daemon", "--root", root]
    words += ["--lock-fd", str(LOCK_FD), "--ready-fd", str(READY_FD)]
    try:
        log_fd = _high(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        log_start = os.fstat(log_fd).st_size
        inherited = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > READY_FD]
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log_fd, 1),
            (os.POSIX_SPAWN_DUP2, log_fd, 2),
            (os.POSIX_SPAWN_DUP2, lock, LOCK_FD),
            (os.POSIX_SPAWN_DUP2, writer, READY_FD),
            *((os.POSIX_SPAWN_CLOSE, fd) for fd in inherited),
        ]
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *words],
            {key: value for key, value in os.environ.items() if key in PASSED_ON},
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=_signal.valid_signals() - {_signal.SIGKILL, _signal.SIGSTOP},
        )
    except OSError as error:
        raise _unusable(root, error) from error
    os.close(writer)
    os.close(log_fd)
    said = b""
    while not said.endswith(b"\0") and (more := os.read(reader, 65536)):
        said += more
    os.close(reader)
    if said != b"\0":
        raise CannotStart(said.decode(errors="replace")) if said else _died(pid, log, log_start)


def _died(pid: int, log: str, start: int) -> CannotStart:
    """An error from what a daemon left in its log after ``start``."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            file.seek(start)
            tail = "".join(f"  {line}" for line in file.readlines()[-20:])
    except OSError:
        tail = ""
    error = cannot_start(f"cannot start the daemon: it ended with {how}", hint=f"see {log}")
    return CannotStart(f"{error}{tail}")


def cannot_start(message: str, *, host: str = "", hint: str = "") -> CannotStart:
    """An error in the form of all others; their room is only imported when there is one."""
    from cove.errors import HostError

    return CannotStart(HostError(message, host=host, hint=hint).render())


def own_uid() -> str:
    return f"uid {os.geteuid()}"


def _unusable(root: str, error: OSError) -> CannotStart:
    reason = (error.strerror or str(error)).lower()
    return cannot_start(
        f"cannot start the daemon: {error.filename or root}: {reason}",
        hint="use another state directory: cove --root DIR, or COVE_ROOT",
    )
