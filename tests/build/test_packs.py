"""Contexts and archives that nobody sends in good faith, without a daemon."""

from __future__ import annotations

import http.server
import io
import itertools
import os
import stat
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest

from cove.build.files import entries
from cove.build.files.entries import (
    DEPTH_MAX,
    FIFO,
    FILE,
    FOLDER,
    LINK,
    Entry,
    Files,
    Sent,
    clean,
)
from cove.build.files.select import Place, Placed, digest_of, select, select_parents
from cove.build.source import Place as Line
from cove.client import building
from cove.client.packing import send_archive
from cove.engine.builds import fetching, verb
from cove.engine.builds.gathering import TOP
from cove.engine.builds.heads import head_of, long_head
from cove.engine.builds.packs import HEAD, PIECE, read_files, read_sent, read_tar
from cove.engine.calls import Call
from cove.engine.calls.build import BuildStep
from cove.engine.events import Cancel
from cove.errors import BadArchive, CoveError, HostError, UsageError
from cove.image import pipeline
from cove.linux.mounts import open_source
from tests.driver import wait_until

INTO = Place("app", folder=True, exists=True)
END = bytes(1024)


def go_on() -> None:
    pass


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **more: Any) -> bytes:
    """A header, as tarfile would write it, and its content."""
    form = more.pop("format", tarfile.PAX_FORMAT)
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for word, value in more.items():
        setattr(info, word, value)
    head = info.tobuf(form, "utf-8", "surrogateescape")
    return head + data + bytes(-len(data) % 512)


def raw(name: bytes, kind: bytes, size: bytes, data: bytes = b"") -> bytes:
    """A header with a size of one's own making."""
    head = bytearray(512)
    head[: len(name)], head[100:107], head[156:157] = name, b"0000644", kind
    head[124 : 124 + len(size)], head[257:265] = size, b"ustar\x0000"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data + bytes(-len(data) % 512)


def pax(**said: str) -> bytes:
    """An extended header for what follows."""
    return pax_of("x", {name.replace("__", "."): value for name, value in said.items()})


def pax_of(kind: str, said: dict[str, str]) -> bytes:
    records = b""
    for name, value in said.items():
        body = f" {name}={value}\n".encode("utf-8", "surrogateescape")
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length = len(str(length)) + len(body)
        records += str(length).encode() + body
    return member("pax", kind.encode(), records, format=tarfile.USTAR_FORMAT)


@contextmanager
def opened(data: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()


def read(data: bytes, below: str = "") -> Files:
    with opened(data) as fd:
        return read_tar(fd, "it", go_on, below=below)


def sent_of(one: Sent) -> bytes:
    """Its head."""
    data = msgspec.msgpack.encode(one)
    return HEAD.pack(len(data)) + data


def send(*sent: Sent) -> Files:
    words = b"".join(map(sent_of, sent))
    with opened(words + HEAD.pack(0)) as body, opened(b"") as out:
        os.lseek(body, 0, os.SEEK_SET)
        return read_sent(body, out, go_on)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\0", "it ended in the middle"),
        (HEAD.pack(9) + b"x", "it ended in the middle"),
        (HEAD.pack(1 << 20), "it is no context, or too large"),
        (HEAD.pack(1) + b"\xc1", "it is no context"),
        (sent_of(Sent(b"f", "what", 0, 0)), "it has files of an unknown kind"),
        (sent_of(Sent(b"../f", FILE, 0, 0)), "a file is called ../f"),
        (sent_of(Sent(b"f", FILE, 0, 0, size=5)), "it ended in the middle"),
        (
            sent_of(Sent(b"f", FILE, 0, 0, xattrs=((b"user.a", b"v" * 17_000),))),
            "a file has over 16 KiB of attributes",
        ),
    ],
)
def test_which_context_is_wrong_is_said(data: bytes, why: str) -> None:
    with opened(b"") as out, pytest.raises(BadArchive) as caught:
        read_files(io.BytesIO(data), out, go_on, "the context other")
    assert caught.value.message == f"cannot read the context other: {why}"


# ---- attributes ----


