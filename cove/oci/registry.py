"""The distribution protocol, as a client: an image's documents and blobs from one registry.

What it gives has the digest and length that was promised, or is an error that names the reference
and the host. It writes nothing and knows nothing of who asks.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from cove.errors import NOT_JSON, BadArchive, CoveError, HostError, NotFound, Unsupported
from cove.oci import digest as digests
from cove.oci import doubt
from cove.oci.auth import Challenge, Credentials, parse_challenges
from cove.oci.config import CONFIG_MAX
from cove.oci.endpoint import Endpoint
from cove.oci.manifest import INDEXES, MANIFEST_MAX, MANIFESTS, Descriptor
from cove.oci.reference import TAG, Reference
from cove.oci.web import AGENT, Answer, Body, Trouble, Web

SCHEMA1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
ACCEPT = ", ".join((*sorted(MANIFESTS), *sorted(INDEXES)))
TOKEN = re.compile(r"[!-~]+")
"""What a header can carry as one word."""
TOKEN_MAX = 1 << 20
TAGS_MAX = 4 << 20
TAG_PAGES = 100
COMPLAINT_MAX = 16 << 10
TOKEN_LIFE = 60.0
"""Seconds that a token holds when its server does not say."""


class _Tags(msgspec.Struct, frozen=True):
    tags: list[str] | None = None


# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
_decode_tags = msgspec.json.Decoder(_Tags).decode


class Unreachable(HostError):
    """Nobody answers where the registry should be."""

    exit_code = 1


class Denied(CoveError):
    """The registry gives this to others, or to nobody."""

    exit_code = 1
    status = 403


class Stopped(CoveError):
    """It was ended from outside."""

    exit_code = 130


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index as served; ``digest`` is that of ``data``."""

    data: bytes
    digest: str
    kind: str = ""
    """As the registry calls it."""


