"""Docker's API against who means no good, or goes away: nobody else waits, and nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
from collections.abc import Iterator

import docker
import pytest

from cove.engine.slots import READY
from tests.api.conftest import Raw, read_reply
from tests.driver import Cove, wait_until
from tests.kernel.test_slots import waiting_processes
from tests.wire import read_all

MALFORMED = (
    b"\0\0\0\0\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /_ping HTTP/9.9\r\n\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    b"POST /containers/create HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nA:\0b\r\n\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\nx",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx",
    b"POST /build HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /build HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    *(
        b"POST /containers/create HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        + size
        + b"\r\n{}"
        for size in (b"-1", b"0x2", b"+2", b"2 2", b"f" * 17, b"\xb2")
    ),
)


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_http_is_a_bad_request(raw: Raw, data: bytes) -> None:
    with raw.open() as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            assert read_reply(sock).status in (400, 404)
    assert raw("GET", "/_ping").body == b"OK"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "cannot read the request"),
        (b"[]", "cannot read the request"),
        (b"[" * 100_000, "cannot read the request"),
        (b'{"Image": 3}', "cannot read the request"),
        (b'{"Image": "\xff"}', "cannot read the request"),
        (b'{"Image": "bb", "Cmd": ["\\u0000"]}', "NUL"),
        (b'{"Image": "\\ud800"}', "cannot read the request"),
        (b"{}", "no image was named"),
        (b'{"Image": "bb", "HostConfig": {"Memory": 1e99}}', "cannot read the request"),
        (b'{"Image": "bb", "Env": ["=x"]}', "variable"),
        (b'{"Image": "bb", "HostConfig": {"Binds": ["/a:/b:/c:/d"]}}', "volume"),
    ],
)
def test_a_request_that_makes_no_sense_is_told_so(raw: Raw, body: bytes, said: str) -> None:
    head = "POST /containers/create HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
    answer = raw.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert answer.status == 400 and said in answer.message, answer


def test_each_of_several_requests_is_answered_in_turn(raw: Raw) -> None:
    """A body is a body: what looks like a request in it is none."""
    hidden = b"GET /nothing HTTP/1.1\r\n\r\n"
    first = b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n"
    ping = b"GET /_ping HTTP/1.1\r\nHost: d\r\nX-Any: \xff\xfe\r\n"
    with raw.open() as sock:
        last = b"Connection: close\r\n\r\n"
        sock.sendall(first % len(hidden) + hidden + ping + b"\r\n" + ping + last)
        said = read_all(sock)
    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"400", b"200", b"200"], said
    assert said.count(b"\r\n\r\nOK") == 2


JSON = b'{"Image": "bb", "Cmd": ["true"]}'
MAKE = "POST /containers/create HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
UNUSUAL = {
    "chunks with extensions and trailers": (
        f"{MAKE}Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n"
        f'1;a=b\r\n{{\r\n1f;c="d"\r\n{JSON[1:].decode()}\r\n0;e\r\nX: y\r\nConnection: z\r\n\r\n',
        201,
    ),
    "a packed body that is none": (
        f"{MAKE}Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        400,
    ),
    "an absolute target": (
        "GET HTTP://a:80/v1.41/_ping?x HTTP/1.1\r\nHost: a\r\nConnection: close",
        200,
    ),
    "an absolute target of nothing": ("GET http://a HTTP/1.1\r\nHost: a\r\nConnection: close", 404),
    "a stream of HTTP/1.0": ("GET /events?until=1 HTTP/1.0", 200),
    "options of everything": ("OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close", 200),
    "options of a path": ("OPTIONS /v1.41/nothing HTTP/1.0", 200),
    "a file of HTTP/1.0": ("GET /images/bb/get HTTP/1.0", 200),
    "HTTP/2": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/2 instead": (
        "GET /_ping HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        200,
    ),
    "a session of BuildKit": (
        "POST /session HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: h2c",
        501,
    ),
    "BuildKit's own protocol": (
        "POST /v1.41/grpc HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: h2c",
        501,
    ),
    "headers by the thousand": ("GET /_ping HTTP/1.1\r\nHost: a\r\n" + "A: b\r\n" * 10_000, 400),
    "what is expected and unknown": (f"{MAKE}Expect: much\r\nContent-Length: 2\r\n\r\n{{}}", 417),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_what_few_clients_say_is_understood_or_refused(raw: Raw, kind: str) -> None:
    text, status = UNUSUAL[kind]
    with raw.open() as sock:
        sock.sendall(text.encode() + (b"" if "\r\n\r\n" in text else b"\r\n\r\n"))
        with contextlib.suppress(ConnectionResetError):
            reply = read_reply(sock)
            assert reply.status == status, reply
    assert raw("GET", "/_ping").body == b"OK"


PING = "GET /_ping HTTP/1.1\r\nHost: a\r\n\r\n"


def said_at_once(raw: Raw, text: str) -> bytes:
    """All that is answered to one who says so much and shuts his side, as ``nc -N`` does."""
    with raw.open() as sock:
        sock.sendall(text.encode())
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


@pytest.mark.parametrize("asked", [1, 3, 40])
def test_who_has_nothing_more_to_say_is_answered(raw: Raw, asked: int) -> None:
    said = said_at_once(raw, PING * asked)
    assert said.count(b"HTTP/1.1 200 OK") == said.count(b"\r\n\r\nOK") == asked, said
    assert b" 200 " in said_at_once(raw, "GET /_ping HTTP/1.0\r\n\r\n")
    body = f"Content-Length: {len(JSON)}\r\n\r\n{JSON.decode()}"
    assert said_at_once(raw, PING + MAKE + body).count(b"HTTP/1.1 20") == 2
    assert b" 400 " in said_at_once(raw, "\0\0\r\n\r\n")


def test_half_of_a_request_and_its_end_are_no_request(raw: Raw) -> None:
    assert said_at_once(raw, "GET /_ping HT") == said_at_once(raw, "") == b""
    assert said_at_once(raw, f"{MAKE}Content-Length: 100\r\n\r\n{{") == b""


def test_a_stream_goes_on_for_one_who_has_nothing_more_to_say(cove: Cove, raw: Raw) -> None:
    name = cove("run", "-d", "bb", "sleep", "1000").out.strip()
    wanted = {"Cmd": ["sh", "-c", "cat; echo over"], "AttachStdin": True, "AttachStdout": True}
    made = json.loads(raw("POST", f"/containers/{name}/exec", wanted).body)["Id"]
    upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}"  # and no input
    text = f"POST /exec/{made}/start HTTP/1.1\r\nHost: a\r\n{upgrade}"
    assert said_at_once(raw, text).endswith(b"over\n")
    with raw.open() as sock:
        sock.sendall(f"POST /containers/{name}/wait HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        sock.shutdown(socket.SHUT_WR)
        assert b" 200 " in sock.recv(1 << 16)
        cove("kill", name)
        assert b'"StatusCode":137' in read_all(sock)


@pytest.mark.parametrize("path", ["/events?until=1", "/images/bb/get"])
def test_a_stream_without_chunks_ends_with_its_connection(raw: Raw, path: str) -> None:
    """Of HTTP/1.0: the next answer would be taken for more of it."""
    keep = "Connection: keep-alive\r\n\r\n"
    with raw.open() as sock:
        sock.sendall(f"GET {path} HTTP/1.0\r\n{keep}GET /_ping HTTP/1.0\r\n\r\n".encode())
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 ") and b"keep-alive" not in head.lower()
    assert not body.endswith(b"OK") and b"Api-Version: " not in body


def test_a_body_is_asked_for_only_where_it_is_wanted(raw: Raw) -> None:
    def said(path: str, length: int, body: bytes = b"") -> bytes:
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\n"
        with raw.open() as sock:
            sock.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
            first = sock.recv(1 << 16)
            if first.startswith(b"HTTP/1.1 100 "):
                sock.sendall(body)
                return read_all(sock)
            return first

    assert b" 404 " in said("/nothing", 15)
    assert b" 413 " in said("/containers/create", 10**12)
    assert b" 201 " in said("/containers/create", len(JSON), JSON)
    assert b"no instruction" in said("/build", 3, b"abc")


def test_names_that_are_no_text_are_nobodys(raw: Raw) -> None:
    for path in ("/containers/%ff%00/json", "/containers/\udcff/json", "/containers/%0a/json"):
        answer = raw("GET", path)
        assert answer.status in (400, 404), (path, answer)
    assert raw("DELETE", "/containers/%0a").message == "No such container: \n"
    assert raw("GET", "/%0a").message == "page not found"
    assert raw("POST", "/containers/create?name=%ff", {"Image": "bb"}).status == 400
    assert raw("GET", "/containers/json?filters=%ff").status == 400
    assert raw("GET", "/containers/json?filters=[1]").status == 400
    assert raw("GET", "/containers/json?limit=many").status == 400


def test_a_body_of_several_megabytes_is_decided_on_whole(cove: Cove, raw: Raw) -> None:
    """What is forbidden at its end is refused, although its beginning is large."""
    labels = {f"label-{n}": "x" * 1000 for n in range(3000)}
    body = {
        "Image": "bb",
        "Cmd": ["true"],
        "Labels": labels,
        "HostConfig": {"CgroupParent": "/late"},
    }
    answer = raw("POST", "/containers/create", body)
    assert answer.status == 501 and "CgroupParent" in answer.message
    del body["HostConfig"]
    made = raw("POST", "/containers/create", body)
    assert made.status == 201
    assert raw("DELETE", f"/containers/{json.loads(made.body)['Id']}").status == 204


GIGABYTE = b"Content-Length: 1000000000\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("request_line", "statuses"),
    [
        (b"POST /containers/create", (413,)),
        (b"GET /info", (413,)),
        (b"GET /events", (413,)),
        (b"POST /containers/%s/attach?stream=1", (400,)),
        (b"POST /build", (400,)),
        (b"POST /images/create?fromSrc=-", (400,)),
        (b"PUT /containers/%s/archive?path=/", (400,)),
    ],
)
def test_a_body_without_an_end_is_refused_before_it(
    cove: Cove, raw: Raw, request_line: bytes, statuses: tuple[int, ...]
) -> None:
    """The answer comes while the client still sends."""
    if b"%s" in request_line:
        request_line %= cove("create", "bb", "true").out.strip().encode()
    for head, piece in ((GIGABYTE, bytes(1 << 20)), (CHUNKED, b"100000\r\n" + bytes(1 << 20))):
        with raw.open() as sock:
            sock.sendall(request_line + b" HTTP/1.1\r\nHost: d\r\n" + head)
            sock.setblocking(False)
            left, ends = b"", select.poll()
            ends.register(sock, select.POLLIN | select.POLLOUT)
            while not ends.poll(120_000)[0][1] & select.POLLIN:
                left = left or piece + (b"\r\n" if head is CHUNKED else b"")
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    left = left[sock.send(left) :]
            assert int(sock.recv(12)[9:]) in statuses, request_line


@contextlib.contextmanager
def crowd(raw: Raw, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    """Clients that say so much, and then nothing."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(raw.open()) for _ in range(count)]
        for sock in sockets:
            sock.sendall(data)
        yield sockets