def test_attributes_are_kept_byte_by_byte_and_have_an_end() -> None:
    """A capability has bytes that are no UTF-8, and so may what a file is known by."""
    kept = {"SCHILY.xattr.user.a": "1\udcff\0", "SCHILY.xattr.security.capability": "\udc80"}
    dropped = {"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.system.x": "x"}
    found = read(pax_of("x", kept | dropped) + member("f") + END)["f"]
    assert found.xattrs == (("security.capability", "\udc80"), ("user.a", "1\udcff\0"))
    sent = send(Sent(b"f", FILE, 0o644, 0, xattrs=((b"user.a", b"\xff"), (b"trusted.a", b""))))
    assert sent["f"].xattrs == (("user.a", "\udcff"),)
    others = [digest_of([Placed(one, "f")]) for one in (found, sent["f"], Entry("f", FILE))]
    assert len(set(others)) == 3
    for name in ("user." + "a" * 20_000, "user.a"):
        with pytest.raises(BadArchive, match="over 16 KiB of attributes"):
            read(pax_of("x", {f"SCHILY.xattr.{name}": "v" * 17_000}) + member("f") + END)
        with pytest.raises(BadArchive, match="over 16 KiB of attributes"):
            send(Sent(b"f", FILE, 0o644, 0, xattrs=((name.encode(), b"v" * 17_000),)))


# ---- where the root is ----


@pytest.mark.parametrize("name", [".", "./", "/", "././"])
def test_a_root_is_no_link(name: str) -> None:
    link = member(name, tarfile.SYMTYPE, linkname="/")
    for data in (link, member("f", data=b"x") + link, link + member("f")):
        with pytest.raises(BadArchive, match="its root is no folder"):
            read(data + END)
    with pytest.raises(BadArchive, match="its root is no folder"):
        send(Sent(name.encode(), "link", 0o777, 0, link=b"/"))


def test_a_root_is_no_other_name_of_a_link_either() -> None:
    data = member("l", tarfile.SYMTYPE, linkname="/") + member(".", tarfile.LNKTYPE, linkname="l")
    with pytest.raises(BadArchive, match="its root is no folder"):
        read(data + END)
    with pytest.raises(BadArchive, match="its root is no folder"):
        read(member(".", data=b"a file") + END)


def test_what_comes_out_of_a_tree_may_be_a_file_and_never_a_link() -> None:
    assert read(member(TOP, data=b"x") + END, TOP)[""].kind == FILE
    with pytest.raises(BadArchive, match="its root is no folder"):
        read(member(TOP, tarfile.SYMTYPE, linkname="/") + END, TOP)


def test_what_is_below_a_link_is_not_there() -> None:
    tree = read(member("a", tarfile.SYMTYPE, linkname="/etc") + member("a/b", data=b"x") + END)
    assert select(tree, "a/b", INTO, None) == []
    assert select_parents(tree, "", "a/b", INTO, None) == []
    assert [one.entry.path for one in select(tree, "", INTO, None)] == ["a"]


@pytest.mark.parametrize("target", ["/etc/passwd", "etc/passwd", "folder", "."])
def test_hard_links_are_of_files_that_came_before(target: str) -> None:
    data = member("folder", tarfile.DIRTYPE) + member("l", tarfile.LNKTYPE, linkname=target)
    with pytest.raises(BadArchive, match="a hard link to what is not in it"):
        read(data + END)


def test_what_cove_has_unpacked_is_mounted_without_following(tmp_path: Path) -> None:
    """Should a link come to be there all the same."""
    (tmp_path / "in/fs").mkdir(parents=True)
    (tmp_path / "in/fs/top").symlink_to("/")
    (tmp_path / "in/file").write_text("x")
    (tmp_path / "to").symlink_to("in")
    step = str(tmp_path)
    for path in ("in/fs/top", "in/fs/top/etc", "to/file", "../x"):
        with pytest.raises(HostError):
            open_source(f"{step}/{path}", "/h", within=step)
    with pytest.raises(HostError):
        open_source(f"{step}/to/file", "/h", within=f"{step}/to")
    source = open_source(f"{step}/in/file", "/h", within=step)
    assert stat.S_ISREG(os.fstat(source.fd).st_mode)
    os.close(source.fd)


# ---- headers ----

