"""The resident process: seals its world, takes the state directory, listens, and idles.

Nothing of the shell that happened to start it is kept: it serves many callers, each with a world of
their own.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import resource
import signal
import socket
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from cove.errors import Conflict, CoveError, HostError, UsageError
from cove.linux.heap import bound_arenas

if TYPE_CHECKING:
    from cove.daemon.supervised import Supervisor
    from cove.daemon.tls import TlsDoor
    from cove.engine.home import Home
    from cove.engine.reactor import Reactor

KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "COVE_DEBUG", "COVE_INIT",
        "COVE_DEFAULT_NETWORK", "COVE_DOCKER_GROUP", "COVE_DOCKER_SOCKET", "COVE_DOCKER_TLS",
        "COVE_PUBLISH_ADDRESS",
        "COVE_VM_LEAVING", "COVE_VM_PATIENCE", "COVE_VM_POOL", "COVE_RESTART_DELAY",
        "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
        "http_proxy", "https_proxy", "no_proxy")  # fmt: skip
SWITCH = 1e-4
"""Seconds a busy thread may hold the others up: at Python's 5 ms a start takes 77 ms instead of 4.
"""
LAST = 8.0
"""Seconds that commands have to end when a newer daemon wants this one's place (SIGHUP)."""
FILES = 1 << 20
"""Open at most, if the host allows more: tools there are that close every number up to the limit.
"""
LOCKED = 75
"""Exit code when another daemon has the state directory (EX_TEMPFAIL)."""


@dataclass(frozen=True, slots=True)
class Options:
    root: str
    lock_fd: int | None = None
    ready_fd: int | None = None
    foreground: bool = False


def parse(argv: list[str]) -> Options:
    """By hand: argparse costs 12 ms of the first command's 400."""
    found: dict[str, str] = {}
    foreground = False
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name == "--foreground":
            foreground = True
        elif name in ("--root", "--lock-fd", "--ready-fd"):
            found[name] = value if equals else next(words, "")
        else:
            raise UsageError(f'cannot read "{word}": no such option of the daemon')
    root = os.path.abspath(found.get("--root") or os.environ.get("COVE_ROOT") or "/var/lib/cove")
    return Options(
        root, _number(found.get("--lock-fd")), _number(found.get("--ready-fd")), foreground
    )


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdigit():
        raise UsageError(f'cannot read "{text}": not the number of a descriptor')
    return int(text)


def seal(options: Options, handed: int | None = None) -> dict[str, str]:
    """Give up what came from the starter; the environment that children and successors get."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    os.environ.clear()
    os.environ.update(environment)
    os.umask(0o022)
    os.chdir("/")
    keep = {0, 1, 2, options.lock_fd, options.ready_fd, handed}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                pass  # the descriptor of the listing itself
    for fd in (options.lock_fd, options.ready_fd):
        if fd is not None:
            os.set_inheritable(fd, False)
    _raise_limit()
    return environment


def _raise_limit() -> None:
    """Of descriptors, to what may be had: a shell's 1024 are 200 commands. No machine inherits it:
    its own is in every plan.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    with contextlib.suppress(OSError, ValueError):  # fs.nr_open was lowered since
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _redirect(root: str) -> None:
    """Output and complaints of the daemon itself: commands have their callers' terminals."""
    from cove.engine.reactor import LOG_MAX

    path = f"{root}/run/daemon.log"
    if not os.path.isdir(f"{root}/run"):
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    log = os.open(path, flags, 0o600)
    if os.fstat(log).st_size > LOG_MAX:
        os.ftruncate(log, 0)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)


def main(argv: list[str]) -> int:
    try:
        options = parse(argv)
        supervisor = _supervisor()
    except CoveError as error:
        sys.stderr.write(error.render())
        return error.exit_code
    sys.setswitchinterval(SWITCH)
    environment = seal(options, supervisor.docker_fd if supervisor else None)
    if not options.foreground:
        _redirect(options.root)
    faulthandler.enable()
    bound_arenas()
    try:
        if supervisor is None:
            return serve(options, environment)
        return _supervised(options, environment, supervisor)
    except CoveError as error:
        _answer(options, error.render())
        sys.stderr.write(error.render())
        return LOCKED if isinstance(error, Conflict) else error.exit_code
    except OSError as error:
        failed = HostError(
            f"cannot start the daemon: {(error.strerror or str(error)).lower()}",
            host=str(error.filename or options.root),
        )
        _answer(options, failed.render())
        sys.stderr.write(failed.render())
        return failed.exit_code


