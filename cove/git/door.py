"""The way out of a jail: a SOCKS 5 server on the jail's own loopback, whose other end is here.

Whatever in the jail asks, by name or by address, after a redirect or for a submodule: it is led
where ``check`` lets it, through the proxy that leads there.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import SplitResult, unquote, urlsplit

from cove.errors import CoveError, HostError, Unsupported
from cove.oci.proxies import proxy_for

CONNECT = 15.0
QUIET = 300.0
"""Seconds in which neither side says anything."""
PIECE = 1 << 16
AT_ONCE = 16
HEAD_MAX = 16 << 10


class Door:
    """Serves until it is closed."""

    def __init__(
        self,
        listener: socket.socket,
        check: Callable[[str, tuple[str, int]], str],
        env: Mapping[str, str] = os.environ,
        *,
        only: tuple[str, int] | None = None,
    ) -> None:
        """``check`` says why nobody may be led to an address or name, and hears which host and port
        were asked for; empty: he may. ``only``: everybody is led to this host and port, without a
        word.
        """
        self._listener, self._check, self._env, self._only = listener, check, env, only
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._closed = False
        self._turns = threading.Semaphore(AT_ONCE)
        self.refused = ""
        """Why nobody was led to the place that was asked for last."""
        self._thread = threading.Thread(target=self._serve, name="git door", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for sock in (self._listener, *self._sockets):
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if not self._turns.acquire(blocking=False) or not self._keep(sock):
                sock.close()
                continue
            threading.Thread(target=self._one, args=(sock,), name="git door", daemon=True).start()

    def _keep(self, sock: socket.socket) -> bool:
        with self._lock:
            if not self._closed:
                self._sockets.add(sock)
            return not self._closed

    def _one(self, sock: socket.socket) -> None:
        there: socket.socket | None = None
        try:
            with suppress(OSError, ValueError):
                sock.settimeout(CONNECT)
                there = self._led(*(self._only or _asked(sock)))
                if self._only is None:
                    sock.sendall((b"\5\0" if there else b"\5\2") + b"\0\1" + bytes(6))
                if there is not None and self._keep(there):
                    _carry(sock, there)
        finally:
            with self._lock:
                for one in filter(None, (sock, there)):
                    self._sockets.discard(one)
                    one.close()
            self._turns.release()

    def _led(self, host: str, port: int) -> socket.socket | None:
        scheme = "http" if port == 80 else "https"
        shown = f"[{host}]" if ":" in host else host
        reason = self._check(host, (host, port))
        if reason:
            self.refused = f"it leads to {host}, {reason}"
            return None
        try:
            proxy = proxy_for(f"{scheme}://{shown}:{port}/", self._env)
            if proxy:
                sock = _through(proxy, f"{shown}:{port}", f"{scheme.upper()}_PROXY")
                self.refused = ""
                return sock
        except CoveError as error:
            self.refused = error.message
            return None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            self.refused = f"the name {host} cannot be resolved"
            return None
        for family, kind, _, _, address in found:
            reason = self._check(str(address[0]), (host, port))
            if reason:
                self.refused = f"it leads to {host} at {address[0]}, {reason}"
                return None
            sock = socket.socket(family, kind)
            try:
                sock.settimeout(CONNECT)
                sock.connect(address)
                self.refused = ""
                return sock
            except OSError as error:
                sock.close()
                why = (error.strerror or "it does not answer").lower()
                self.refused = f"{shown}:{port} cannot be reached: {why}"
        return None


def _exactly(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = sock.recv(length - len(data))
        if not piece:
            raise ValueError("it ended in the middle")
        data += piece
    return data


def _asked(sock: socket.socket) -> tuple[str, int]:
    """Host and port; RFC 1928, without a login, CONNECT alone."""
    version, count = _exactly(sock, 2)
    _exactly(sock, count)
    sock.sendall(b"\5\0")
    head = _exactly(sock, 4)
    if version != 5 or head[:2] != b"\5\1":
        raise ValueError("it asks for what is not here")
    if head[3] == 3:
        host = _exactly(sock, _exactly(sock, 1)[0]).decode("ascii")
    elif head[3] in (1, 4):
        family, length = (socket.AF_INET, 4) if head[3] == 1 else (socket.AF_INET6, 16)
        host = socket.inet_ntop(family, _exactly(sock, length))
    else:
        raise ValueError("no such kind of address")
    port = int(struct.unpack(">H", _exactly(sock, 2))[0])
    if not host.isprintable() or " " in host:  # a proxy is told of it in a line
        raise ValueError("no host is called so")
    return host, port


def _through(proxy: str, place: str, name: str) -> socket.socket:
    """By the proxy's CONNECT, whatever the port. ``name``: of the variable that says so."""
    parts = urlsplit(proxy)
    if parts.scheme != "http":
        # To speak plainly with one that wants TLS would show everybody the login.
        raise Unsupported(f"cannot use {name}: git is led through http:// proxies alone")
    try:
        return _connected(parts, place)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", "") or str(error) or "it does not answer"
        raise HostError(f"the proxy does not lead to {place}: {reason.lower()}") from error


def _connected(parts: SplitResult, place: str) -> socket.socket:
    sock = socket.create_connection((parts.hostname or "", parts.port or 80), CONNECT)
    try:
        login, at, _ = parts.netloc.rpartition("@")
        said = b64encode(unquote(login).encode()).decode() if at else ""
        who = f"Proxy-Authorization: Basic {said}\r\n" if at else ""
        sock.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{who}\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += _exactly(sock, 1)
            if len(head) > HEAD_MAX:
                raise ValueError("it says too much")
        if head.split(b" ", 2)[1:2] != [b"200"]:
            raise ValueError("it refuses")
    except BaseException:
        sock.close()
        raise
    return sock


def _carry(one: socket.socket, other: socket.socket) -> None:
    """Both ways, until both have ended."""
    with selectors.DefaultSelector() as selector:
        for sock, peer in ((one, other), (other, one)):
            sock.settimeout(QUIET)
            selector.register(sock, selectors.EVENT_READ, peer)
        while selector.get_map():
            ready = selector.select(QUIET)
            if not ready:
                return
            for key, _ in ready:
                source, peer = key.fileobj, key.data
                assert isinstance(source, socket.socket)
                data = source.recv(PIECE)
                if data:
                    peer.sendall(data)
                    continue
                selector.unregister(source)
                peer.shutdown(socket.SHUT_WR)