NEGATIVE = b"\xff" * 11 + b"\x00"
"""In base 256: tarfile would go backwards, and read the same again, for good."""
SENSELESS = [
    raw(b"f", b"0", NEGATIVE),
    raw(b"f", b"Z", NEGATIVE),
    raw(b"f", b"x", NEGATIVE),
    raw(b"f", b"L", NEGATIVE),
    pax(size="-512") + member("f", data=b"x" * 512),
    pax_of("g", {"size": "-512"}) + member("f", data=b"x" * 512),
    pax(size="9" * 30) + member("f", data=b"x"),
    pax(path="x" * (1 << 20)) + member("f"),
    raw(b"f", b"L", b"%011o" % (64 << 20), bytes(512)),
    raw(b"f", b"K", b"%011o" % (64 << 20), bytes(512)),
    raw(b"f", b"x", b"\x80" + b"\xff" * 11),
    b"".join(pax_of("g", {f"k{n}": "v" * 500_000}) + member("f") for n in range(4)),
    pax_of("g", {"k": "v"}) * 3_000 + member("f"),
    pax(GNU__sparse__map="0,x") + member("f"),
    pax(GNU__sparse__size="²", GNU__sparse__map="0,1") + member("f", data=b"x"),
    pax(mtime="nan") + member("f"),
    pax(mtime="1e999") + member("f"),
    pax(mtime="9" * 5_000 + ".5") + member("f"),
    pax(path="a\0b") + member("f"),
    pax(linkpath="a\0b") + member("f", tarfile.SYMTYPE, linkname="x"),
    pax(linkpath="a" * 5_000) + member("f", tarfile.SYMTYPE, linkname="x"),
    pax(SCHILY__xattr__security__capability="x" * 1_000) + member("f"),
    member("a/" * (DEPTH_MAX + 1) + "f"),
    raw(b"f", b"0", b"%011o" % (1 << 30), b"x"),
]  # fmt: skip


@pytest.mark.parametrize("data", SENSELESS, ids=range(len(SENSELESS)))
def test_headers_that_make_no_sense_are_named(data: bytes) -> None:
    with pytest.raises(BadArchive, match="cannot read it: "):
        read(data + END)


def test_digits_of_others_are_none() -> None:
    tree = read(pax(mtime="²." + "³") + member("f", mtime=7) + END)
    assert tree["f"].mtime_ns == 0, "as tarfile has what is no number"
    assert read(pax(mtime="-1.25") + member("f") + END)["f"].mtime_ns == -1_250_000_000


@pytest.mark.parametrize("compress", ["", "gz", "bz2", "xz"])
def test_the_dockerfile_of_an_archive_is_looked_for_with_the_same_care(compress: str) -> None:
    def packed(data: bytes) -> bytes:
        import bz2
        import gzip
        import lzma

        how: dict[str, Callable[[bytes], bytes]] = {
            "": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress,
        }  # fmt: skip
        return how[compress](data)

    file = member("./Dockerfile", data=b"FROM x\n")
    front = member("big", data=bytes(3 << 20))
    with opened(packed(front + file + END)) as fd:
        found = building.in_archive(fd, "Dockerfile", go_on, "-")
    assert found.dockerfile == b"FROM x\n"
    for bad in (SENSELESS[0], SENSELESS[4], SENSELESS[8]):
        with opened(packed(bad + file + END)) as fd, pytest.raises(UsageError):
            building.in_archive(fd, "Dockerfile", go_on, "-")
    calls = iter(range(2))

    def gone() -> None:
        if next(calls, None) is None:
            raise CoveError("interrupted")

    data = packed(member("big", data=bytes(40 << 20)) + file + END)
    with opened(data) as fd, pytest.raises(CoveError, match="interrupted"):
        building.in_archive(fd, "Dockerfile", gone, "-")


# ---- how much ----


def test_a_context_has_what_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    none = os.memfd_create("no room")  # of the kernel's own tmpfs, which tells of no free block
    try:
        with pytest.raises(HostError, match="no space left on device"):
            building.spool([b"x"], none, "it", go_on)
        assert os.fstat(none).st_size == 0
    finally:
        os.close(none)
    with opened(b"") as fd:
        building.spool([b"ab", b"c"], fd, "it", go_on)
        assert os.pread(fd, 9, 0) == b"abc"
        monkeypatch.setattr(pipeline, "BYTES_MAX", 3)
        with pytest.raises(UsageError, match="it has more than"):
            building.spool([b"ab", b"cd"], fd, "it", go_on)


