"""Programs in machines, as ``steps``: run to the end, or hold and talk to."""

from __future__ import annotations

import os
import select
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any

import msgspec

from cove.client.fetch import fetch, may_be_pulled
from cove.client.link import INPUT_CHUNK, Link
from cove.client.results import Chunk, Result
from cove.client.steps import Item, Ready, Steps, Work
from cove.client.talk import Daemon
from cove.engine import calls
from cove.errors import Failed, HostError, NoSuchImage, NotFound, UsageError, one_line
from cove.spec.machine import MachineSpec
from cove.spec.values import format_size, parse_duration, parse_size
from cove.store.records import Cause

Input = bytes | str | IO[bytes] | IO[str] | None
Path = str | os.PathLike[str]
Session = Callable[[], Steps[Link]]

MAX_OUTPUT = 64 << 20
"""Bytes of stdout and stderr together, unless ``max_output`` says otherwise."""
OUTPUTS: calls.Streams = ("stdout", "stderr")
ALL: calls.Streams = ("stdin", "stdout", "stderr")
KILLED = 137
PUT_DOWN = 10.0
"""Seconds that a killed program may take to end."""


def limit_of(most: int | str | None) -> int | None:
    """Bytes; None: no limit."""
    return parse_size(most) if isinstance(most, str) else most


def seconds_of(timeout: float | str | None) -> float | None:
    return parse_duration(timeout) if isinstance(timeout, str) else timeout


# ---- input ----


class Source:
    """The caller's input, a piece at a time."""

    def __init__(self, given: Input) -> None:
        self.fd = -1
        self._file: IO[Any] | None = None
        self._data = b""
        if isinstance(given, str):
            given = given.encode()
        if isinstance(given, bytes | bytearray | memoryview):
            self._data = bytes(given)
        elif given is not None:
            self._open(given)
        self.wanted = bool(self._data) or self._file is not None
        self.at = 0

    def _open(self, file: IO[Any]) -> None:
        """As subprocess: from where the descriptor stands, or by ``read`` where there is none."""
        if not hasattr(file, "read"):
            raise UsageError(
                f"cannot use stdin=: a {type(file).__name__} is neither bytes, text nor a file"
            )
        self._file = file
        try:
            self.fd = file.fileno()
        except (OSError, AttributeError):
            self.fd = -1

    @property
    def waits(self) -> bool:
        """It has to be waited for: a pipe, a socket, a terminal."""
        return self.fd >= 0 and not stat.S_ISREG(os.fstat(self.fd).st_mode)

    def take(self) -> bytes:
        """The next piece; empty: the end."""
        if self._file is None:
            piece = self._data[self.at : self.at + INPUT_CHUNK]
            self.at += len(piece)
            return piece
        if self.fd >= 0:
            return os.read(self.fd, INPUT_CHUNK)
        read = self._file.read(INPUT_CHUNK)
        return read.encode() if isinstance(read, str) else bytes(read or b"")


# ---- to the end ----


@dataclass(slots=True)
class Talk:
    """A program that is run to its end: what has come of it, and how much may."""

    link: Link
    begun: float
    most: int | None
    late: float | None = None
    """Monotonic; when the caller's patience ends."""
    patience: float = 0.0
    out: list[bytes] = field(default_factory=list)
    err: list[bytes] = field(default_factory=list)
    size: int = 0
    cut: Cause | None = None
    """Why this side ended it."""

    def collect(self) -> None:
        while self.link.output and self.cut is None:
            stream, data = self.link.output.popleft()
            self.size += len(data)
            if self.most is not None and self.size > self.most:
                data = data[: len(data) - (self.size - self.most)]
                text = f"output limit: it wrote more than {format_size(self.most)}"
                self.cut = Cause("output", text, 9, limit=self.most)
            (self.err if stream == 2 else self.out).append(data)

    def left(self) -> float | None:
        return None if self.late is None else self.late - time.monotonic()

    def converse(self, source: Source) -> Steps[Result]:
        """Feed it and hear it until it ends, or has to."""
        link = self.link
        feeding = source.wanted
        self.collect()
        while not link.over and self.cut is None:
            left = self.left()
            if left is not None and left <= 0:
                text = f"timeout: it ran longer than {self.patience:g} s"
                self.cut = Cause("timeout", text, 9)
            elif not feeding or link.busy:
                yield from link.hear(left, sending=True)
            elif not source.waits or (yield from self._either(source.fd)):
                feeding = self._feed(source)
            self.collect()
        if self.cut is not None:
            yield from put_down(link)
        elif link.failure is not None:
            raise link.failure
        return self.result()

    def _either(self, fd: int) -> Steps[bool]:
        """Wait for input of the caller's or news of the program; whether there is input."""
        events = select.POLLIN | (select.POLLOUT if self.link.sending else 0)
        ready = yield Ready({fd: select.POLLIN, self.link.fileno(): events}, self.left())
        self.link.take()
        return fd in ready and not self.link.over

    def _feed(self, source: Source) -> bool:
        piece = source.take()
        if piece:
            self.link.put(piece)
            return True
        self.link.put_end()
        return False

    def result(self) -> Result:
        took = time.monotonic() - self.begun
        code = KILLED if self.cut is not None else self.link.code or 0
        cause = self.cut or self.link.cause
        return Result(b"".join(self.out), b"".join(self.err), code, took, cause)


