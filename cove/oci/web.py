"""HTTP as registries need it: redirects only to where they may lead, retries with patience, and an
end when asked.

Over urllib3, which is loaded with the first request. Knows nothing of images.
"""

from __future__ import annotations

import email.utils
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote, urlsplit

from cove.oci import doubt
from cove.oci.endpoint import Endpoint, forbidden, is_loopback
from cove.oci.proxies import proxy_for

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

AGENT = "cove"
REDIRECTS = (301, 302, 303, 307, 308)
SAME_AGAIN = (307, 308)
"""Those after which what was sent is sent again, not asked for."""
REDIRECTS_MAX = 5
AGAIN = frozenset((408, 429, 500, 502, 503, 504))
DRAIN_MAX = 64 << 10
CHUNK = 256 << 10
SENT = 256 << 10
"""Bytes that are sent at once: each time what takes them is given its time anew."""

Body = bytes | Iterable[bytes]
"""What is sent; it may be sent again, so no iterator."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds, and how often."""

    connect: float = 10.0
    read: float = 30.0
    attempts: int = 5
    pause: float = 0.5
    """Before the second attempt; doubled before each further one."""
    longest: float = 60.0
    """What is waited at most because a server asks for it."""
    whole: float = 300.0
    """In which a document is there, or the head of an answer, however it drips."""
    least: int = 16 << 10
    """Bytes of anything longer that come in that time."""


