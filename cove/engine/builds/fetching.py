"""ADD of a URL: the file as the server has it."""

from __future__ import annotations

import email.utils
import hashlib
import os
from dataclasses import dataclass

from cove.build.source import Place, misfit
from cove.engine.builds.packs import Gone
from cove.image.pipeline import BYTES_MAX

TIMEOUT = 30.0
REDIRECTS = 5
PIECE = 1 << 18


@dataclass(frozen=True, slots=True)
class Got:
    digest: str
    size: int
    mtime_ns: int
    """What the server says of it; 0: nothing."""


def fetch(url: str, out: int, line: Place, gone: Gone) -> Got:
    """Into the file ``out``. The build stands or falls with it: nothing is tried twice for long."""
    import urllib3

    whole, size = hashlib.sha256(), 0
    retries = urllib3.Retry(total=REDIRECTS, redirect=REDIRECTS, connect=2, read=1)
    with urllib3.PoolManager(timeout=TIMEOUT, retries=retries) as pool:
        try:
            headers = {"User-Agent": "cove", "Accept-Encoding": "identity"}
            answer = pool.request("GET", url, preload_content=False, headers=headers)
            if answer.status != 200:
                raise misfit(line, f"{url} is answered with {answer.status}")
            while data := answer.read1(PIECE, decode_content=False):
                gone()
                whole.update(data)
                size += len(data)
                if size > BYTES_MAX:
                    raise misfit(line, f"{url} is larger than {BYTES_MAX >> 30} GiB")
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(out, rest) :]
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise misfit(line, f"{url} cannot be fetched: {str(reason)[:200]}") from error
        return Got(whole.hexdigest(), size, _modified(answer.headers.get("Last-Modified")))


def _modified(text: str | None) -> int:
    try:
        found = email.utils.parsedate_to_datetime(text or "")
    except ValueError:
        return 0
    return int(found.timestamp()) * 1_000_000_000