def put_down(link: Link) -> Steps[None]:
    """End a program that went too far; what it still says is dropped. Its name is free after."""
    late = time.monotonic() + PUT_DOWN
    link.signal(signal.SIGKILL)
    while not link.over and (left := late - time.monotonic()) > 0:
        link.output.clear()
        yield from link.hear(left, sending=True)
    link.close()


def run_to_end(
    session: Session,
    stdin: Source,
    most: int | None,
    *,
    patience: float | None = None,
) -> Steps[Result]:
    begun = time.monotonic()
    link = yield from session()
    try:
        late = None if patience is None else begun + patience
        talk = Talk(link, begun, most, late, patience or 0.0)
        return (yield from talk.converse(stdin))
    finally:
        link.close()


def checked(result: Result, check: bool, what: str) -> Result:
    if check and not result.ok:
        why = result.reason.text or f"exit code {result.exit_code}"
        said = result.error_text.strip().splitlines()
        error = Failed(f"cannot {what}: {why}", host=one_line(said[-1]) if said else "")
        error.result = result
        raise error
    return result


# ---- machines ----


def with_image(daemon: Daemon, spec: MachineSpec, pull: str, start: Session) -> Steps[Link]:
    """A session of a new machine; its image is pulled first, as ``pull`` says."""
    if pull not in ("missing", "always", "never"):
        raise UsageError(f'cannot read pull="{pull}": it is missing, always or never')
    if pull == "always" and may_be_pulled(spec.image):
        yield from fetch(daemon, spec.image, spec.platform)
    link = yield from start()
    if isinstance(link.failure, NoSuchImage) and pull == "missing" and may_be_pulled(spec.image):
        link.close()
        yield from fetch(daemon, spec.image, spec.platform)
        link = yield from start()
    return link


def begin(
    daemon: Daemon, spec: MachineSpec, pull: str, streams: calls.Streams, *, tell: bool = False
) -> Steps[Link]:
    """A machine that ends with its link."""
    params = calls.Run(spec, attach=streams, sig_proxy=False, bound=True)

    def start() -> Steps[Link]:
        try:
            return (yield from daemon.session("machine.run", params, tell=tell))
        except NoSuchImage as error:  # over HTTP it comes before there is a link
            if pull != "missing" or not may_be_pulled(spec.image):
                raise
            yield from fetch(daemon, spec.image, spec.platform)
            del error
        return (yield from daemon.session("machine.run", params, tell=tell))

    return (yield from with_image(daemon, spec, pull, start))


def hold(daemon: Daemon, spec: MachineSpec, pull: str) -> Steps[tuple[Link, calls.Created]]:
    """A machine that runs while its link is held, once it does."""
    name = spec.name or f"py-{os.urandom(6).hex()}"
    if daemon.http is not None:
        spec = msgspec.structs.replace(spec, name=name)
    link = yield from begin(daemon, spec, pull, ("stdin",), tell=True)
    try:
        while link.failure is None and not (link.started and (link.result or daemon.http)):
            if link.gone:
                raise HostError("cannot know of the machine: the daemon ended before it told")
            yield from link.hear()
        if link.failure is not None:
            raise link.failure
        created = link.result
        if created is None:  # over HTTP nobody tells it
            try:
                found = yield from daemon.call("machine.inspect", calls.Inspect(name))
                created = calls.Created(found.record.id, name)
            except NotFound:
                created = calls.Created(name, name)  # it has ended, and is gone
        return link, created
    except BaseException:
        link.close()
        raise


def detached(daemon: Daemon, spec: MachineSpec, pull: str) -> Steps[calls.Created]:
    """A machine that outlives its caller."""
    if pull == "always" and may_be_pulled(spec.image):
        yield from fetch(daemon, spec.image, spec.platform)
    try:
        created: calls.Created = yield from daemon.call("machine.run", calls.Run(spec))
    except NoSuchImage:
        if pull != "missing" or not may_be_pulled(spec.image):
            raise
        yield from fetch(daemon, spec.image, spec.platform)
        created = yield from daemon.call("machine.run", calls.Run(spec))
    return created


def end(daemon: Daemon, link: Link | None, machine: str) -> Steps[None]:
    """Kill and remove a machine; one that is gone is what was wanted."""
    if link is not None:
        link.close()
    try:
        yield from daemon.call("machine.remove", calls.Remove(machine, force=True, volumes=True))
    except NotFound:
        return


