"""The distribution protocol's other half: blobs and manifests into one repository of a registry.

A blob goes in one request, as Docker sends it: a registry writes each request through to its disk
before it answers. Where one is cut off the registry is asked how much it has, and the rest is sent
in chunks. Nothing is believed but what the registry says in the end: the digest of what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from cove.oci import doubt
from cove.oci.digest import digest_of
from cove.oci.manifest import Descriptor
from cove.oci.registry import Registry
from cove.oci.web import SENT, Answer, Body, Trouble

WHOLE = 256 << 20
"""Bytes of a blob in one request, which are on a disk before it is answered ..."""
CHUNK = 8 << 20
"""... and once one was cut off: there are registries that keep nothing of such a request."""
OCTETS = {"Content-Type": "application/octet-stream"}

Pieces = Callable[[int, int], bytes]
"""At most so many bytes of a blob, from an offset on."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Of a blob, as the body of a request: it may be asked for again. Nothing of it is called as
    something of a file: urllib3 would take it for one.
    """

    pieces: Pieces
    begin: int
    size: int
    sent: Callable[[int], None]

    def __iter__(self) -> Iterator[bytes]:
        at, end = self.begin, self.begin + self.size
        while at < end:
            data = self.pieces(at, min(SENT, end - at))
            if not data:
                raise Trouble("broken", "", f"it ends at byte {at} here")
            yield data
            at += len(data)
            self.sent(at)


class Upload(Registry):
    """A repository that is written to; threads share it."""

    actions = "pull,push"

    def also_pull(self, path: str) -> None:
        """A token is to cover another repository, too, from which blobs are mounted."""
        scope = f"repository:{path}:pull"
        with self._lock:
            if scope not in self.scopes:
                self.scopes = (*self.scopes, scope)
                self._until = 0.0

    def has(self, digest: str) -> int | None:
        """The length of a blob that is there; -1: it does not say."""
        answer = self._ask(f"blobs/{digest}", {}, method="HEAD")
        answer.finish()
        if answer.status == 404:
            return None
        if answer.status != 200:
            self._refused(answer, f"layer {digest}")
        return -1 if answer.length is None else answer.length

    def mount(self, digest: str, source: str) -> bool:
        """Whether the registry takes the blob from another of its repositories."""
        query = urlencode({"mount": digest, "from": source})
        answer = self._ask(f"blobs/uploads/?{query}", {}, method="POST", body=b"")
        answer.finish()
        if answer.status == 202:  # an upload has begun instead: not wanted
            self._drop(answer)
        return answer.status == 201

    def send_blob(
        self, digest: str, size: int, pieces: Pieces, tell: Callable[[int], None]
    ) -> None:
        """Send a blob; ``tell`` is called with how much of it is there."""
        attempt, at, place, most, sure = 0, 0, "", WHOLE, True
        while True:
            try:
                if not sure:
                    place, at = self._where(place)
                if not place:
                    place, at = self._begin(digest), 0
                sure = True
                while at < size:
                    part = _Part(pieces, at, min(most, size - at), tell)
                    place, now = self._send(place, digest, part)
                    if not at < now <= at + part.size:
                        raise Trouble("broken", self.endpoint.host, f"it says that it has {now}")
                    at, attempt = now, 0
                self._end(place, digest)
                return
            except Trouble as trouble:
                attempt, most = attempt + 1, CHUNK
                again = trouble.kind == "lost" or self._web.may_pass(trouble)
                if not again or attempt >= self._web.patience.attempts:
                    self._failed(trouble, Descriptor(digest, size), at)
                try:
                    self._web.pause(attempt, trouble.text)
                except Trouble as stopped:
                    self._failed(stopped)
                place, sure = "" if trouble.kind == "lost" else place, False

    def manifest(self, name: str, kind: str, data: bytes) -> str:
        """Put a manifest or index under a tag or digest; its digest."""
        digest = digest_of(data)
        answer = self._ask(f"manifests/{name}", {"Content-Type": kind}, method="PUT", body=data)
        if answer.status != 201:
            self._refused(answer, f"manifest {name}")
        said = answer.header("Docker-Content-Digest")
        answer.finish()
        if said and said != digest:
            raise self._wrong(f"manifest {name}", f"it is kept as {said}, not {digest}")
        return digest

    # ---- one upload ----

    def _begin(self, digest: str) -> str:
        answer = self._ask(
            "blobs/uploads/", {"Content-Length": "0"}, method="POST", body=b"", translate=False
        )
        if answer.status != 202:
            self._refused(answer, f"layer {digest}")
        answer.finish()
        return self._place(answer)

    def _send(self, place: str, digest: str, part: _Part) -> tuple[str, int]:
        end = part.begin + part.size
        headers = {"Content-Range": f"{part.begin}-{end - 1}", "Content-Length": str(part.size)}
        answer = self._to(place, headers | OCTETS, method="PATCH", body=part)
        if answer.status in (404, 416):
            answer.finish()
            raise self._lost()
        if answer.status not in (202, 204):
            self._refused(answer, f"layer {digest}")
        answer.finish()
        has = _range_end(answer)
        return self._place(answer), end if has is None else has

    def _end(self, place: str, digest: str) -> None:
        joint = "&" if urlsplit(place).query else "?"
        answer = self._to(
            f"{place}{joint}{urlencode({'digest': digest})}", OCTETS, method="PUT", body=b""
        )
        if answer.status == 404:
            answer.finish()
            raise self._lost()
        if answer.status != 201:
            self._refused(answer, f"layer {digest}")
        said = answer.header("Docker-Content-Digest")
        answer.finish()
        if said and said != digest:
            raise self._wrong(f"layer {digest}", f"it is kept as {said}")

    def _where(self, place: str) -> tuple[str, int]:
        """How much of an upload is there; nowhere and nothing where the registry knows of none."""
        if not place:
            return "", 0
        answer = self._to(place, {}, method="GET")
        answer.finish()
        if answer.status != 204:
            return "", 0
        return self._place(answer) if answer.header("Location") else place, _range_end(answer) or 0

    def _drop(self, answer: Answer) -> None:
        try:
            self._to(self._place(answer), {}, method="DELETE").finish()
        except Trouble:
            return

    def _to(
        self,
        place: str,
        headers: dict[str, str],
        *,
        method: str,
        body: Body | None = None,
    ) -> Answer:
        """What the registry is known to be is told who we are, and nobody else."""
        if urlsplit(place)[:2] == urlsplit(self._find())[:2]:
            return self._ask_url(place, headers, method=method, patient=False, body=body)
        return self._web.get(place, headers, method=method, foreign=True, patient=False, body=body)

    def _place(self, answer: Answer) -> str:
        """Where the next part goes, which only a URL that may be followed says."""
        location = answer.header("Location")
        if not location:
            raise self._wrong("upload", "the registry does not say where to")
        place = doubt.join(answer.url, location)
        self._web.check_place(place, plain=urlsplit(answer.url).scheme == "http")
        return place

    def _lost(self) -> Trouble:
        return Trouble("lost", self.endpoint.host, "the registry has lost the upload")


def _range_end(answer: Answer) -> int | None:
    """Bytes that are there, of ``Range: 0-9``; of none registries say ``0-0``, too."""
    first, _, last = answer.header("Range").removeprefix("bytes=").partition("-")
    end = doubt.number(last)
    if first != "0" or end is None:
        return None
    return end + 1 if end else 0
