"""ADD of a URL: the file as the server has it.

The daemon fetches it, in the host's network, for whoever wrote the Dockerfile: it goes to no place
that the registry code would not be led to.
"""

from __future__ import annotations

import email.utils
import errno
import hashlib
from dataclasses import dataclass

from cove.build.files.tars import Gone
from cove.build.source import Place, misfit
from cove.engine.builds.packs import room
from cove.image.pipeline import BYTES_MAX, system_error
from cove.linux.pump import write_all
from cove.oci import doubt
from cove.oci.endpoint import Endpoint
from cove.oci.web import Answer, Patience, Trouble, Web


@dataclass(frozen=True, slots=True)
class Got:
    digest: str
    size: int
    mtime_ns: int
    """What the server says of it; 0: nothing."""


def fetch(url: str, out: int, line: Place, gone: Gone, *, loopback: bool) -> Got:
    """Into the file ``out``. ``loopback``: servers on this host's own loopback, too."""
    parts = doubt.split(url)
    if parts is None:
        raise misfit(line, f"{url[:200]} is no web address")
    endpoint = Endpoint(parts.netloc.rpartition("@")[2], loopback=loopback)
    web = Web(endpoint, Patience(), notice=lambda why, seconds: gone())
    try:
        web.check_place(url, plain=True)
        answer = web.get(url, {}, foreign=True)
        if answer.status != 200:
            raise misfit(line, f"{url} is answered with {answer.status}")
        return _take(answer, out, line, gone)
    except Trouble as trouble:
        hint = ""
        if trouble.kind == "forbidden" and "own loopback" in trouble.text:
            hint = "allow it to the build: --network host"
        raise misfit(line, f"{url} cannot be fetched: {trouble.text[:200]}", hint=hint) from trouble
    finally:
        web.close()


def _take(answer: Answer, out: int, line: Place, gone: Gone) -> Got:
    whole, size = hashlib.sha256(), 0
    left = room(out)
    for data in answer.pieces():
        gone()
        whole.update(data)
        size += len(data)
        if size > BYTES_MAX:
            raise misfit(line, f"{answer.url} is larger than {BYTES_MAX >> 30} GiB")
        if size > left:
            raise system_error(answer.url, errno.ENOSPC, "")
        write_all(out, data)
    if answer.length is not None and size < answer.length:
        raise misfit(line, f"{answer.url} cannot be fetched: the connection was cut")
    return Got(whole.hexdigest(), size, _modified(answer.header("Last-Modified")))


def _modified(text: str) -> int:
    """A date that nobody can mean is none."""
    try:
        return int(email.utils.parsedate_to_datetime(text).timestamp()) * 1_000_000_000
    except (ValueError, TypeError, OverflowError, OSError):
        return 0
