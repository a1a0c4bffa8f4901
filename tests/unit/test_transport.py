"""The HTTP transport against a played daemon: what it sends, and that no answer surprises it."""

from __future__ import annotations

import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from cove import errors
from cove.client.api import Client
from cove.client.transport import Http, Unreachable, error_from_json
from cove.engine import calls
from cove.errors import CoveError, HostError, NotFound, Unsupported, error_to_json

Daemon = Callable[[bytes], Client]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """A daemon that reads one request, answers with the given bytes and hangs up."""
    path = tmp_path / "api.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    threads: list[threading.Thread] = []
    asked: list[bytes] = []

    def serve(answer: bytes, *, body_end: bytes = b"") -> Client:
        def once() -> None:
            conn, _ = listener.accept()
            with conn:
                got = b""
                while b"\r\n\r\n" not in got or (body_end and not got.endswith(body_end)):
                    got += conn.recv(65536)
                asked.append(got)
                try:
                    conn.sendall(answer)
                except BrokenPipeError:
                    pass  # the client has read enough

        thread = threading.Thread(target=once)
        thread.start()
        threads.append(thread)
        client = Client(Http(str(path)))
        client.asked = asked  # type: ignore[attr-defined]
        return client

    yield serve
    for thread in threads:
        thread.join(120)
    listener.close()


def ok(body: bytes, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode() + body


WAITED = msgspec.json.encode(calls.Waited(3))


@pytest.mark.parametrize(
    "answer",
    [
        ok(WAITED, f"Content-Length: {len(WAITED)}"),
        ok(WAITED),
        ok(
            b"%x\r\n%s\r\n%x;x=y\r\n%s\r\n0\r\n\r\n" % (5, WAITED[:5], len(WAITED) - 5, WAITED[5:]),
            "Transfer-Encoding: chunked",
        ),
    ],
    ids=["length", "until the end", "chunks"],
)
def test_bodies(daemon: Callable[..., Client], answer: bytes) -> None:
    client = daemon(answer)
    assert client.wait(calls.Wait("m")) == calls.Waited(3)
    request = client.asked[0]  # type: ignore[attr-defined]
    assert request.startswith(b"POST /cove/v1/machine.wait HTTP/1.1\r\n")
    assert request.endswith(msgspec.json.encode(calls.Wait("m")))


def test_errors_arrive_as_they_were_raised(daemon: Callable[..., Client]) -> None:
    error = NotFound("cannot find m", origin="o", host="h", hint="i", exit_code=9)
    body = msgspec.json.encode(error_to_json(error))
    client = daemon(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    with pytest.raises(NotFound) as caught:
        client.wait(calls.Wait("m"))
    assert caught.value.render() == error.render()
    assert caught.value.exit_code == 9


def test_a_stream_and_its_late_error(daemon: Callable[..., Client]) -> None:
    entry = msgspec.json.encode(calls.LogEntry(5, 1, b"\xff\n"))
    late = msgspec.json.encode(error_to_json(HostError("cannot read the log")))
    body = entry + b"\n" + entry + b"\n" + late + b"\n"
    client = daemon(ok(body))
    found = []
    with pytest.raises(HostError, match="cannot read the log"):
        for item in client.logs(calls.Logs("m")):
            found.append(item)
    assert found == [calls.LogEntry(5, 1, b"\xff\n")] * 2


STRANGE = [
    (b"", "it is not HTTP"),
    (b"220 smtp ready\r\n\r\n", "it is not HTTP"),
    (b"HTTP/1.1 abc\r\n\r\n", "it is not HTTP"),
    (b"x" * 200_000, "it is not HTTP"),
    (ok(b"{}", "Content-Length: 500"), "it ended in the middle"),
    (ok(b"zz\r\n", "Transfer-Encoding: chunked"), "is not a size"),
    (ok(b"5\r\nab", "Transfer-Encoding: chunked"), "it ended in the middle"),
    (ok(b"[]", "Content-Length: 2"), "cannot read the daemon's answer"),
    (ok(b"", "Content-Length: -"), "is not a size"),
    (b"HTTP/1.1 500 X\r\n\r\noops", "it is not an error of cove"),
    (b'HTTP/1.1 500 X\r\n\r\n{"error":5}', "it is not an error of cove"),
    (b"HTTP/1.1 404 X\r\n\r\nnot found", "the daemon does not know it"),
]


@pytest.mark.parametrize(("answer", "message"), STRANGE, ids=lambda v: str(v[:30]))
def test_strange_answers(daemon: Callable[..., Client], answer: bytes, message: str) -> None:
    with pytest.raises(CoveError, match=message):
        daemon(answer).wait(calls.Wait("m"))


def test_files_and_directories_are_sent(daemon: Callable[..., Client], tmp_path: Path) -> None:
    done = msgspec.json.encode(calls.Progress("done", image="sha256:aa")) + b"\n"
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout/index.json").write_text("{}")
    (tmp_path / "a.tar").write_bytes(b"x" * 300_000)
    for name, part in (("a.tar", b"x" * 1000), ("layout", b"index.json")):
        client = daemon(ok(done), body_end=b"0\r\n\r\n")
        fd = os.open(tmp_path / name, os.O_RDONLY)
        try:
            steps = [*client.image_load(calls.ImageLoad("ä"), calls.Call(body=fd))]
        finally:
            os.close(fd)
        assert steps[-1].image == "sha256:aa"
        request = client.asked[-1]  # type: ignore[attr-defined]
        assert b'Cove-Params: {"origin": "\\u00e4"}\r\n' in request
        assert part in request


def test_nobody_listens(tmp_path: Path) -> None:
    client = Client(Http(f"{tmp_path}/{'d' * 60}/{'d' * 60}/api.sock"))
    with pytest.raises(Unreachable, match="no such file or directory") as caught:
        client.info()
    assert caught.value.hint == "start it: cove daemon start"
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    directory = os.open(deep, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{directory}/api.sock")
    os.close(directory)
    with pytest.raises(Unreachable, match="nobody listens"):
        Client(Http(f"{deep}/api.sock")).info()


def test_every_error_survives_the_wire() -> None:
    for name in dir(errors):
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, CoveError):
            again = error_from_json(error_to_json(kind("m", hint="h")))
            assert (type(again), again.message, again.hint) == (kind, "m", "h")
            assert again.exit_code == kind.exit_code
    for strange in (None, [], {"error": {}}, {"error": {"message": 5}}):
        assert "not an error of cove" in error_from_json(strange).message
    assert type(error_from_json({"error": {"class": "printable", "message": "m"}})) is CoveError
    assert isinstance(error_from_json(error_to_json(Unsupported("x"))), Unsupported)


def test_a_traceback_has_the_hint() -> None:
    error = errors.UsageError("cannot use memry=: no such option", hint="did you mean memory?")
    error.origin = "memry=3"
    text = "".join(traceback.format_exception_only(error))
    assert text == (
        "cove.errors.UsageError: cannot use memry=: no such option\n"
        "  from: memry=3\n  hint: did you mean memory?\n"
    )
