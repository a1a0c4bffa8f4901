"""Contexts of builds that are on the web or in a git repository: fetched by who asks for the build,
to where he has typed.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from cove.build.contexts import GIT, WEB
from cove.build.files.tars import Gone
from cove.build.graph.sources import read_git
from cove.build.source import Place
from cove.client.building import HEAD, TEXT_MAX, Context, in_archive, is_archive, spool
from cove.client.packing import send_archive
from cove.client.spawn import DEFAULT_ROOT
from cove.engine.events import Cancel
from cove.errors import CoveError, HostError, UsageError, printable
from cove.git.fetching import GitStopped, GitTrouble, Repository, fetch_git, ssh_hint
from cove.git.settings import read_address
from cove.oci import doubt
from cove.oci.endpoint import Endpoint, is_loopback
from cove.oci.logins import redacted
from cove.oci.web import Answer, Patience, Trouble, Web
from cove.store.layout import Layout

GITHUB = "github.com/"
LOOPBACK = "this host's own loopback"


def full(text: str) -> str:
    """``github.com/a/b`` is a repository, as Docker has it."""
    if not text.startswith(GITHUB):
        return text
    path = re.split(r"[?#]", text, maxsplit=1)[0]
    return f"https://{path.removesuffix('.git')}.git{text[len(path) :]}"


Limited = Callable[[], AbstractContextManager[Sequence[str]]]
"""Makes a control group for git, for a while: where it is entered."""


def _unlimited() -> AbstractContextManager[Sequence[str]]:
    return nullcontext(())


@contextmanager
def from_remote(
    url: str,
    kind: str,
    file: str,
    cancelled: threading.Event,
    env: Mapping[str, str],
    *,
    limited: Limited = _unlimited,
) -> Iterator[Context]:
    """``file``: the Dockerfile's name in it."""
    with _fetched(url, kind, cancelled, env, limited) as fd:
        head = os.pread(fd, HEAD, 0)
        if kind == WEB and not is_archive(head):
            size = os.fstat(fd).st_size
            if size > TEXT_MAX:
                raise UsageError(
                    f"cannot read {url}: it is no archive, and over 16 MiB", origin=url
                )
            yield Context("Dockerfile", os.pread(fd, size, 0))
        else:
            yield in_archive(fd, file or "Dockerfile", _asks(cancelled), url)


@contextmanager
def named_remote(
    url: str, kind: str, typed: str, cancelled: threading.Event, env: Mapping[str, str]
) -> Iterator[Context]:
    """One with a name: its archive is sent file by file."""
    with _fetched(url, kind, cancelled, env) as fd:
        if not is_archive(os.pread(fd, HEAD, 0)):
            raise UsageError(
                f"cannot build with {url}: it is no archive", origin=typed, exit_code=1
            )
        context = Context("", b"")
        context.write = lambda out: send_archive(fd, url, out, _asks(cancelled))
        yield context


def _asks(cancelled: threading.Event) -> Gone:
    def gone() -> None:
        if cancelled.is_set():
            raise CoveError("interrupted", exit_code=130)

    return gone


@contextmanager
def _fetched(
    url: str,
    kind: str,
    cancelled: threading.Event,
    env: Mapping[str, str],
    limited: Limited = _unlimited,
) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        if kind == GIT:
            _clone(url, file.fileno(), cancelled, env, limited)
        else:
            _download(url, file.fileno(), cancelled, env)
        yield file.fileno()


def _clone(
    url: str, out: int, cancelled: threading.Event, env: Mapping[str, str], limited: Limited
) -> None:
    from cove.client.ssh import own_identity

    git = read_git(url, Place(url, 1, 1, ""))
    assert git is not None
    wanted = Repository(
        git.remote, git.ref, git.folder, git.keep_git_dir, git.checksum, git.submodules
    )
    place = _place(env)
    room = min(one.f_bavail * one.f_frsize for one in (os.fstatvfs(out), os.statvfs(place)))
    parts = doubt.split(git.remote)
    typed = parts is not None and is_loopback(parts.netloc.rpartition("@")[2])
    try:
        address = read_address(git.remote)
        over_ssh = address is not None and address.scheme == "ssh"
        # An agent that has gone matters to nobody else.
        identified = own_identity(env) if over_ssh else nullcontext()
        with identified as identity, limited() as entrances:
            fetch_git(
                wanted, out, cancelled.is_set, place=place, room=room, typed=typed, env=env,
                identity=identity, entrances=entrances,
            )  # fmt: skip
    except GitStopped:
        raise CoveError("interrupted", exit_code=130) from None
    except GitTrouble as trouble:
        raise HostError(
            f"cannot build {printable(redacted(url))}: {printable(str(trouble))}",
            origin=redacted(url),
            hint=_hint(str(trouble)) or ssh_hint(str(trouble), _AGENT),
            exit_code=1,
        ) from trouble


def _place(env: Mapping[str, str]) -> str:
    """Where a clone lies: in the state directory, if it is this host's and ours, because a daemon
    that starts sweeps that."""
    tmp = Layout(os.path.abspath(env.get("COVE_ROOT") or DEFAULT_ROOT)).tmp
    return tmp if not env.get("COVE_HOST") and os.access(tmp, os.W_OK) else tempfile.gettempdir()


def _download(url: str, out: int, cancelled: threading.Event, env: Mapping[str, str]) -> None:
    parts = doubt.split(url)
    if parts is None:
        raise UsageError(f"cannot build {printable(url)}: it is no web address", exit_code=1)
    host = parts.netloc.rpartition("@")[2]
    web = Web(Endpoint(host), Patience(), env=env)
    own = is_loopback(host)  # what was typed, and nothing that it leads to
    gone = _asks(cancelled)
    ended = cancelled.then(web.stop) if isinstance(cancelled, Cancel) else nullcontext()
    try:
        with ended:
            if not own:
                web.check_place(url, plain=True)
            answer = web.get(url, {}, foreign=not own)
            _take(answer, url, out, gone)
    except Trouble as trouble:
        gone()
        raise HostError(
            f"cannot build {printable(redacted(url))}: {printable(trouble.text[:200])}",
            origin=redacted(url),
            hint=_hint(trouble.text),
            exit_code=1,
        ) from trouble
    finally:
        web.close()


_AGENT = 'start one: eval "$(ssh-agent)"; ssh-add'


def _hint(why: str) -> str:
    """A name that leads here by somebody's DNS is no word of who asks for the build."""
    return "a server of this host's is named so: http://localhost/" if LOOPBACK in why else ""


def _take(answer: Answer, url: str, out: int, gone: Gone) -> None:
    if answer.status != 200:
        raise HostError(
            f"cannot build {printable(url)}: it is answered with {answer.status}",
            origin=url,
            exit_code=1,
        )
    spool(answer.pieces(), out, url, gone)