def test_clients_that_say_half_of_something_hold_nobody_up(raw: Raw) -> None:
    head = b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 100\r\n"
    with crowd(raw, 200, head), crowd(raw, 200, head + b"\r\n{"):
        assert raw("GET", "/_ping").body == b"OK"
        made = raw("POST", "/containers/create", {"Image": "bb", "Cmd": ["true"]})
        name = json.loads(made.body)["Id"]
        assert raw("POST", f"/containers/{name}/start").status == 204
        assert json.loads(raw("POST", f"/containers/{name}/wait").body) == {"StatusCode": 0}
        assert raw("DELETE", f"/containers/{name}").status == 204


def descriptors(cove: Cove) -> int:
    return len(os.listdir(f"/proc/{cove.daemon_pid()}/fd"))


def at_rest(cove: Cove) -> int:
    """Descriptors once all slots are made, each of which takes some."""
    seen = [-1]

    def look() -> bool:
        seen.append(descriptors(cove))
        machines = READY + len(cove("ps", "-q").out.split())
        return seen[-1] == seen[-2] and len(waiting_processes(cove)) == 2 * machines

    wait_until(look, "all slots")
    return seen[-1]


def test_many_who_come_at_once_are_all_let_in(cove: Cove, raw: Raw) -> None:
    """Who has a timeout is refused at once where the queue is full."""
    assert raw("GET", "/_ping").status == 200
    pid, waiting = cove.daemon_pid(), []
    with contextlib.ExitStack() as stack:
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(1000):
                one = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                one.settimeout(120)
                one.connect(raw.path)
                one.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                waiting.append(one)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert all(read_reply(one).body == b"OK" for one in waiting)