def test_rules_of_an_archive_that_are_too_many() -> None:
    with opened(member(".dockerignore", data=bytes(2 << 20)) + END) as fd:
        out = os.open(os.devnull, os.O_WRONLY)
        try:
            with pytest.raises(UsageError, match="it has more than 1 MiB"):
                send_archive(fd, "it", out, go_on)
        finally:
            os.close(out)


def test_folders_that_nobody_named_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "ENTRIES_MAX", 1_000)
    names = [f"{n}/" + "d/" * 100 + "f" for n in range(20)]
    with pytest.raises(BadArchive, match="files and folders"):
        read(b"".join(map(member, names)) + END)
    with pytest.raises(BadArchive, match="files and folders"):
        send(*(Sent(name.encode(), "fifo", 0o644, 0) for name in names))


def test_names_and_links_have_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "NAMES_MAX", 10_000)
    with pytest.raises(BadArchive, match="MiB of names"):
        Files(Entry(f"{n}" + "x" * 900, FILE) for n in range(20))
    with pytest.raises(BadArchive, match="MiB of names"):
        Files(Entry(f"{n}", LINK, link="x" * 900) for n in range(20))
    with pytest.raises(BadArchive, match="leads to what is no path"):
        send(Sent(b"l", "link", 0o777, 0, link=b"x" * 4_096))


def test_depth_has_an_end() -> None:
    assert clean("a/" * DEPTH_MAX + "f", "it")
    with pytest.raises(BadArchive, match="folders in each other"):
        clean("a/" * (DEPTH_MAX + 1) + "f", "it")


def test_a_tree_is_not_made_for_nobody() -> None:
    asked = iter(range(10))

    def gone() -> None:
        if next(asked, None) is None:
            raise CoveError("interrupted")

    with pytest.raises(CoveError, match="interrupted"):
        Files((Entry(f"{n}", FILE) for n in range(100)), gone=gone)


# ---- holes ----


def sparse(size: int, *parts: tuple[int, bytes]) -> bytes:
    """A file with holes, as GNU tar writes it."""
    words = [len(parts), *(word for at, data in parts for word in (at, len(data)))]
    text = "".join(f"{word}\n" for word in words).encode()
    data = text + bytes(-len(text) % 512) + b"".join(data for _, data in parts)
    head = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "holes",
            "GNU.sparse.realsize": str(size)}  # fmt: skip
    return pax_of("x", head) + member("GNUSparseFile.0/holes", data=data) + END


def test_holes_stay_holes_and_the_bytes_are_where_they_were() -> None:
    data = sparse(64 << 20, (4096, b"one"), ((64 << 20) - 3, b"two"))
    asked = []
    with opened(data) as fd:
        entry = read_tar(fd, "it", lambda: asked.append(1))["holes"]
        assert entry.size == 64 << 20
        assert os.pread(fd, 5, entry.content + 4095) == b"\0one\0"
        assert os.pread(fd, 9, entry.content + entry.size - 4) == b"\0two"
        assert os.fstat(fd).st_blocks * 512 < 1 << 20
    assert len(asked) > entry.size // PIECE, "it is asked whether anybody wants it"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (sparse(1 << 50, (0, b"x")), "larger than there is room for"),
        (sparse(10, (4, b"four"), (0, b"zero")), "in no order"),
        (sparse(10, (8, b"four")), "in no order"),
        (sparse(-10, (0, b"x")), "negative size"),
        (sparse(10, (-1, b"x")), "in no order"),
    ],
)
def test_holes_that_cannot_be(data: bytes, why: str) -> None:
    with opened(data) as fd:
        before = os.fstat(fd).st_size
        with pytest.raises(BadArchive, match=why):
            read_tar(fd, "it", go_on)
        assert os.fstat(fd).st_size <= before + 10


# ---- the web ----

