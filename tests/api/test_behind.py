"""Input that a client sends together with the request for a stream, in one segment: nothing of it
is lost, as with Docker's daemon.
"""

from __future__ import annotations

import json
import os

import pytest

from tests.api.conftest import Raw, Upgraded
from tests.driver import Cove
from tests.wire import read_all

PING = "GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"
UPGRADE = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
SHORT, LONG = b"word\r\n\r\n", os.urandom(60 << 10)


def said(raw: Raw, request: str, typed: bytes, before: str = "") -> list[tuple[int, bytes]]:
    """What the machine says to that, by stream."""
    with raw.open() as sock:
        session = Upgraded(sock, "")
        sock.sendall(before.encode() + request.encode() + typed)
        if before:
            assert read_until(session, b"\r\n\r\nOK").startswith(b"HTTP/1.1 200 ")
        head = read_until(session, b"\r\n\r\n")
        assert (b" 101 " if UPGRADE in request else b" 200 ") in head.splitlines()[0], head
        session.end()
        return session.frames()


def read_until(session: Upgraded, end: bytes) -> bytes:
    found = b""
    while not found.endswith(end):
        piece = session.sock.recv(1)
        assert piece, found + read_all(session.sock)
        found += piece
    return found


@pytest.mark.parametrize("upgrade", [UPGRADE, ""], ids=["upgrade", "none"])
def test_input_behind_the_start_of_a_second_process(cove: Cove, raw: Raw, upgrade: str) -> None:
    name = cove("run", "-d", "bb", "sleep", "1000").out.strip()
    wanted = {"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True}
    for typed, before in ((SHORT, ""), (SHORT, PING), (LONG, "")):
        made = json.loads(raw("POST", f"/containers/{name}/exec", wanted).body)["Id"]
        head = (
            f"POST /exec/{made}/start HTTP/1.1\r\nHost: d\r\n{upgrade}Content-Length: 2\r\n\r\n{{}}"
        )
        assert said(raw, head, typed, before) == [(1, typed)]


@pytest.mark.parametrize("length", ["Content-Length: 0\r\n", ""], ids=["empty", "no length"])
@pytest.mark.parametrize("upgrade", [UPGRADE, ""], ids=["upgrade", "none"])
def test_input_behind_an_attach(raw: Raw, upgrade: str, length: str) -> None:
    for typed, before in ((SHORT, ""), (SHORT, PING), (LONG, "")):
        words = ["head", "-c", str(len(typed))]  # what it is given ends it
        wanted = {"Image": "bb", "Cmd": words, "OpenStdin": True}
        name = json.loads(raw("POST", "/containers/create", wanted).body)["Id"]
        assert raw("POST", f"/containers/{name}/start").status == 204
        path = f"/v1.43/containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1"
        head = f"POST {path} HTTP/1.1\r\nHost: d\r\n{upgrade}{length}\r\n"
        assert said(raw, head, typed, before) == [(1, typed)]


def test_what_is_behind_a_refusal_is_no_input(raw: Raw) -> None:
    """Nothing of it is a request either: whoever sent it took the connection for a stream."""
    head = f"POST /exec/none/start HTTP/1.1\r\nHost: d\r\n{UPGRADE}Content-Length: 2\r\n\r\n{{}}"
    with raw.open() as sock:
        sock.sendall(head.encode() + PING.encode())
        found = read_all(sock)
    assert found.startswith(b"HTTP/1.1 404 ") and found.count(b"HTTP/1.1 ") == 1
    assert raw("GET", "/_ping").body == b"OK"