@pytest.mark.parametrize("half", [False, True], ids=["at once", "after their side"])
def test_clients_that_vanish_leave_nothing(cove: Cove, raw: Raw, half: bool) -> None:
    client = docker.DockerClient(base_url=f"unix://{raw.path}", timeout=120)
    made = client.containers.run("bb", ["sleep", "1000"], detach=True)
    raw("GET", "/_ping")
    before = at_rest(cove)
    requests = (
        f"POST /containers/{made.id}/wait",
        f"GET /containers/{made.id}/logs?follow=1&stdout=1",
        f"POST /containers/{made.id}/attach?stream=1&stdout=1",
    )
    for request in requests:
        upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if "attach" in request else ""
        head = f"{request} HTTP/1.1\r\nHost: d\r\n{upgrade}Content-Length: 0\r\n\r\n".encode()
        with crowd(raw, 20, head) as sockets:
            for sock in sockets[: 8 if upgrade else 20]:
                assert sock.recv(12).startswith(b"HTTP/1.1 ")
            for sock in sockets if half else ():
                sock.shutdown(socket.SHUT_WR)
            assert raw("GET", "/_ping").body == b"OK"  # that has been seen by now
    wait_until(lambda: descriptors(cove) <= before + 2, "descriptors are given back")
    made.remove(force=True)
    client.close()


def test_a_reader_that_is_stuck_holds_nobody_up(raw: Raw) -> None:
    client = docker.DockerClient(base_url=f"unix://{raw.path}", timeout=120)
    made = client.containers.run("bb", ["sh", "-c", "head -c 8000000 /dev/zero"], detach=True)
    made.wait()
    request = f"GET /containers/{made.id}/logs?stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n".encode()
    with crowd(raw, 30, request):
        assert raw("GET", "/_ping").body == b"OK"
        assert len(made.logs()) == 8_000_000
    made.remove()
    client.close()


def test_what_is_looked_at_may_go_meanwhile(raw: Raw) -> None:
    client = docker.DockerClient(base_url=f"unix://{raw.path}", timeout=120)
    made = client.containers.run("bb", ["sleep", "1000"], detach=True)
    shown = made.stats(decode=True, stream=True)
    assert next(shown)["id"] == made.id
    made.remove(force=True)
    assert all(each["id"] == made.id for each in shown)
    client.close()