def _supervisor() -> Supervisor | None:
    if not {"LISTEN_PID", "NOTIFY_SOCKET"} & os.environ.keys():
        return None
    from cove.daemon.supervised import supervisor_of

    found = supervisor_of(dict(os.environ), os.getpid())
    return found if found.there else None


def _supervised(options: Options, environment: dict[str, str], supervisor: Supervisor) -> int:
    from cove.client.spawn import CannotStart, take_place

    try:
        lock, turn = take_place(options.root)
    except CannotStart as error:
        sys.stderr.write(str(error))
        return 125

    def ready() -> None:
        os.close(turn)
        supervisor.say("READY=1")

    return serve(replace(options, lock_fd=lock), environment, supervisor.docker_fd, ready)


Ready = Callable[[], object]


def serve(
    options: Options, environment: dict[str, str], handed: int | None = None, ready: Ready = bool
) -> int:
    """Everything between taking the state directory and giving it back."""
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    # Before any thread is there: they inherit the mask, and only this one waits for signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    from cove.cli.main import main as command
    from cove.cli.main import root as command_tree
    from cove.client.api import Client
    from cove.client.transport import Direct
    from cove.daemon.front import Door
    from cove.daemon.later import Api
    from cove.daemon.sockets import listen
    from cove.engine.engine import Engine
    from cove.linux.program import build_stamp

    restart = (sys.executable, "-P", "-m", "cove.daemon", "--root", options.root)
    with Engine.open(
        options.root, restart=restart, environment=environment, lock_fd=options.lock_fd
    ) as engine:
        home = engine.home
        client = Client(Direct(engine))
        command_tree()
        stamp = build_stamp()
        _write(home.store.layout.daemon_version, stamp)
        # What may be refused comes first: a command that finds a front's socket expects a daemon.
        docker_path, docker, tls = _open_docker(home, handed)
        door = Door(
            listen(home.run_fd, "front.sock", socket.SOCK_SEQPACKET),
            engine,
            lambda words, terminal: command(words, terminal, client),
            stamp=stamp,
        )
        own = listen(home.run_fd, "api.sock", socket.SOCK_STREAM)
        api = Api(own, docker, engine)
        layout = home.store.layout
        _write(layout.daemon_pid, str(os.getpid()))
        sockets = (layout.front_socket, layout.api_socket, *docker_path)
        engine.on_shutdown = partial(_end_soon, home.reactor, sockets)
        gc.collect()
        gc.freeze()
        door.open()
        api.open()
        if tls is not None:
            tls.open()
        _answer(options, "\0")
        ready()
        asked = signal.sigwait(signals)
        if tls is not None:
            tls.close()  # the next daemon listens at the same address
        _hide(sockets)
        if asked == signal.SIGHUP:
            door.make_way(LAST)
        door.close()
        api.close()
    return 0


def _open_docker(
    home: Home, handed: int | None
) -> tuple[tuple[str, ...], socket.socket, TlsDoor | None]:
    """Where Docker's API is served, all of it, or nothing: the path that goes with this daemon, its
    socket, and TCP.
    """
    from cove.daemon.sockets import open_docker

    path, listener = open_docker(home.store.layout, home.run_fd, handed)
    paths = () if handed is not None else (path,)
    if not os.environ.get("COVE_DOCKER_TLS"):
        return paths, listener, None  # asyncio and ssl cost 100 ms
    try:
        from cove.daemon.tls import open_tls

        return paths, listener, open_tls(path)
    except BaseException:
        listener.close()
        raise


def _end_soon(reactor: Reactor, sockets: Sequence[str]) -> None:
    """Once the answer of the verb that asked for it is on its way. Whoever comes from now on finds
    no daemon, and starts the next one; whoever came before is still served.
    """
    _hide(sockets)
    reactor.after(0.05, _end_self)


def _hide(sockets: Sequence[str]) -> None:
    for path in sockets:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def _end_self() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{text}\n")


def _answer(options: Options, text: str) -> None:
    """To whoever started this daemon: a NUL when it listens, or why it does not."""
    if options.ready_fd is None:
        return
    try:
        if stat.S_ISFIFO(os.fstat(options.ready_fd).st_mode):
            os.write(options.ready_fd, text.encode("utf-8", "replace"))
        os.close(options.ready_fd)
    except OSError:
        pass  # the starter left: the daemon is there all the same
