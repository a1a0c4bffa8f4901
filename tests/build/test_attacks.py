"""Builds that somebody hostile asks for, on the real kernel: nothing of the host is reached."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cove.build.files.entries import Sent
from cove.engine.builds.packs import HEAD
from cove.engine.calls.build import ImageBuild
from tests.build.conftest import Build
from tests.build.test_packs import END, member, pax_of
from tests.driver import Cove, wait_until

pytestmark = pytest.mark.usefixtures("tidied")


@pytest.fixture
def mark(cove: Cove) -> Iterator[str]:
    """The path of a file of the host, which no build may see or make."""
    path = cove.root / f"mark-{secrets.token_hex(8)}"
    yield str(path)
    assert not path.exists()


def grab(mark: str) -> str:
    """A Dockerfile that writes to the host, once its ``/`` is mounted on /h."""
    return f"FROM bb\nRUN --mount=type=bind,target=/h,rw touch /h{mark}\n"


# ---- a root that leads out ----


@pytest.mark.parametrize("name", [".", "./"])
def test_the_root_of_an_archive_is_no_way_out(cove: Cove, mark: str, name: str) -> None:
    link = member(name, b"2", linkname="/")
    text = grab(mark).encode()
    failed = cove("build", "-", stdin=member("Dockerfile", data=text) + link + END, code=1)
    assert "its root is no folder" in failed.err


def test_nor_is_that_of_files_that_are_sent(cove: Cove, mark: str) -> None:
    """By a client of one's own: cove's never sends a root."""
    for name in (b".", b"/", b""):
        asked = msgspec.msgpack.encode(ImageBuild(grab(mark).encode(), images={}))
        head = msgspec.msgpack.encode(Sent(name, "link", 0o777, 0, link=b"/"))
        body = HEAD.pack(len(asked)) + asked + HEAD.pack(len(head)) + head + HEAD.pack(0)
        answer = told(cove, body)
        assert b"its root is no folder" in answer, answer


def test_nor_is_that_of_an_archive_that_is_unpacked(build: Build, tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(member("f") + member(".", b"2", linkname="/") + END)
    failed = build("FROM bb\nADD in.tar /x/\n", code=1)
    assert "its root is no folder" in failed.err and "Dockerfile:2" in failed.err


def test_links_of_a_context_and_of_a_stage_lead_nowhere(cove: Cove, mark: str) -> None:
    """As sources of mounts, of COPY, and with files that an archive puts below them."""
    top = Path(mark).parent
    data = member("a", b"2", linkname=str(top)) + member("a/b", data=b"x")
    texts = [
        f"FROM bb\nRUN --mount=type=bind,source=a,target=/h,rw touch /h/{Path(mark).name}\n",
        "FROM bb\nRUN --mount=type=bind,source=a/b,target=/h,rw true\n",
        f"FROM bb AS s\nRUN ln -s {top} /a\nFROM bb\n"
        f"RUN --mount=type=bind,from=s,source=/a,target=/h,rw touch /h/{Path(mark).name}\n",
        "FROM bb\nCOPY a /got/\n",
        "FROM bb\nCOPY --parents a/b /got/\n",
    ]
    for text in texts:
        tar = member("Dockerfile", data=text.encode()) + data + END
        failed = cove("build", "-", stdin=tar, code=1)
        assert " is not in " in failed.err, (text, failed.err)


# ---- what is large only when it is read ----


def test_a_file_of_names_is_read_up_to_an_end(build: Build) -> None:
    text = "FROM bb\nRUN truncate -s 2G /etc/passwd\nCOPY --chown=ada Dockerfile /\n"
    failed = build(text, code=1)
    assert "cannot read /etc/passwd: " in failed.err and "more than 1024 KiB" in failed.err


def test_an_archive_of_holes_fills_no_disk(build: Build, tmp_path: Path) -> None:
    head = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "holes",
            "GNU.sparse.realsize": str(1 << 45)}  # fmt: skip
    parts = b"1\n0\n1\n" + bytes(506) + b"x"
    data = pax_of("x", head) + member("GNUSparseFile.0/holes", data=parts) + END
    (tmp_path / "in.tar").write_bytes(data)
    failed = build("FROM bb\nADD in.tar /x/\n", code=1)
    assert "larger than there is room for" in failed.err and "Dockerfile:2" in failed.err


def test_a_file_with_holes_of_another_stage_is_whole(build: Build) -> None:
    """Without an end of what is read, that is."""
    text = (
        "FROM bb AS s\nRUN truncate -s 9M /f && echo end >>/f\nFROM bb\n"
        "COPY --from=s /f /f\nRUN --mount=type=bind,from=s,source=/f,target=/g,rw "
        'cmp /f /g && test "$(tail -c 4 /f)" = end && test $(stat -c %s /g) = 9437188\n'
    )
    build(text)


# ---- over HTTP ----


def ask(cove: Cove, body: bytes, *, more: int = 0) -> socket.socket:
    """``more``: bytes that were promised, and do not come."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(cove.root / "run/api.sock"))
    sock.settimeout(120)
    head = (
        f"POST /cove/v1/image.build HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body) + more}\r\n"
    )
    sock.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
    return sock


