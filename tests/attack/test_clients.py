"""Clients that want too much at once, or say nothing of use: the others are served, and the
daemon's log does not grow with every one of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from cove.daemon.lasting import LONG
from tests.driver import Cove, new_cove, wait_until


@pytest.fixture
def own() -> Iterator[Cove]:
    """A daemon of the test's own, without an image."""
    driver = new_cove()
    try:
        driver("version")
        yield driver
    finally:
        driver.close()


def connect(cove: Cove) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(cove.root / "run/api.sock"))  # with a timeout it would not wait
    sock.settimeout(60)
    return sock


def ask(sock: socket.socket, verb: str, body: bytes = b"{}") -> None:
    head = f"POST /cove/v1/{verb} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)


def test_listeners_leave_room_for_others(own: Cove) -> None:
    with ExitStack() as stack:
        for _ in range(LONG):
            ask(stack.enter_context(connect(own)), "system.events")

        def refused() -> bool:
            with connect(own) as sock:
                ask(sock, "system.events", b'{"until_ns": 1}')
                return b"cannot begin another one" in sock.recv(4096)

        wait_until(refused, "all listeners are there")
        with connect(own) as sock:
            ask(sock, "machine.list")
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
    wait_until(lambda: not refused(), "they are gone")


def limit(cove: Cove, files: int) -> tuple[int, int]:
    """How many descriptors its daemon may have from now on; what it was."""
    pid = cove.daemon_pid()
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (files, before[1]))
    return before


def test_a_daemon_without_room_for_descriptors_says_so(own: Cove) -> None:
    numbers = [int(name) for name in os.listdir(f"/proc/{own.daemon_pid()}/fd")]
    # Room for the connection, and for fewer than come over it.
    room = next(n for n in range(1, 10_000) if n - len([x for x in numbers if x < n]) == 2)
    before = limit(own, room)
    try:
        done = own("ps", code=125)
    finally:
        limit(own, before[0])
    assert "the daemon has as many files open as it may" in done.err, done.err
    own("ps")


def test_a_door_that_could_let_nobody_in_opens_again(own: Cove) -> None:
    before = limit(own, 3)
    try:
        waiting = [own.spawn("ps", "-q") for _ in range(8)]
        # Threads that waited for somebody have a number for him already: those are told so.
        wait_until(lambda: any(child.poll() == 125 for child in waiting), "one is sent away")
    finally:
        limit(own, before[0])
    for child in waiting:
        child.communicate(timeout=180)
    assert {child.returncode for child in waiting} <= {0, 125}
    own("ps")


@pytest.mark.parametrize(
    "said",
    [b"\x00\xff" * 100, b"GET /\r\n\r\n",
     b"POST /cove/v1/machine.list HTTP/1.1\r\nHost: x\r\nContent-Le",
     b"POST /cove/v1/machine.list HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
     b"POST /cove/v1/machine.list HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
     b"Transfer-Encoding: chunked\r\n\r\n{}"],
    ids=lambda said: repr(said[-12:]),
)  # fmt: skip
def test_half_a_request_is_no_page_in_the_log(own: Cove, said: bytes) -> None:
    for _ in range(3):
        with connect(own) as sock:
            sock.sendall(said)
    with connect(own) as sock:
        ask(sock, "machine.list")
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")
    assert (own.root / "run/daemon.log").read_text() == ""


def test_a_body_that_is_too_large_is_no_bug(own: Cove) -> None:
    with connect(own) as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            ask(sock, "machine.list", b" " * (17 << 20))
        answer = sock.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400"), answer
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error["message"] == "cannot read the request: request entity too large"


@pytest.mark.parametrize("words", ["\u00b2 1 1", "1 1", f"{'9' * 5000} 1 1", "-1 1 1", "1 1 0x1"])
def test_a_terminal_with_numbers_that_nobody_has(own: Cove, words: str) -> None:
    head = b"POST /cove/v1/machine.attach HTTP/1.1\r\nHost: x\r\nUpgrade: cove-session\r\n"
    body = b'{"machine": "x"}'
    more = f"Cove-Terminal: {words}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with connect(own) as sock:
        sock.sendall(head + more + body)
        answer = sock.recv(16384)
    assert answer.startswith(b"HTTP/1.1 400") and b"not three numbers" in answer


@pytest.mark.parametrize("body", [b"\xff", b"[" * 100_000, b'{"all": "\xff"}', b'{"all": 1e999}'])
def test_parameters_that_are_no_json(own: Cove, body: bytes) -> None:
    with connect(own) as sock:
        ask(sock, "machine.list", body)
        answer = sock.recv(16384)
    assert answer.startswith(b"HTTP/1.1 400") and b"cannot read the parameters" in answer


def test_an_image_is_mounted_by_nobody(own: Cove) -> None:
    """cove itself mounts one, to make a disk of it: what nothing protects from removal."""
    mount = {"type": "image", "target": "/mnt", "source": "x"}
    spec = {"image": "host", "command": ["true"], "mounts": [mount]}
    with connect(own) as sock:
        ask(sock, "machine.create", json.dumps({"spec": spec}).encode())
        answer = sock.recv(16384)
    assert b"cannot mount an image on /mnt: cove has no such mounts" in answer
