"""The Python API: machines, programs in them, images. ``cove`` gives these names out.

``client/aio.py`` is this file for asyncio, written by ``tools/aio.py``: every method that waits is
a line of ``finish`` or ``each`` over the same conversations. Change it here, then ``make docs``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import IO, Any, Self, Unpack

from cove.client import runs
from cove.client.fetch import fetch, last_step
from cove.client.link import Link
from cove.client.networks import Networks
from cove.client.options import Options, Size, Words, exec_spec, machine_spec
from cove.client.results import Chunk, Result
from cove.client.runs import MAX_OUTPUT, Input, Path, Source
from cove.client.steps import each, finish
from cove.client.talk import Daemon
from cove.client.volumes import Volumes
from cove.engine import calls
from cove.engine.calls import snapshots
from cove.spec.values import parse_signal

Argv = Sequence[str | bytes | os.PathLike[str]] | None
"""The words of a command; None: the image's own. No shell reads them."""
Progress = Callable[[calls.Progress], object]


class Process:
    """A program that runs: iterate over it for its output, ``write`` for its input.

    It ends with the ``with`` block, with ``close``, and with the process that started it. One
    reader at a time; another thread or task may write meanwhile.
    """

    def __init__(self, link: Link, begun: float, most: int | None) -> None:
        self._link, self._begun, self._most = link, begun, most

    def __iter__(self) -> Iterator[Chunk]:
        """Output as it comes, to its end. Without a limit: nothing is kept."""
        return each(runs.chunks(self._link))

    def write(self, data: bytes | str) -> None:
        """To its standard input; waits while it does not read. What comes after its end is lost."""
        self._link.put(data.encode() if isinstance(data, str) else data)
        finish(self._link.drained())

    def close_stdin(self) -> None:
        """The end of its input."""
        self._link.put_end()
        finish(self._link.drained())

    def send_signal(self, signal: int | str) -> None:
        """``TERM``, ``SIGTERM`` or 15. A program that is process 1 ignores what it has no handler
        for."""
        self._link.signal(parse_signal(str(signal)))

    def kill(self) -> None:
        """SIGKILL."""
        self._link.signal(9)

    def wait(self, timeout: float | None = None) -> Result:
        """Its end, with the output that nobody has read. TimeoutError after ``timeout`` seconds;
        it runs on then, and nothing of the output is lost."""
        return finish(runs.finished(self._link, self._begun, self._most, timeout))

    def close(self) -> None:
        """Kill it if it runs. Again: nothing."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._link.close()


class Machine:
    """A machine that exists. Of ``machine()``: it is removed at the end of the ``with`` block, and
    when the process that made it dies."""

    def __init__(
        self, daemon: Daemon, id: str, name: str, link: Link | None = None, begun: float = 0.0
    ) -> None:
        self._daemon, self._link, self._begun = daemon, link, begun
        self._owner, self._gone = os.getpid(), False
        self.id = id
        """64 hexadecimal digits."""
        self.name = name

    def _leave(self) -> bool:
        """Let go of it; whether it is this process's to end."""
        if self._link is not None:
            self._link.close()
        gone, self._gone = self._gone or os.getpid() != self._owner, True
        return not gone

    def __repr__(self) -> str:
        return f"<Machine {self.name} {self.id[:12]}>"

    # ---- programs ----

    def exec(
        self,
        argv: Argv,
        *,
        stdin: Input = b"",
        env: Words | None = None,
        workdir: str = "",
        user: str | int = "",
        timeout: float | str | None = None,
        max_output: Size | None = MAX_OUTPUT,
        check: bool = False,
    ) -> Result:
        """One more program in it, to its end. Under the machine's limits; what it started and
        left behind goes on. Its ``reason`` is ``exit``, ``timeout`` or ``output``: why the kernel
        killed one program of many is not known. Conflict: the machine does not run."""
        given = {"env": env, "workdir": workdir or None, "user": user or None}
        source = Source(stdin)
        params = calls.Exec(
            self.id,
            exec_spec(argv, given, stdin=source.wanted),
            attach=runs.ALL if source.wanted else runs.OUTPUTS,
            bound=True,
        )
        session = partial(self._daemon.session, "machine.exec", params)
        most, patience = runs.limit_of(max_output), runs.seconds_of(timeout)
        result = finish(runs.run_to_end(session, source, most, patience=patience))
        return runs.checked(result, check, f"exec {params.spec.command[0]} in {self.name}")

    def popen(
        self,
        argv: Argv,
        *,
        stdin: bool = False,
        env: Words | None = None,
        workdir: str = "",
        user: str | int = "",
        max_output: Size | None = MAX_OUTPUT,
    ) -> Process:
        """One more program in it, to talk to. ``stdin``: it has an input, to which is written.
        ``max_output``: of what ``wait`` keeps."""
        given = {"env": env, "workdir": workdir or None, "user": user or None}
        streams = runs.ALL if stdin else runs.OUTPUTS
        spec = exec_spec(argv, given, stdin=stdin)
        params = calls.Exec(self.id, spec, attach=streams, bound=True)
        begun = time.monotonic()
        link = finish(runs.exec_session(self._daemon, params))
        return Process(link, begun, runs.limit_of(max_output))

    def exec_stream(self, argv: Argv, **options: Any) -> Iterator[Chunk]:
        """The output of one more program as it comes; leaving the loop kills it. Takes what
        ``popen`` takes but ``stdin``."""
        given = {name: options.pop(name, None) for name in ("env", "workdir", "user")}
        spec = exec_spec(argv, given | options, stdin=False)
        params = calls.Exec(self.id, spec, attach=runs.OUTPUTS, bound=True)
        return each(runs.stream(self._daemon, params))

    # ---- looking ----

    def logs(
        self, *, follow: bool = False, tail: int = -1, since: float = 0.0, until: float = 0.0
    ) -> Iterator[calls.LogEntry]:
        """What its main program wrote, as pieces with time, stream (1 or 2) and bytes. ``follow``:
        until it ends. ``tail``: only so many last lines. ``since``, ``until``: Unix seconds."""
        params = calls.Logs(self.id, follow=follow, tail=tail, since=since, until=until)
        return each(self._daemon.stream("machine.logs", params))

    def inspect(self) -> calls.Inspected:
        """Everything known of it; ``record`` has spec, state, times and cause."""
        found: calls.Inspected = finish(
            self._daemon.call("machine.inspect", calls.Inspect(self.id))
        )
        return found

    def stats(self) -> calls.Stats:
        """One reading: CPU in nanoseconds, memory and disks in bytes, processes."""
        return finish(runs.reading(self._daemon, self.id))

    def watch(self) -> Iterator[calls.Stats]:
        """A reading a second, until the machine is gone or the loop is left."""
        return each(runs.watch(self._daemon, self.id))

    def top(self, *options: str) -> calls.Processes:
        """Its processes, as ps (with these options) shows them."""
        found: calls.Processes = finish(
            self._daemon.call("machine.top", calls.Top(self.id, options))
        )
        return found

    # ---- files ----

    def put(self, source: Path | bytes, target: Path) -> None:
        """Copy a file or a directory of this host into it, by the rules of ``cove cp``; bytes are
        written to the file ``target``, with mode 644 and its root as owner."""
        finish(runs.put(self._daemon, self.id, source, target))

    def get(
        self, source: Path, target: Path | None = None, *, max_size: Size = MAX_OUTPUT
    ) -> bytes:
        """Copy a file or a directory of it to ``target`` here. Without one: the bytes of the file,
        of at most ``max_size``."""
        most = runs.limit_of(max_size) or MAX_OUTPUT
        return finish(runs.get(self._daemon, self.id, source, target, most))

    # ---- its life ----

    def wait(self) -> Result:
        """Its end: exit code and reason. No output: see ``logs``."""
        if self._link is not None:
            return finish(runs.until_end(self._link, self._begun))
        return finish(runs.wait_for(self._daemon, self.id))

    def stop(self, timeout: int | None = None, *, signal: int | str = "") -> None:
        """Its stop signal, and SIGKILL after ``timeout`` seconds (None: the machine's own)."""
        finish(self._daemon.call("machine.stop", calls.Stop(self.id, timeout, str(signal))))

    def kill(self, signal: int | str = "KILL") -> None:
        """A signal to its main program. Conflict: it does not run."""
        finish(self._daemon.call("machine.kill", calls.Kill(self.id, str(signal))))

    def start(self) -> None:
        """Once more, if it does not run."""
        finish(self._daemon.call("machine.start", calls.Start(self.id)))

    def restart(self, timeout: int | None = None) -> None:
        """Stop it as ``stop`` does, and start it again."""
        finish(self._daemon.call("machine.restart", calls.Restart(self.id, timeout)))

    def pause(self) -> None:
        """Freeze all its processes."""
        finish(self._daemon.call("machine.pause", calls.Pause(self.id)))

    def unpause(self) -> None:
        """Let them run on."""
        finish(self._daemon.call("machine.unpause", calls.Unpause(self.id)))

    def rename(self, name: str) -> None:
        """Another name. Conflict: it is taken."""
        finish(self._daemon.call("machine.rename", calls.Rename(self.id, name)))
        self.name = name

    # ---- what it was ----

    def snapshot(self, name: str = "", *, pause: bool = True) -> str:
        """Keep what its files are, of a virtual machine that runs its memory too: the snapshot's
        name. ``pause``: it stands still meanwhile."""
        params = snapshots.SnapshotCreate(self.id, name, pause)
        made: snapshots.SnapshotNamed = finish(self._daemon.call("snapshot.create", params))
        return made.name

    def restore(self, snapshot: str = "") -> None:
        """Back to a snapshot, its latest unless named. If it runs, its command begins anew, or goes
        on as it was where memory was kept."""
        finish(self._daemon.call("machine.restore", snapshots.Restore(self.id, snapshot)))

    def fork(self, count: int = 1, *, name: str = "") -> list[Machine]:
        """Running machines that begin with the files it has now, those of a virtual machine that
        runs with its memory. They outlive this process, as by ``start``, and are closed by whoever
        asked for them."""
        params = snapshots.Fork(self.id, count, name)
        forked: snapshots.Forked = finish(self._daemon.call("machine.fork", params))
        return [Machine(self._daemon, made.id, made.name) for made in forked.machines]

    def remove(self, *, force: bool = False) -> None:
        """Remove it; ``force``: kill it first. Conflict: it runs. NotFound: it is gone."""
        finish(self._daemon.call("machine.remove", calls.Remove(self.id, force, volumes=True)))
        self._leave()

    def close(self) -> None:
        """Kill and remove it, whatever it does. Again, or in a fork: nothing."""
        if self._leave():
            finish(runs.end(self._daemon, self._link, self.id))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._leave():
            finish(runs.end(self._daemon, self._link, self.id))