LINE = Line("Dockerfile", 1, 1, "ADD x /")


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Leads wherever the path says; and what it was asked for."""
    asked: list[str] = []

    class Leading(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", unquote(self.path[4:]))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.send_header("Last-Modified", f"Mon, 01 Jan 2020 00:00:00 +{10**19}")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Leading) as one:
        thread = threading.Thread(target=one.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{one.server_address[1]}", asked
        finally:
            one.shutdown()
            thread.join()


def fetched(url: str, *, loopback: bool) -> fetching.Got:
    with opened(b"") as fd:
        return fetching.fetch(url, fd, LINE, Cancel(), loopback=loopback)


def test_nothing_is_fetched_from_this_host(server: tuple[str, list[str]]) -> None:
    url, asked = server
    port = url.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]"):
        with pytest.raises(UsageError, match="this host's own loopback"):
            fetched(f"http://{host}:{port}/f", loopback=False)
    assert asked == []
    got = fetched(f"{url}/f", loopback=True)
    assert (got.size, got.mtime_ns) == (2, 0), "a date that nobody can mean is none"
    assert fetched(f"{url}/to/{url}/f", loopback=True).size == 2


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://169.254.169.254/latest", "a cloud's metadata service"),
        ("http://[fd00:ec2::254]/", "a cloud's metadata service"),
        ("http://169.254.7.7/", "a link-local address"),
        ("http://0.0.0.0/", "no host's address"),
        ("file:///etc/shadow", "no web address"),
        ("ftp://example.com/", "no web address"),
        ("/to//to//to//to//to//to//f", "more than 5 times"),
    ],
)
def test_a_server_leads_nowhere_that_is_not_the_web(
    server: tuple[str, list[str]], target: str, why: str
) -> None:
    url, _ = server
    if not target.startswith("/"):
        with pytest.raises(UsageError, match=why):
            fetched(target, loopback=True)
    with pytest.raises(UsageError, match=why):
        fetched(f"{url}/to/{target}", loopback=True)


@pytest.mark.parametrize(
    "text", ["", "never", "Mon, 01 Jan 99999 00:00:00 GMT", f"Mon, 01 Jan 2020 00:00:00 +{10**19}"]
)
def test_dates_that_nobody_means(text: str) -> None:
    assert fetching._modified(text) == 0


# ---- a reader that is slow ----


def test_a_program_waits_for_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    told = 0

    def build(home: object, params: object, call: Call, tell: Any, stopped: object) -> BuildStep:
        nonlocal told
        for _ in range(2_000):
            tell("log", 1, text=b"y\n" * 100)
            told += 1
        return BuildStep("done")

    monkeypatch.setattr(verb, "_build", build)
    monkeypatch.setattr(verb, "_asked", lambda body: None)
    seen = 0
    for _ in verb.image_build(None, Call()):  # type: ignore[arg-type]
        if not seen:
            wait_until(lambda: told > 64, "a build that is as far ahead as it may be")
        seen += 1
        assert told - seen <= 64
    assert seen == 2_001


def test_a_context_that_there_is_no_room_for(tmp_path: Path) -> None:
    """By standard input, by ``POST /build`` and by URL: all are kept for a while."""
    words = ("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path))
    subprocess.run(words, check=True)
    try:
        with (tmp_path / "kept").open("wb", buffering=0) as kept:
            pieces = [bytes(64 << 10)] * 8
            with pytest.raises(HostError, match="no space left on device"):
                building.spool(pieces, kept.fileno(), "standard input", lambda: None)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.parametrize("kind", [FILE, FOLDER, LINK, FIFO])
def test_heads_are_those_of_tarfile(kind: str) -> None:
    """The quick way, and where a name, a number or an attribute leaves it."""
    names = ("", "a", "a" * 99, "a" * 100, "a" * 101, "d/\xe9", "x/y z", "n\nl", "\udc80")
    times = (0, -1, 1_700_000_000_123456789, -(10**18), 10**20)
    links = ("", "l" * 100, "l" * 101, "\xfc") if kind == LINK else ("",)
    firsts = (None, "k", "k" * 101, "\xfc") if kind == FILE else (None,)
    for name, ns, link, first in itertools.product(names, times, links, firsts):
        for uid, xattrs in ((0, ()), (8**7 - 1, ()), (8**7, ()), (5, (("user.a", "b"),))):
            size = 777 if kind == FILE else 0
            entry = Entry("p", kind, 0o4755, uid, uid, ns, size=size, link=link, xattrs=xattrs)
            for one in (Placed(entry, name), Placed(entry, name, made=True)):
                assert head_of(one, 42, first) == long_head(one, 42, first)