class Trouble(Exception):
    """Why there is no answer. ``kind``: ``unreachable``, ``tls``, ``broken`` (it may be better the
    next time), ``slow``, ``forbidden`` or ``stopped``.
    """

    def __init__(self, kind: str, host: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.host, self.text = kind, host, text


@dataclass(frozen=True, slots=True)
class Answer:
    response: BaseHTTPResponse
    url: str
    moved: bool
    """It comes from another place than was asked."""
    patience: Patience

    @property
    def status(self) -> int:
        return self.response.status

    def header(self, name: str) -> str:
        return str(self.response.headers.get(name) or "")

    @property
    def length(self) -> int | None:
        return doubt.number(self.header("Content-Length"))

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives. Only what is waited for counts: who reads may take his time."""
        waited, came = 0.0, 0
        with _Told(self.url):
            while True:
                began = time.monotonic()
                data = self.response.read1(CHUNK, decode_content=False)
                waited, came = waited + time.monotonic() - began, came + len(data)
                if not data:
                    return
                if waited > self.patience.whole:
                    if came < self.patience.least:
                        self._too_slow()
                    waited, came = 0.0, 0
                yield data

    def _too_slow(self) -> NoReturn:
        self.response.close()
        raise _slow(urlsplit(self.url).netloc)

    def read(self, limit: int) -> bytes | None:
        """The whole body; None when it is longer than ``limit``, of which no more is read."""
        if self.length is not None and self.length > limit:
            self.response.close()
            return None
        data = bytearray()  # of pieces that may be a byte each
        late = time.monotonic() + self.patience.whole
        for piece in self.pieces():
            if time.monotonic() > late:
                self._too_slow()
            data += piece
            if len(data) > limit:
                self.response.close()
                return None
        return bytes(data)

    def finish(self) -> None:
        """Give the connection back where that is cheap."""
        with suppress(Exception):
            if self.length is not None and self.length <= DRAIN_MAX:
                self.response.drain_conn()
            else:
                self.response.close()


class Web:
    """Connections of one verb to one registry and where it leads. Threads share it."""

    def __init__(
        self,
        endpoint: Endpoint,
        patience: Patience,
        *,
        notice: Callable[[str, float], None] | None = None,
        env: Mapping[str, str] = os.environ,
    ) -> None:
        """``notice`` is told why and for how many seconds it waits. ``env`` names proxies."""
        self.env = env
        self.endpoint, self.patience, self._notice = endpoint, patience, notice
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._pools: dict[tuple[bool, bool, bool, str], PoolManager] = {}
        self._sockets: set[socket.socket] = set()
        self._met: set[str] = set()
        """Who has answered."""

    def stop(self) -> None:
        """End every request, from any thread."""
        self._stopped.set()
        with self._lock:
            for sock in self._sockets:
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.clear()
        with self._lock:
            self._sockets.clear()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def may_pass(self, trouble: Trouble) -> bool:
        """Whether it may be better the next time: also with who was there a moment ago, and is
        started anew.
        """
        away = trouble.kind == "unreachable" and trouble.host in self._met
        return away or trouble.kind == "broken"

    def get(
        self,
        url: str,
        headers: dict[str, str],
        *,
        method: str = "GET",
        foreign: bool = False,
        patient: bool = True,
        body: Body | None = None,
    ) -> Answer:
        """An answer, whatever its status; a server that is busy is asked again. ``foreign``: the
        registry named this URL, nobody typed it. ``patient``: a cut connection is made again too.
        """
        for attempt in range(1, self.patience.attempts + 1):
            last = attempt == self.patience.attempts
            try:
                answer = self._follow(url, headers, method, foreign=foreign, body=body)
            except Trouble as trouble:
                if not self.may_pass(trouble) or last or not patient:
                    raise
                self.pause(attempt, trouble.text)
                continue
            if answer.status not in AGAIN or last:
                return answer
            asked = _retry_after(answer)
            if asked is not None and asked > self.patience.longest:
                return answer
            answer.finish()
            self.pause(attempt, f"it answers {answer.status}", asked)
        raise AssertionError

    def pause(self, attempt: int, why: str, asked: float | None = None) -> None:
        """Wait before the next attempt, ``asked`` seconds if the server said so."""
        seconds = self.patience.pause * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)
        seconds = min(seconds if asked is None else asked, self.patience.longest)
        if self._notice is not None:
            self._notice(why, seconds)
        if self._stopped.wait(seconds):
            raise Trouble("stopped", self.endpoint.host, "interrupted")

    def check_place(self, url: str, *, plain: bool) -> None:
        """Whether the registry may name this URL; ``plain``: what led here was plain HTTP."""
        parts = doubt.split(url)
        host = (parts.hostname or "") if parts is not None else ""
        if parts is None or parts.scheme not in ("http", "https"):
            raise Trouble("forbidden", host, f'it leads to "{url[:200]}", which is no web address')
        if parts.scheme == "http" and not plain:
            raise Trouble("forbidden", host, f"it leads from https to http, to {parts.netloc}")
        reason = forbidden(host, loopback=self.endpoint.loopback)
        if reason:
            raise Trouble("forbidden", host, f"it leads to {parts.netloc}, {reason}")

    # ---- one request ----

    def _follow(
        self,
        url: str,
        headers: dict[str, str],
        method: str,
        *,
        foreign: bool,
        body: Body | None = None,
    ) -> Answer:
        """Credentials go to the host they were meant for and to no other, also those in a form."""
        moved = False
        for _ in range(REDIRECTS_MAX + 1):
            sent = self._send(url, headers, method, foreign or moved, body)
            answer = Answer(sent, url, moved, self.patience)
            redirects = REDIRECTS if method in ("GET", "HEAD") else SAME_AGAIN
            if answer.status not in redirects or not answer.header("Location"):
                return answer
            target = doubt.join(url, answer.header("Location"))
            answer.finish()
            if doubt.split(target) is None or _place(target) != _place(url):
                self.check_place(target, plain=urlsplit(url).scheme == "http")
                if body is not None and _is_form(headers):
                    text = f"it sends what is secret on to {_place(target)[1]}"
                    raise Trouble("forbidden", _place(url)[1], text)
                headers = {k: v for k, v in headers.items() if k != "Authorization"}
                moved = True
            url = target
        raise Trouble("forbidden", _place(url)[1], f"it leads on more than {REDIRECTS_MAX} times")

    def _send(
        self,
        url: str,
        headers: dict[str, str],
        method: str,
        guarded: bool,
        body: Body | None = None,
    ) -> BaseHTTPResponse:
        if self.stopped:
            raise Trouble("stopped", self.endpoint.host, "interrupted")
        host = urlsplit(url).netloc
        loose = self.endpoint.loose and (host == self.endpoint.host or is_loopback(host))
        proxy = proxy_for(url, self.env)
        pool = self._pool(guarded and not proxy, loose, host == self.endpoint.host, proxy)
        common = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
        if isinstance(body, bytes) and len(body) > SENT:
            common["Content-Length"] = str(len(body))
            body = _in_pieces(body)
        with _Told(url, self):
            answer = pool.request(
                method,
                url,
                headers=common | headers,
                body=body,
                redirect=False,
                retries=False,
                preload_content=False,
            )
        self._met.add(host)
        return answer

    def _pool(self, guarded: bool, loose: bool, own: bool, proxy: str) -> PoolManager:
        """``own``: the registry itself, which its certificates are for. ``proxy``: where names are
        looked up then, so that their addresses are its concern.
        """
        with self._lock:
            found = self._pools.get((guarded, loose, own, proxy))
            if found is None:
                context = _context(self.endpoint, loose, own)
                found = _make_pool(self, guarded, context, proxy)
                self._pools[guarded, loose, own, proxy] = found
            return found

    def add(self, sock: socket.socket) -> None:
        with self._lock:
            self._sockets = {known for known in self._sockets if known.fileno() >= 0} | {sock}
        if self.stopped:
            self.stop()


def _context(endpoint: Endpoint, loose: bool, own: bool) -> ssl.SSLContext:
    """What is trusted: what the host trusts, and for the registry itself what is kept for it."""
    context = ssl.create_default_context()
    found = False
    for place in endpoint.certificates if own else ():
        with suppress(FileNotFoundError, NotADirectoryError):
            for name in sorted(os.listdir(place)):
                found |= _take(context, place, name, endpoint.host)
    if loose and not found:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _take(context: ssl.SSLContext, place: str, name: str, host: str) -> bool:
    """Whether the file vouches for the registry."""
    path = f"{place}/{name}"
    try:
        if name.endswith(".crt"):
            context.load_verify_locations(cafile=path)
        elif name.endswith(".cert"):
            key = f"{path.removesuffix('.cert')}.key"
            os.stat(key)  # ssl does not say which of the two is missing
            context.load_cert_chain(path, key)
    except ssl.SSLError as error:
        raise Trouble("tls", host, f"{path}: it is no certificate, or not with its key") from error
    except OSError as error:
        told = f"{error.filename or path}: {(error.strerror or '').lower()}"
        raise Trouble("tls", host, told) from error
    return name.endswith(".crt")


def _make_pool(web: Web, guarded: bool, context: ssl.SSLContext, proxy: str) -> PoolManager:
    import urllib3
    from urllib3.connection import HTTPConnection, HTTPSConnection

    loopback = web.endpoint.loopback

    def refuse(host: str, address: str) -> None:
        reason = forbidden(address, loopback=loopback)
        if guarded and reason:
            raise Trouble("forbidden", host, f"it leads to {host} at {address}, {reason}")

    class Connection(HTTPConnection):
        """Looks where it connects, before it says anything; can be ended from outside."""

        def connect(self) -> None:
            _look_up(self.host, self.port, refuse if guarded else None)
            super().connect()
            _connected(self.sock, self.host, web, refuse)

        def getresponse(self) -> Any:
            with _in_time(self.sock, self.host, web.patience.whole):
                return super().getresponse()

    class SecureConnection(HTTPSConnection):
        def connect(self) -> None:
            _look_up(self.host, self.port, refuse if guarded else None)
            super().connect()
            _connected(self.sock, self.host, web, refuse)

        def getresponse(self) -> Any:
            with _in_time(self.sock, self.host, web.patience.whole):
                return super().getresponse()

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    if context.verify_mode == ssl.CERT_NONE:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    timeout = urllib3.Timeout(connect=web.patience.connect, read=web.patience.read)
    manager: PoolManager
    if proxy:
        manager = urllib3.ProxyManager(
            proxy, proxy_headers=_proxy_login(proxy), maxsize=8, timeout=timeout,
            ssl_context=context,
        )  # fmt: skip
    else:
        manager = urllib3.PoolManager(maxsize=8, timeout=timeout, ssl_context=context)
    manager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}
    return manager


def _proxy_login(proxy: str) -> dict[str, str]:
    from urllib3.util import make_headers

    login = urlsplit(proxy).netloc.rpartition("@")[0]
    return dict(make_headers(proxy_basic_auth=unquote(login))) if login else {}


def _look_up(host: str, port: int | None, refuse: Callable[[str, str], None] | None) -> None:
    """Not one packet goes to an address that is refused."""
    if refuse is None:
        return
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError:
        return  # urllib3 says so
    for *_, address in found:
        refuse(host, str(address[0]))


def _connected(sock: Any, host: str, web: Web, refuse: Callable[[str, str], None]) -> None:
    """The name may have meant something else a moment ago."""
    web.add(sock)
    refuse(host, str(sock.getpeername()[0]))


@contextmanager
def _in_time(sock: Any, host: str, seconds: float) -> Iterator[None]:
    """Inside: the head of an answer is read, whose bytes may come one by one for good, and after
    others that say to go on.
    """
    over = threading.Event()

    def end() -> None:
        over.set()
        with suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if over.is_set():
            raise _slow(host) from error
        raise
    finally:
        timer.cancel()
    if over.is_set():  # it takes what was cut for the end of the head
        raise _slow(host)


def _in_pieces(body: bytes) -> Iterator[bytes]:
    whole = memoryview(body)
    return (bytes(whole[at : at + SENT]) for at in range(0, len(body), SENT))


def _slow(host: str) -> Trouble:
    return Trouble("slow", host, "it sends too slowly")


class _Told:
    """Inside: what urllib3 and sockets raise becomes Trouble."""

    def __init__(self, url: str, web: Web | None = None) -> None:
        self.host, self.web = urlsplit(url).netloc, web

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, (Trouble, GeneratorExit)):
            return
        import urllib3.exceptions as known

        if not isinstance(error, (known.HTTPError, OSError, ValueError)):
            return
        raise self._trouble(error, known) from error

    def _trouble(self, error: BaseException, known: Any) -> Trouble:
        if self.web is not None and self.web.stopped:
            return Trouble("stopped", self.host, "interrupted")
        if isinstance(error, known.ProxyError):
            inner = error.original_error
            cause = self._trouble(inner, known) if isinstance(inner, Exception) else None
            why = cause.text if cause is not None else "it refuses"
            return Trouble("unreachable", self.host, f"its proxy: {why}")
        if isinstance(error, known.NameResolutionError):
            return Trouble("unreachable", self.host, "its name cannot be resolved")
        if isinstance(error, known.NewConnectionError):
            return Trouble("unreachable", self.host, _reason(error.__cause__ or error))
        if isinstance(error, known.ConnectTimeoutError):
            return Trouble("unreachable", self.host, "it does not answer")
        if isinstance(error, (known.SSLError, ssl.SSLError)):
            return Trouble("tls", self.host, _tls_reason(error))
        if isinstance(error, known.LocationValueError):
            return Trouble("forbidden", self.host, "it leads to what is no web address")
        if isinstance(error, (known.ReadTimeoutError, TimeoutError)):
            return Trouble("broken", self.host, "it stopped sending")
        return Trouble("broken", self.host, "the connection was cut")


def _tls_reason(error: BaseException) -> str:
    inner = error.args[0] if error.args and isinstance(error.args[0], ssl.SSLError) else error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {inner.verify_message}"
    reason = getattr(inner, "reason", "") or str(inner)
    return f"no secure connection: {str(reason).lower().replace('_', ' ')}"


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return str(text).lower()


def _is_form(headers: dict[str, str]) -> bool:
    return headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded")


def _place(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, parts.hostname or "", port


def _retry_after(answer: Answer) -> float | None:
    """In seconds. A date is compared with the server's own clock: ours may be wrong."""
    text = answer.header("Retry-After").strip()
    if (asked := doubt.number(text)) is not None:
        return float(asked)
    try:
        until = email.utils.parsedate_to_datetime(text)
        now = email.utils.parsedate_to_datetime(answer.header("Date"))
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