class Opening:
    """What ``machine()`` gives to ``with``: the machine is made when the block begins."""

    def __init__(self, open: Callable[[], Any], daemon: Daemon) -> None:
        self._open, self._daemon = open, daemon
        self._machine: Machine | None = None

    def __enter__(self) -> Machine:
        begun = time.monotonic()
        link, created = finish(self._open())
        self._machine = Machine(self._daemon, created.id, created.name, link, begun)
        return self._machine

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        machine = self._machine
        if machine is None:
            return
        if machine._leave():
            finish(runs.end(self._daemon, machine._link, machine.id))


class Images:
    """Images of a daemon; ``cove.images`` are those of the default one."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def list(self) -> tuple[calls.Image, ...]:
        """Newest first."""
        found: calls.Images = finish(self._daemon.call("image.list", calls.ImageList()))
        return found.images

    def get(self, image: str) -> calls.Image:
        """By name, id, or the beginning of an id. NoSuchImage: it is not here."""
        found: calls.Image = finish(self._daemon.call("image.inspect", calls.ImageInspect(image)))
        return found

    def pull(
        self, image: str, *, platform: str = "", progress: Progress | None = None
    ) -> calls.Progress:
        """From its registry, with the login that Docker's configuration has: the last step, with
        id, names and digest. ``progress`` is called with every step."""
        return finish(fetch(self._daemon, image, platform, progress))

    def load(
        self, archive: Path | IO[bytes], *, progress: Progress | None = None
    ) -> calls.Progress:
        """A docker-archive, OCI archive or OCI layout: the last step, with id and names."""
        with runs.opened(archive) as fd:
            steps = self._daemon.stream("image.load", calls.ImageLoad(runs.shown(archive)), fd)
            return finish(last_step(steps, runs.shown(archive), progress))

    def import_tar(
        self, archive: Path | IO[bytes], name: str = "", *, changes: Sequence[str] = ()
    ) -> calls.Progress:
        """A root file system as a tar, plain or compressed; ``changes``: ``CMD ["sh"]``."""
        params = calls.ImageImport(name, changes=tuple(changes), origin=runs.shown(archive))
        with runs.opened(archive) as fd:
            steps = self._daemon.stream("image.import", params, fd)
            return finish(last_step(steps, runs.shown(archive)))

    def bootstrap(
        self,
        distribution: str,
        *,
        include: Sequence[str] = (),
        tag: str = "",
        progress: Progress | None = None,
    ) -> calls.Progress:
        """``debian:bookworm`` from its packages."""
        params = calls.ImageBootstrap(distribution, include=tuple(include), tag=tag)
        steps = self._daemon.stream("image.bootstrap", params)
        return finish(last_step(steps, distribution, progress))

    def tag(self, image: str, name: str) -> None:
        """One more name."""
        finish(self._daemon.call("image.tag", calls.ImageTag(image, name)))

    def remove(self, image: str, *, force: bool = False) -> calls.ImageRemoved:
        """Conflict: a machine is made from it, or it has several names."""
        found: calls.ImageRemoved = finish(
            self._daemon.call("image.remove", calls.ImageRemove(image, force))
        )
        return found


class Client:
    """A daemon. Threads may share it; nothing is held between calls, and nothing to be closed."""

    def __init__(self, root: str = "", host: str = "") -> None:
        """``root``: its state directory; ``host``: ``unix://`` and its API's socket. Neither: as
        ``cove`` finds it, by COVE_ROOT and COVE_HOST. No daemon there: it is started."""
        self._daemon = Daemon.at(root, host)
        self.images = Images(self._daemon)
        self.networks = Networks(self._daemon)
        self.volumes = Volumes(self._daemon)

    # ---- programs in machines of their own ----

    def run(
        self,
        image: str,
        argv: Argv = None,
        *,
        stdin: Input = b"",
        check: bool = False,
        max_output: Size | None = MAX_OUTPUT,
        pull: str = "missing",
        **options: Unpack[Options],
    ) -> Result:
        """A program in a new machine, to its end; then the machine is gone.

        ``stdin``: bytes, text, or an open file. ``max_output``: bytes of stdout and stderr
        together, 64 MiB unless said; more ends the machine with the reason ``output`` (None: any).
        ``check``: Failed if the exit code is not 0. ``pull``: ``missing``, ``always``, ``never``.
        ``options``: see Options.

        NoSuchImage: no such image here nor in a registry. UsageError: an option is wrong.
        OpError, NotFound: the program could not be started (126, 127). HostError: no daemon.
        """
        source = Source(stdin)
        spec = machine_spec(image, argv, options, stdin=source.wanted)
        streams = runs.ALL if source.wanted else runs.OUTPUTS
        session = partial(runs.begin, self._daemon, spec, pull, streams)
        result = finish(runs.run_to_end(session, source, runs.limit_of(max_output)))
        return runs.checked(result, check, f"run {' '.join(spec.command) or image}")

    def popen(
        self,
        image: str,
        argv: Argv = None,
        *,
        stdin: bool = False,
        max_output: Size | None = MAX_OUTPUT,
        pull: str = "missing",
        **options: Unpack[Options],
    ) -> Process:
        """A program in a new machine, to talk to. ``stdin``: it has an input, to which is written.
        ``max_output``: of what ``wait`` keeps."""
        spec = machine_spec(image, argv, options, stdin=stdin)
        begun = time.monotonic()
        streams = runs.ALL if stdin else runs.OUTPUTS
        link = finish(runs.begin(self._daemon, spec, pull, streams))
        return Process(link, begun, runs.limit_of(max_output))

    # ---- machines ----

    def machine(
        self,
        image: str,
        argv: Argv = None,
        *,
        pull: str = "missing",
        **options: Unpack[Options],
    ) -> Opening:
        """For ``with``: a machine that is there during the block. ``argv`` None: the image's own
        command, whose input stays open, so that a shell waits."""
        spec = machine_spec(image, argv, options, stdin=True)
        return Opening(partial(runs.hold, self._daemon, spec, pull), self._daemon)

    def start(
        self,
        image: str,
        argv: Argv = None,
        *,
        pull: str = "missing",
        remove: bool = False,
        **options: Unpack[Options],
    ) -> Machine:
        """A machine that outlives this process, as by ``cove run -d``. ``remove``: it is gone once
        it has ended."""
        spec = machine_spec(image, argv, options, remove=remove)
        created = finish(runs.detached(self._daemon, spec, pull))
        return Machine(self._daemon, created.id, created.name)

    def machines(self, *, all: bool = False) -> list[Machine]:
        """Those that run, newest first; ``all``: those that do not, too."""
        listed = finish(self._daemon.call("machine.list", calls.List(all=all)))
        return [Machine(self._daemon, record.id, record.name) for record in listed.machines]

    def get(self, name: str) -> Machine:
        """By name, id, or the beginning of an id. NotFound: there is none."""
        found = finish(self._daemon.call("machine.inspect", calls.Inspect(name)))
        return Machine(self._daemon, found.record.id, found.record.name)

    # ---- the daemon ----

    def events(
        self,
        *,
        since: float = 0.0,
        until: float = 0.0,
        filters: dict[str, Sequence[str]] | None = None,
    ) -> Iterator[calls.Event]:
        """What happens to machines and images, until the loop is left. ``since``, ``until``: Unix
        seconds. ``filters``: ``{"event": ["die"], "container": ["name"]}``, as ``cove events``."""
        wanted = {name: tuple(values) for name, values in (filters or {}).items()}
        params = calls.Events(int(since * 1e9), int(until * 1e9), wanted)
        return each(self._daemon.stream("system.events", params))

    def info(self) -> calls.Info:
        """The daemon, this host and what it can do."""
        found: calls.Info = finish(self._daemon.call("system.info", calls.Nothing()))
        return found

    def version(self) -> calls.Version:
        """Of the daemon, and of what it runs on."""
        found: calls.Version = finish(self._daemon.call("system.version", calls.Nothing()))
        return found


def connect(root: str = "", host: str = "") -> Client:
    """Another daemon than the default one: by its state directory, or by ``unix:///path`` of its
    API's socket."""
    return Client(root, host)


_clients: dict[tuple[str, str], Client] = {}


def default() -> Client:
    """The daemon that the command ``cove`` would speak to, now."""
    key = (os.environ.get("COVE_ROOT", ""), os.environ.get("COVE_HOST", ""))
    found = _clients.get(key)
    if found is None:
        found = _clients[key] = Client()
    return found
