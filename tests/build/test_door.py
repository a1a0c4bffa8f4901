"""The way out of git's jail through proxies: one that cannot be used is named, and told nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from cove.git.door import Door

HOST = b"files.test"
WORDS = b"\5\1\0" + b"\5\1\0\3" + bytes([len(HOST)]) + HOST + (443).to_bytes(2, "big")
"""SOCKS 5: no login, and CONNECT to port 443 there."""
LED, REFUSED = b"\5\0\5\0\0\1" + bytes(6), b"\5\0\5\2\0\1" + bytes(6)


def through(proxy: str, words: bytes = WORDS) -> tuple[bytes, str]:
    """What is heard behind the door, and why nobody was led."""
    listener = socket.create_server(("127.0.0.1", 0))
    place = listener.getsockname()
    door = Door(listener, lambda *_: "", {"https_proxy": proxy})
    try:
        with socket.create_connection(place, 120) as sock:
            sock.sendall(words)
            sock.shutdown(socket.SHUT_WR)
            heard = b""
            with contextlib.suppress(ConnectionResetError):
                while data := sock.recv(1 << 10):
                    heard += data
        return heard, door.refused
    finally:
        door.close()


@contextlib.contextmanager
def proxy(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Where it listens, and what it was asked for."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError), server.accept()[0] as sock:
                data = b""
                while b"\r\n\r\n" not in data and (piece := sock.recv(1 << 10)):
                    data += piece
                asked.append(data)
                sock.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}", asked
        finally:
            with contextlib.suppress(OSError):  # if nobody has come
                server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_who_is_led_has_a_proxys_answer() -> None:
    with proxy(b"HTTP/1.1 200 OK\r\n\r\nhello") as (place, asked):
        assert through(f"http://u:p%20w@{place}") == (LED + b"hello", "")
    (said,) = asked
    assert said.startswith(b"CONNECT files.test:443 HTTP/1.1\r\n") and b"Basic dTpwIHc=" in said


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "it refuses"),
        (b"HTTP/1.1 200 OK\r\n", "it ended in the middle"),
        (b"", "it ended in the middle"),
    ],
)
def test_a_proxy_that_leads_nowhere_is_named(answer: bytes, why: str) -> None:
    with proxy(answer) as (place, asked):
        heard, refused = through(f"http://{place}")
    assert (heard, len(asked)) == (REFUSED, 1)
    assert refused == f"the proxy does not lead to files.test:443: {why}"


def test_a_proxy_that_is_not_there() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        heard, refused = through(f"http://127.0.0.1:{nobody.getsockname()[1]}")
    assert (heard, refused) == (
        REFUSED,
        "the proxy does not lead to files.test:443: connection refused",
    )


@pytest.mark.parametrize(
    ("scheme", "why"),
    [
        ("https", "git is led through http:// proxies alone"),
        ("socks5", "proxies of the kind socks5 are not known here"),
    ],
)
def test_a_proxy_of_another_kind_hears_no_login(scheme: str, why: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        heard, refused = through(f"{scheme}://u:secret@127.0.0.1:{there.getsockname()[1]}")
        there.setblocking(False)
        with pytest.raises(BlockingIOError):
            there.accept()
    assert (heard, refused) == (REFUSED, f"cannot use HTTPS_PROXY: {why}")


def test_what_is_no_url_of_a_proxy_is_named() -> None:
    heard, refused = through("http://:1")
    assert (heard, refused) == (REFUSED, "cannot use HTTPS_PROXY: it is no URL of a proxy")


def test_no_name_of_a_host_is_a_line_for_a_proxy() -> None:
    evil = WORDS.replace(HOST, b"a\r\nX: y\r\n\r")
    assert len(evil) == len(WORDS)
    with socket.create_server(("127.0.0.1", 0)) as there:
        heard, _ = through(f"http://127.0.0.1:{there.getsockname()[1]}", evil)
        there.setblocking(False)
        with pytest.raises(BlockingIOError):
            there.accept()
    assert heard == b"\5\0"
