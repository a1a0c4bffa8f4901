"""ADD of a URL: the file as the server has it.

The daemon fetches it, in the host's network, for whoever wrote the Dockerfile: it goes to no place
that the registry code would not be led to.
"""

from __future__ import annotations

import email.utils
import errno
import hashlib
import os
import threading
from concurrent.futures import Future
from dataclasses import dataclass

from cove.build.source import Place, misfit
from cove.engine.builds.packs import room
from cove.engine.events import Cancel, Cancelled
from cove.image.pipeline import BYTES_MAX, system_error
from cove.linux.pump import write_all
from cove.oci import doubt
from cove.oci.endpoint import Endpoint
from cove.oci.logins import redacted
from cove.oci.web import Answer, Patience, Trouble, Web


@dataclass(frozen=True, slots=True)
class Got:
    digest: str
    size: int
    mtime_ns: int
    """What the server says of it; 0: nothing."""


def fetch(url: str, out: int, line: Place, stopped: Cancel, *, loopback: bool) -> Got:
    """Into the file ``out``. ``loopback``: servers on this host's own loopback, too. Ended at once,
    whatever it waits for: to look a name up, and to connect, nobody can be stopped from outside, so
    a thread is left behind with that and a descriptor of its own.
    """
    over: Future[Got] = Future()
    fetching = _Fetching(url, line, loopback=loopback)
    own = os.dup(out)

    def work() -> None:
        try:
            over.set_result(fetching.fetch(own))
        except BaseException as error:
            over.set_exception(error)
        finally:
            os.close(own)

    woken = threading.Event()
    over.add_done_callback(lambda _: woken.set())
    threading.Thread(target=work, name="fetch", daemon=True).start()
    with stopped.then(woken.set):
        woken.wait()
    if not over.done():
        fetching.stop()
        raise Cancelled("interrupted")
    return over.result()


class _Fetching:
    """One URL."""

    def __init__(self, url: str, line: Place, *, loopback: bool) -> None:
        parts = doubt.split(url)
        if parts is None:
            raise misfit(line, f"{redacted(url)[:200]} is no web address")
        endpoint = Endpoint(parts.netloc.rpartition("@")[2], loopback=loopback)
        self.url, self.line, self.web = url, line, Web(endpoint, Patience())

    def stop(self) -> None:
        self.web.stop()

    def fetch(self, out: int) -> Got:
        web, url, line = self.web, self.url, self.line
        shown = redacted(url)
        try:
            web.check_place(url, plain=True)
            answer = web.get(url, {}, foreign=True)
            if answer.status != 200:
                raise misfit(line, f"{shown} is answered with {answer.status}")
            return _take(answer, out, line)
        except Trouble as trouble:
            hint = ""
            if trouble.kind == "forbidden" and "own loopback" in trouble.text:
                hint = "allow it to the build: --network host"
            raise misfit(
                line, f"{shown} cannot be fetched: {trouble.text[:200]}", hint=hint
            ) from trouble
        finally:
            web.close()


def _take(answer: Answer, out: int, line: Place) -> Got:
    whole, size = hashlib.sha256(), 0
    left, shown = room(out), redacted(answer.url)
    for data in answer.pieces():
        whole.update(data)
        size += len(data)
        if size > BYTES_MAX:
            raise misfit(line, f"{shown} is larger than {BYTES_MAX >> 30} GiB")
        if size > left:
            raise system_error(shown, errno.ENOSPC, "")
        write_all(out, data)
    if answer.length is not None and size < answer.length:
        raise misfit(line, f"{shown} cannot be fetched: the connection was cut")
    return Got(whole.hexdigest(), size, _modified(answer.header("Last-Modified")))


def _modified(text: str) -> int:
    """A date that nobody can mean is none."""
    try:
        return int(email.utils.parsedate_to_datetime(text).timestamp()) * 1_000_000_000
    except (ValueError, TypeError, OverflowError, OSError):
        return 0