class Registry:
    """One repository of a registry, for one verb: use ``open_registry``. Threads share it."""

    actions = "pull"
    """What a token must allow."""

    def __init__(
        self,
        reference: Reference,
        endpoint: Endpoint,
        web: Web,
        credentials: Credentials | None,
        *,
        verb: str = "pull",
    ) -> None:
        self.reference, self.endpoint, self._web = reference, endpoint, web
        self.verb = verb
        self.scopes: tuple[str, ...] = (f"repository:{reference.path}:{self.actions}",)
        """What a token is asked for, where the registry does not say."""
        self._credentials = credentials
        self._lock = threading.Lock()
        self._base = "" if endpoint.loose else f"https://{endpoint.host}/v2/"
        self._authorization = ""
        self._until = 0.0
        """Monotonic: a host's clock may be wrong."""

    def stop(self) -> None:
        """End what goes on in other threads; they raise ``Stopped``."""
        self._web.stop()

    # ---- what there is ----

    def digest_of(self, name: str) -> str:
        """What the registry says that a tag means, without fetching it; empty if it does not."""
        try:
            answer = self._ask(f"manifests/{name}", {"Accept": ACCEPT}, method="HEAD")
        except CoveError:
            return ""
        digest = answer.header("Docker-Content-Digest")
        answer.finish()
        return digest if answer.status == 200 else ""

    def tags(self) -> tuple[str, ...]:
        """Every tag of the repository, sorted."""
        found: set[str] = set()
        query, what = "", "list of tags"
        for _ in range(TAG_PAGES):
            answer = self._ask(f"tags/list{query}", {})
            if answer.status != 200:
                self._refused(answer, what)
            try:
                listed = _tags(answer.read(TAGS_MAX) or b"")
            except Trouble as trouble:
                self._failed(trouble)
            if listed is None or not all(TAG.fullmatch(tag) for tag in listed):
                raise self._wrong(what, "it is no list of tags")
            found.update(listed)
            query = _next_page(answer.header("Link"))
            if not query:
                return tuple(sorted(found))
        raise self._wrong(what, f"it has more than {TAG_PAGES} pages")

    def document(self, name: str, size: int = -1) -> Document:
        """The manifest or index called ``name``, a tag or a digest."""
        answer = self._ask(f"manifests/{name}", {"Accept": ACCEPT})
        if answer.status != 200:
            self._refused(answer, f"manifest {name}")
        kind = answer.header("Content-Type").partition(";")[0].strip()
        if kind in SCHEMA1:
            answer.finish()
            self._old()
        try:
            data = answer.read(MANIFEST_MAX)
        except Trouble as trouble:
            self._failed(trouble)
        if data is None:
            raise BadArchive(
                f"cannot {self._what}: its manifest is larger than {MANIFEST_MAX >> 20} MiB",
                host=self.endpoint.host,
            )
        if size >= 0 and len(data) != size:
            raise self._wrong(f"manifest {name}", f"{len(data)} bytes, not {size}")
        promised = name if ":" in name else answer.header("Docker-Content-Digest")
        actual = digests.digest_of(data)
        if promised:
            algorithm, _ = digests.parse_digest(digests.of_archive(promised))
            actual = digests.digest_of(data, algorithm=algorithm)
            if actual != promised:
                raise self._wrong(f"manifest {name}", f"wrong digest: {actual}, not {promised}")
        if b'"schemaVersion"' in data and _schema(data) == 1:
            self._old()
        return Document(data, actual, kind)

    def config(self, descriptor: Descriptor) -> bytes:
        """An image's config."""
        what = f"config {descriptor.digest}"
        if descriptor.size > CONFIG_MAX:
            raise self._wrong(what, f"it is larger than {CONFIG_MAX >> 20} MiB")
        data = bytes(_gathered(self.blob(descriptor)))
        algorithm, _ = digests.parse_digest(descriptor.digest)
        actual = digests.digest_of(data, algorithm=algorithm)
        if actual != descriptor.digest:
            raise self._wrong(what, f"wrong digest: {actual}, not {descriptor.digest}")
        return data

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """A blob in pieces, from ``start`` on, exactly as many bytes as promised; the digest is the
        reader's to check.

        Where the connection is cut it goes on from there; the attempts count anew with every piece.
        """
        at, attempt = start, 0
        if start and start >= descriptor.size:
            return
        while at < descriptor.size or attempt == 0:
            try:
                for piece in self._part(descriptor, at):
                    at, attempt = at + len(piece), 0
                    yield piece
                if at >= descriptor.size:
                    return
                raise Trouble("broken", self.endpoint.host, "the connection was cut")
            except Trouble as trouble:
                attempt += 1
                again = self._web.may_pass(trouble)
                if not again or attempt >= self._web.patience.attempts:
                    self._failed(trouble, descriptor, at)
                try:
                    self._web.pause(attempt, trouble.text)
                except Trouble as stopped:
                    self._failed(stopped)

    def _part(self, descriptor: Descriptor, at: int) -> Iterator[bytes]:
        """From ``at`` to the end, or to where the connection is cut."""
        what = f"layer {descriptor.digest}"
        headers = {"Range": f"bytes={at}-"} if at else {}
        answer = self._ask(f"blobs/{descriptor.digest}", headers, translate=False)
        if answer.status not in (200, 206):
            self._refused(answer, what)
        skip = at if answer.status == 200 else 0
        begin, total = _content_range(answer) if answer.status == 206 else (0, None)
        length = answer.length if answer.status == 200 else total
        if length is not None and length != descriptor.size:
            answer.response.close()
            raise self._wrong(what, f"the registry has {length} bytes of it, not {descriptor.size}")
        if answer.status == 206 and begin != at:
            answer.response.close()
            raise self._wrong(what, f"the registry sends it from byte {begin} on, not {at}")
        left = descriptor.size - at
        for piece in answer.pieces():
            if skip:
                piece, skip = piece[skip:], max(0, skip - len(piece))
            if len(piece) > left:
                answer.response.close()
                raise self._wrong(what, f"the registry sends more than {descriptor.size} bytes")
            left -= len(piece)
            if piece:
                yield piece
        answer.finish()

    # ---- asking ----

    def try_login(self) -> None:
        """Whether the registry takes the credentials; raises Denied where it does not."""
        self.scopes = ()
        answer = self._ask("", {}, whole=True)
        if answer.status == 404:
            raise NotFound(f"cannot {self._what}: it is no registry", host=self.endpoint.host)
        if answer.status != 200:
            self._refused(answer, "login")
        answer.finish()

    def _ask(
        self,
        path: str,
        headers: dict[str, str],
        *,
        method: str = "GET",
        translate: bool = True,
        body: Body | None = None,
        whole: bool = False,
    ) -> Answer:
        """The answer to a request, with what the registry wants to know of us. Without
        ``translate`` the caller tries again itself, and gets Trouble as it is. ``path``: in the
        repository, with ``whole`` in the registry.
        """
        try:
            url = f"{self._find()}{path if whole else f'{self.reference.path}/{path}'}"
            return self._ask_url(url, headers, method=method, patient=translate, body=body)
        except Trouble as trouble:
            if translate:
                self._failed(trouble)
            raise

    def _ask_url(
        self,
        url: str,
        headers: dict[str, str],
        *,
        method: str,
        patient: bool,
        body: Body | None = None,
    ) -> Answer:
        """``url``: of this registry."""
        for attempt in (1, 2):
            known = self._known()
            sent = headers | ({"Authorization": known} if known else {})
            answer = self._web.get(url, sent, method=method, patient=patient, body=body)
            if answer.status != 401 or answer.moved or attempt == 2:
                break
            if not self._authorize(answer, known):
                break
        return answer

    def _find(self) -> str:
        """``https://HOST/v2/``; on loopback and where it is configured, http if that is spoken."""
        with self._lock:
            if self._base:
                return self._base
            host = self.endpoint.host
            plain = f"http://{host}/v2/"
            try:
                answer = self._web.get(plain, {}, patient=False)
                answer.finish()
                secure = answer.status == 400 or answer.url.startswith("https:")
            except Trouble as trouble:
                if trouble.kind != "broken":
                    raise
                secure = True  # a TLS server hangs up on plain words
            self._base = f"https://{host}/v2/" if secure else plain
            return self._base

    def _known(self) -> str:
        with self._lock:
            return self._authorization if time.monotonic() < self._until else ""

    def _authorize(self, answer: Answer, sent: str) -> bool:
        """Whether there is something new to say. One thread asks, the others use its answer."""
        challenges = parse_challenges(answer.response.headers.getlist("WWW-Authenticate"))
        answer.finish()
        with self._lock:
            if self._authorization != sent and time.monotonic() < self._until:
                return True
            for challenge in challenges:
                if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                    token, life = self._token(challenge)
                    self._authorization = f"Bearer {token}"
                    self._until = time.monotonic() + life
                    return True
            basic = any(challenge.scheme == "basic" for challenge in challenges)
            known = self._credentials is not None and not self._credentials.identity
            if basic and self._credentials is not None and known and not sent:
                self._authorization = self._credentials.basic()
                self._until = float("inf")
                return True
        return False

    def _token(self, challenge: Challenge) -> tuple[str, float]:
        """From the server that the registry itself names: over https, unless it is plain itself."""
        realm = challenge.parameters["realm"]
        self._web.check_place(realm, plain=self._base.startswith("http:"))
        asked = challenge.parameters.get("scope", "").split() or self.scopes[:1]
        query: dict[str, Any] = {"scope": list(dict.fromkeys([*asked, *self.scopes[1:]]))}
        if challenge.parameters.get("service"):
            query["service"] = challenge.parameters["service"]
        answer = self._ask_token(realm, query)
        if answer.status != 200:
            self._refused(answer, f"token of {urlsplit(realm).netloc}")
        found = doubt.json_of(answer.read(TOKEN_MAX) or b"")
        found = found if isinstance(found, dict) else {}
        token = found.get("token") or found.get("access_token")
        if not isinstance(token, str) or not TOKEN.fullmatch(token):
            raise self._wrong(f"token of {urlsplit(realm).netloc}", "it is no token")
        return token, max(doubt.seconds(found.get("expires_in")), TOKEN_LIFE) - 5.0

    def _ask_token(self, realm: str, query: dict[str, Any]) -> Answer:
        """By name and password, or as OAuth 2 has it by an identity token."""
        headers = {}
        credentials = self._credentials
        if credentials is not None and credentials.identity:
            form = {"grant_type": "refresh_token", "refresh_token": credentials.identity,
                    "client_id": AGENT, "service": query.get("service", ""),
                    "scope": " ".join(query["scope"])}  # fmt: skip
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urlencode(form).encode()
            return self._web.get(realm, headers, method="POST", foreign=True, body=body)
        if credentials is not None:
            headers["Authorization"] = credentials.basic()
            query["account"] = credentials.username
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{urlencode(query, doseq=True)}"
        return self._web.get(url, headers, foreign=True)

    # ---- what went wrong ----

    @property
    def _name(self) -> str:
        return self.reference.familiar() if self.scopes else self.reference.domain

    @property
    def _what(self) -> str:
        return f"{self.verb} {self._name}"

    @property
    def _denied(self) -> str:
        if not self.scopes:
            return "wrong user name or password"
        if "push" in self.actions:
            return "access denied: it needs a login, or one that may push"
        return "access denied: it does not exist, or needs a login"

    def _wrong(self, what: str, reason: str) -> BadArchive:
        return BadArchive(f"cannot {self._what}: {what}: {reason}", host=self.endpoint.host)

    def _old(self) -> NoReturn:
        raise Unsupported(
            f"cannot {self._what}: its manifest is of schema version 1: not supported",
            host=self.endpoint.host,
            hint="push it again with a tool of this decade: skopeo copy",
            exit_code=1,
        )

    def _failed(
        self, trouble: Trouble, descriptor: Descriptor | None = None, at: int = 0
    ) -> NoReturn:
        host = trouble.host or self.endpoint.host
        if trouble.kind == "stopped" or self._web.stopped:
            raise Stopped(f"cannot {self._what}: interrupted") from trouble
        if trouble.kind == "unreachable":
            raise Unreachable(
                f"cannot {self._what}: {host} cannot be reached: {trouble.text}"
            ) from trouble
        if trouble.kind == "tls":
            clock = "valid" in trouble.text or "expired" in trouble.text
            raise HostError(
                f"cannot {self._what}: {host}: {trouble.text}",
                hint="look at this host's clock: date" if clock else "",
                exit_code=1,
            ) from trouble
        if trouble.kind == "forbidden":
            raise Denied(
                f"cannot {self._what}: {self.endpoint.host} is not followed: {trouble.text}"
            ) from trouble
        where = ""
        if descriptor is not None:
            where = f"layer {descriptor.digest[:19]} at byte {at} of {descriptor.size}: "
        raise HostError(
            f"cannot {self._what}: {where}{trouble.text}", host=host, exit_code=1
        ) from trouble

    def _refused(self, answer: Answer, what: str) -> NoReturn:
        """By the status; what the registry says of it is shown as its words."""
        status, host = answer.status, urlsplit(answer.url).netloc
        said = _complaint(answer)
        words = f"{host} says: {said}" if said else f"{host} answers {status}"
        if status in (401, 403):
            domain = self.reference.domain
            hint = (
                f"is the login for {domain} still good, and the name right?" if self.scopes else ""
            )
            if self._credentials is None:
                hint = f"is the name right? If it needs a login: cove login {domain}"
            raise Denied(
                f"cannot {self._what}: {self._denied}",
                host=words,
                hint=hint,
            )
        if status == 404:
            raise NotFound(f"cannot {self._what}: no such image, {what} is not there", host=words)
        if status == 429:
            after = answer.header("Retry-After")
            raise HostError(
                f"cannot {self._what}: {host} has had too many requests",
                host=words,
                hint=f"try again later (Retry-After: {after[:40]})" if after else "try again later",
                exit_code=1,
            )
        raise HostError(
            f"cannot {self._what}: {what}: {host} answers {status}",
            host=words,
            exit_code=1,
        )