def until_end(link: Link, begun: float) -> Steps[Result]:
    while not link.over:
        yield from link.hear()
    took = time.monotonic() - begun
    return Result(b"", b"", link.code or 0, took, link.cause)


# ---- held programs ----


def chunks(link: Link) -> Steps[None]:
    """Output as it comes, to the end."""
    while True:
        while link.output:
            stream, data = link.output.popleft()
            yield Item(Chunk("stderr" if stream == 2 else "stdout", data))
        if link.over:
            break
        yield from link.hear(sending=True)
    if link.failure is not None:
        raise link.failure


def finished(link: Link, begun: float, most: int | None, timeout: float | None) -> Steps[Result]:
    """The rest of the output, and the end. A caller whose patience ends may ask again."""
    late = None if timeout is None else time.monotonic() + timeout
    talk = Talk(link, begun, most)
    talk.collect()
    while not link.over and talk.cut is None:
        left = None if late is None else late - time.monotonic()
        if left is not None and left <= 0:
            for data in reversed(talk.out):
                link.output.appendleft((1, data))
            for data in reversed(talk.err):
                link.output.appendleft((2, data))
            raise TimeoutError(f"the program still runs after {timeout:g} s")
        yield from link.hear(left, sending=True)
        talk.collect()
    if talk.cut is not None:
        yield from put_down(link)
    elif link.failure is not None:
        raise link.failure
    return talk.result()


def exec_session(daemon: Daemon, params: msgspec.Struct) -> Steps[Link]:
    return (yield from daemon.session("machine.exec", params))


def stream(daemon: Daemon, params: msgspec.Struct) -> Steps[None]:
    """One more program, and its output as it comes."""
    link = yield from exec_session(daemon, params)
    try:
        yield from chunks(link)
    finally:
        link.close()


# ---- machines from afar ----


def watch(daemon: Daemon, machine: str) -> Steps[None]:
    """Readings, one a second."""
    steps = daemon.stream("machine.stats", calls.StatsRequest((machine,)))
    try:
        want = next(steps)
        while True:
            wants = [Item(s) for s in want.value.stats] if isinstance(want, Item) else [want]
            answer = None
            for pause in wants:
                answer = yield pause
            want = steps.send(answer)
    except StopIteration:
        return
    finally:
        steps.close()


def reading(daemon: Daemon, machine: str) -> Steps[calls.Stats]:
    """One."""
    found: list[calls.Stats] = []
    steps = daemon.stream("machine.stats", calls.StatsRequest((machine,), stream=False))
    try:
        want = next(steps)
        while True:
            if isinstance(want, Item):
                found += want.value.stats
                want = steps.send(None)
            else:
                want = steps.send((yield want))
    except StopIteration:
        pass
    finally:
        steps.close()
    if not found:
        raise NotFound(f"cannot read the stats of {machine}: it is gone")
    return found[0]


def wait_for(daemon: Daemon, machine: str) -> Steps[Result]:
    begun = time.monotonic()
    ended: calls.Waited = yield from daemon.call("machine.wait", calls.Wait(machine))
    return Result(b"", b"", ended.exit_code, time.monotonic() - begun, ended.cause)


def put(daemon: Daemon, machine: str, source: Path | bytes, target: Path) -> Steps[None]:
    from cove.client import transfer  # tarfile and subprocess: 30 ms that a run does without

    yield Work(partial(transfer.put, daemon, machine, source, target))


def get(daemon: Daemon, machine: str, source: Path, target: Path | None, most: int) -> Steps[bytes]:
    from cove.client import transfer

    data: bytes = yield Work(partial(transfer.get, daemon, machine, source, target, most))
    return data


# ---- files ----


@contextmanager
def opened(archive: str | os.PathLike[str] | IO[bytes]) -> Iterator[int]:
    """A descriptor of a path (``/.``: a directory), or of an open file."""
    if not isinstance(archive, str | os.PathLike):
        yield archive.fileno()
        return
    try:
        fd = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"cannot read {shown(archive)}: {reason}") from error
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def made(archive: Path | IO[bytes]) -> Iterator[int]:
    """A descriptor of an open file, or of a new one, which has its name once it is whole."""
    if not isinstance(archive, str | os.PathLike):
        yield archive.fileno()
        return
    path = os.fspath(archive)
    beside = f"{path}.{os.getpid()}-{threading.get_ident()}"
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"cannot write {shown(archive)}: {reason}") from error
    try:
        yield fd
        os.rename(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    finally:
        os.close(fd)


def shown(archive: object) -> str:
    if isinstance(archive, str | os.PathLike):
        return os.fsdecode(archive)
    return str(getattr(archive, "name", "the archive"))