def told(cove: Cove, body: bytes) -> bytes:
    with ask(cove, body) as sock:
        answer = b""
        while data := sock.recv(1 << 16):
            answer += data
    return answer


def held(cove: Cove, word: bytes) -> list[str]:
    """Files of the state directory that have it, those without a name included."""
    pid, device = cove.daemon_pid(), cove.root.stat().st_dev
    names = [Path(folder, name) for folder, _, found in os.walk(cove.root) for name in found]
    names += [Path(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    having = []
    for path in names:
        with contextlib.suppress(FileNotFoundError):
            file = path.stat()
            here = stat.S_ISREG(file.st_mode) and file.st_dev == device
            if here and word in path.read_bytes():
                having.append(str(path))
    return having


def test_a_secret_over_http_is_on_no_disk(cove: Cove) -> None:
    word = secrets.token_hex(20).encode()
    text = (
        "FROM bb\nRUN --mount=type=secret,id=t test -s /run/secrets/t && echo ready "
        "&& exec sleep 10000\n"
    )
    asked = msgspec.msgpack.encode(ImageBuild(text.encode(), context="files", secrets={"t": word}))
    body = HEAD.pack(len(asked)) + asked + HEAD.pack(0)
    with ask(cove, body) as sock:
        answer = b""
        while b'"cmVhZHkK"' not in answer:  # what was said, in JSON
            data = sock.recv(1 << 16)
            assert data, answer
            answer += data
        assert held(cove, word) == []
    wait_until(lambda: not cove("ps", "-aq").out, "the end of the step's machine")


def test_a_build_over_http(cove: Cove) -> None:
    data = os.urandom(3 << 20)
    text = b"FROM bb\nCOPY f /f\nRUN sha256sum /f | cut -c 1-64\n"
    asked = msgspec.msgpack.encode(ImageBuild(text, tags=("byhttp",)))
    head = msgspec.msgpack.encode(Sent(b"f", "file", 0o644, 0, len(data)))
    body = HEAD.pack(len(asked)) + asked + HEAD.pack(len(head)) + head + data + HEAD.pack(0)
    answer = told(cove, body)
    assert b'"done"' in answer, answer
    assert json.loads(cove("image", "inspect", "byhttp").out)


def test_a_client_that_stops_in_the_middle_of_its_context(cove: Cove) -> None:
    asked = msgspec.msgpack.encode(ImageBuild(b"FROM bb\nCOPY f /f\n"))
    head = msgspec.msgpack.encode(Sent(b"f", "file", 0o644, 0, 1 << 20))
    body = HEAD.pack(len(asked)) + asked + HEAD.pack(len(head)) + head + bytes(1 << 19)
    with ask(cove, body, more=1 << 19):
        wait_until(lambda: nameless(cove), "the build has begun")
    wait_until(lambda: not nameless(cove), "the build has ended with its client")
    with ask(cove, b"\xff" * 8, more=1 << 20) as sock:
        assert b"has over 64 MiB" in sock.recv(1 << 16), "it is answered before its end"


def nameless(cove: Cove) -> list[str]:
    """Files of builds, which have no name."""
    pid, found = cove.daemon_pid(), []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return [path for path in found if path.startswith(f"{cove.root.resolve()}/tmp/")]