@contextmanager
def open_registry(
    reference: Reference,
    endpoint: Endpoint,
    web: Web,
    credentials: Credentials | None = None,
    *,
    verb: str = "pull",
    kind: type[Registry] = Registry,
) -> Iterator[Registry]:
    """The registry of a reference; its connections are closed in the end."""
    try:
        yield kind(reference, endpoint, web, credentials, verb=verb)
    finally:
        web.close()


def _gathered(pieces: Iterator[bytes]) -> bytearray:
    """Of pieces that may be a byte each."""
    whole = bytearray()
    for piece in pieces:
        whole += piece
    return whole


def _schema(data: bytes) -> int:
    found = doubt.json_of(data)
    version = found.get("schemaVersion") if isinstance(found, dict) else 0
    return version if isinstance(version, int) else 0


def _tags(data: bytes) -> list[str] | None:
    """``{"tags": [...]}``, where nothing may be null."""
    try:
        return _decode_tags(data).tags or []
    except NOT_JSON:
        return None


def _next_page(link: str) -> str:
    """The query of ``</v2/…?last=x&n=100>; rel="next"``: where it leads is never asked."""
    target, _, relation = link.partition(">")
    if "next" not in relation:
        return ""
    last = parse_qs(target.strip().removeprefix("<").partition("?")[2].partition("#")[0])
    known: dict[str, object] = {key: last[key][0] for key in ("last", "n") if key in last}
    return f"?{urlencode(known)}" if "last" in known else ""


def _content_range(answer: Answer) -> tuple[int, int | None]:
    """First byte and total of ``bytes 5-9/10``."""
    unit, _, rest = answer.header("Content-Range").partition(" ")
    span, _, total = rest.partition("/")
    begin = span.partition("-")[0]
    first = doubt.number(begin)
    if unit != "bytes" or first is None:
        return -1, None
    return first, doubt.number(total)


def _complaint(answer: Answer) -> str:
    """The registry's own words, short."""
    try:
        found = doubt.json_of(answer.read(COMPLAINT_MAX) or b"")
    except Trouble:
        return ""
    if not isinstance(found, dict):
        return ""
    errors = found.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else {}
    if isinstance(first, dict) and first:
        text = f"{first.get('code', '')} {first.get('message', '')}"
    else:
        text = str(found.get("details") or found.get("message") or found.get("error") or "")
    return " ".join(text.split())[:200]
