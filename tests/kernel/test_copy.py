"""``cp``: Docker's rules for names, both directions, running, paused and stopped."""

from __future__ import annotations

import base64
import contextlib
import errno
import gzip
import io
import json
import os
import socket
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, front_path, wait_until
from tests.shared import container_only

SCRIPT = """
mkdir -p /data/dir/sub /data/other
echo one >/data/one; echo two >/data/dir/two; echo three >/data/dir/sub/three
ln -s /data/dir /data/link; ln -s dir/two /data/tofile; ln /data/one /data/again
ln -s /nowhere /data/dangling; mkfifo /data/fifo
mkdir /data/special; ln -s ../../etc/passwd /data/special/up; ln -s /etc/passwd /data/special/abs
mkfifo /data/special/fifo; printf x >/data/special/setuid; chown 1000:1000 /data/special/setuid
chmod 4755 /data/special/setuid
touch /ready; exec sleep 10000
"""


@pytest.fixture(scope="module", params=["running", "stopped"])
def box(request: pytest.FixtureRequest, cove: Cove) -> Iterator[str]:
    """A machine with files, in either state that it may be in."""
    name = f"files-{request.param}"
    cove("run", "-d", "--name", name, "bb", "sh", "-c", SCRIPT)
    cove("exec", name, "sh", "-c", "until test -e /ready; do sleep 0.01; done")
    if request.param == "stopped":
        cove("kill", name)
    yield name
    cove("rm", "-f", name)


def archive_of(cove: Cove, what: str) -> tarfile.TarFile:
    done = subprocess.run(
        [front_path(), "cp", what, "-"], env=cove.env, capture_output=True, check=True, timeout=180
    )
    return tarfile.open(fileobj=io.BytesIO(done.stdout))


def look(cove: Cove, box: str, path: str, tmp_path: Path) -> bytes:
    """A file of the machine, whatever its state."""
    target = tmp_path / "looked"
    target.unlink(missing_ok=True)
    cove("cp", f"{box}:{path}", str(target))
    return target.read_bytes()


# ---- out ----


def test_out_as_an_archive(cove: Cove, box: str) -> None:
    for source, names in (
        ("/data/one", ["one"]),
        ("data/one", ["one"]),
        ("/data/dir", ["dir", "dir/sub", "dir/sub/three", "dir/two"]),
        ("/data/dir/", ["dir", "dir/sub", "dir/sub/three", "dir/two"]),
        ("/data/dir/.", [".", "./sub", "./sub/three", "./two"]),
        ("/data/link", ["link"]),
        ("/data/link/", ["link", "link/sub", "link/sub/three", "link/two"]),
        ("/data/../data/./one", ["one"]),
        ("/data/fifo", ["fifo"]),
    ):
        assert [entry.name for entry in archive_of(cove, f"{box}:{source}")] == names, source


def test_out_to_files(cove: Cove, box: str, tmp_path: Path) -> None:
    out = str(tmp_path)
    cove("cp", f"{box}:/data/one", out)  # into a directory
    assert (tmp_path / "one").read_text() == "one\n"
    cove("cp", f"{box}:/data/dir/two", f"{out}/one")  # onto a file
    assert (tmp_path / "one").read_text() == "two\n"
    cove("cp", f"{box}:/data/one", f"{out}/new")  # under a name
    assert (tmp_path / "new").read_text() == "one\n"
    cove("cp", f"{box}:/data/dir", f"{out}/made")  # a directory under a new name
    assert (tmp_path / "made/sub/three").read_text() == "three\n"
    cove("cp", f"{box}:/data/dir", f"{out}/made")  # and into what is there now
    assert (tmp_path / "made/dir/sub/three").exists()
    cove("cp", f"{box}:/data/dir/.", f"{out}/made")
    assert (tmp_path / "made/two").exists()
    cove("cp", f"{box}:/data/tofile", f"{out}/copied")
    assert os.readlink(tmp_path / "copied") == "dir/two"
    cove("cp", "-L", f"{box}:/data/tofile", f"{out}/followed")
    assert (tmp_path / "followed").read_text() == "two\n"
    cove("cp", f"{box}:/data/one", "relative", cwd=tmp_path)
    assert (tmp_path / "relative").exists()


def test_out_refuses_what_docker_refuses(cove: Cove, box: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    out = str(tmp_path)
    for words, said in (
        ((f"{box}:/data/dir", f"{out}/file"), "a directory onto a file"),
        ((f"{box}:/data/one", f"{out}/missing/"), "no such directory"),
        ((f"{box}:/data/one", f"{out}/missing/deep/x"), "does not exist"),
        ((f"{box}:/nothing", out), "cannot find /nothing"),
        ((f"{box}:/data/one/", out), "cannot find /data/one/"),
        ((f"{box}:/a", f"{box}:/b"), "between machines"),
        (("a", "b"), "neither is in a machine"),
        ((f"{box}:", out), "names no path"),
        (("nosuch:/a", out), "no such machine"),
    ):
        done = cove("cp", *words, code=1)
        assert said in done.err, words
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_out_what_is_special(cove: Cove, box: str, tmp_path: Path) -> None:
    """Links stay links, a FIFO is one, and no set-user-ID bit of a machine's becomes root's."""
    cove("cp", f"{box}:/data/special", str(tmp_path))
    got = tmp_path / "special"
    assert os.readlink(got / "up") == "../../etc/passwd"
    assert stat.S_ISFIFO((got / "fifo").lstat().st_mode)
    status = (got / "setuid").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), 0o755)
    cove("cp", "-a", f"{box}:/data/special", str(tmp_path / "kept"))
    status = (tmp_path / "kept/setuid").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (1000, 0o4755)


def test_out_of_the_root_leaves_the_kernels_files(cove: Cove, box: str, tmp_path: Path) -> None:
    cove("cp", f"{box}:/", str(tmp_path / "root"))
    for name in ("proc", "sys", "dev"):
        assert os.listdir(tmp_path / "root" / name) == []
    assert (tmp_path / "root/data/again").read_text() == "one\n"
    one, again = tmp_path / "root/data/one", tmp_path / "root/data/again"
    assert one.stat().st_ino == again.stat().st_ino


# ---- in ----


def test_into(cove: Cove, box: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from here")
    (tmp_path / "tree/deep").mkdir(parents=True)
    (tmp_path / "tree/deep/leaf").write_text("leaf")
    (tmp_path / "tofile").symlink_to("file")
    here = str(tmp_path)
    for words, path, text in (
        ((f"{here}/file", f"{box}:/data/other"), "/data/other/file", b"from here"),
        ((f"{here}/file", f"{box}:/data/other/named"), "/data/other/named", b"from here"),
        ((f"{here}/file", f"{box}:/"), "/file", b"from here"),
        ((f"{here}/tree", f"{box}:/data/other"), "/data/other/tree/deep/leaf", b"leaf"),
        ((f"{here}/tree", f"{box}:/data/other/t"), "/data/other/t/deep/leaf", b"leaf"),
        ((f"{here}/tree/.", f"{box}:/data/other"), "/data/other/deep/leaf", b"leaf"),
        ((f"{here}/file", f"{box}:/data/link"), "/data/dir/file", b"from here"),
        (("-L", f"{here}/tofile", f"{box}:/data/other"), "/data/other/tofile", b"from here"),
        ((f"{here}/file", f"{box}:/data/tofile"), "/data/dir/two", b"from here"),
    ):
        cove("cp", *words)
        assert look(cove, box, path, tmp_path) == text, words
    entry = archive_of(cove, f"{box}:/data/tofile").getmembers()[0]
    assert entry.issym(), "the link itself is still there"


def test_into_refuses_what_docker_refuses(cove: Cove, box: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dir").mkdir()
    here = str(tmp_path)
    for words, said in (
        ((f"{here}/dir", f"{box}:/data/one"), "a directory onto a file"),
        ((f"{here}/file", f"{box}:/missing/"), "no such directory"),
        ((f"{here}/file", f"{box}:/missing/x"), "no such directory"),
        ((f"{here}/missing", f"{box}:/data"), "no such file"),
        ((f"{here}/file", f"{box}:/data/fifo"), "no file and no directory"),
        (("-", f"{box}:/data/one"), "no directory"),
        (("-", f"{box}:/missing"), "no directory"),
    ):
        done = cove("cp", *words, code=1)
        assert said in done.err, (words, done.err)


def test_owners(cove: Cove, box: str, tmp_path: Path) -> None:
    """As Docker's manual has it: root's, or the source's with -a."""
    (tmp_path / "mine").write_text("x")
    os.chown(tmp_path / "mine", 1234, 4321)
    (tmp_path / "mine").chmod(0o640)
    cove("cp", str(tmp_path / "mine"), f"{box}:/data/roots")
    cove("cp", "-a", str(tmp_path / "mine"), f"{box}:/data/kept")
    for name, owner in (("roots", (0, 0)), ("kept", (1234, 4321))):
        entry = archive_of(cove, f"{box}:/data/{name}").getmembers()[0]
        assert (entry.uid, entry.gid, entry.mode) == (*owner, 0o640)
    if cove.isolation == "vm":  # a kernel of its own has all ids there are
        return
    os.chown(tmp_path / "mine", 70000, 70000)
    done = cove("cp", "-a", str(tmp_path / "mine"), f"{box}:/data/high", code=None)
    assert done.returncode and "chown" in done.err  # no such id in there


def test_every_kind_of_file_survives_both_ways(cove: Cove, box: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / ("long" * 40)).mkdir(parents=True)
    (source / ("long" * 40) / ("name" * 50)).write_text("deep")
    (source / "new\nline").write_text("nl")
    Path(os.fsdecode(os.fsencode(source) + b"/\xff\xfe")).write_text("bytes")
    (source / "empty").touch()
    os.symlink("x" * 300, source / "longlink")
    with (source / "sparse").open("wb") as file:
        file.truncate(64 << 20)
        file.seek(40 << 20)
        file.write(b"data")
    os.link(source / "new\nline", source / "linked")
    os.mkfifo(source / "fifo", 0o600)
    (source / "attribute").touch()
    os.setxattr(source / "attribute", "user.note", b"\x00kept")
    os.utime(source / "empty", ns=(1, 1_000_000_000_123_456_789))
    cove("cp", str(source), f"{box}:/data/tree")
    cove("cp", f"{box}:/data/tree", str(tmp_path / "back"))
    assert describe(tmp_path / "back") == describe(source)
    assert (tmp_path / "back/sparse").stat().st_blocks * 512 < 8 << 20
    assert os.getxattr(tmp_path / "back/attribute", "user.note") == b"\x00kept"
    cove("cp", str(source) + "/.", f"{box}:/data/tree")  # once more, over what is there


def describe(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for place, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = os.path.join(place, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            content: object = None
            if kind == stat.S_IFLNK:
                content = os.readlink(path)
            elif kind == stat.S_IFREG:
                content = Path(path).read_bytes()
            nlink = status.st_nlink if kind == stat.S_IFREG else 0
            found[os.path.relpath(path, root)] = (
                kind, stat.S_IMODE(status.st_mode), nlink, status.st_mtime_ns, content,
            )  # fmt: skip
    return found


def tar_of(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry, data in entries:
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def test_an_archive_on_standard_input(cove: Cove, box: str, tmp_path: Path) -> None:
    data = tar_of((tarfile.TarInfo("piped/file"), b"through"))
    for sent in (data, gzip.compress(data)):
        cove("cp", "-", f"{box}:/data/other", stdin=sent)
        assert look(cove, box, "/data/other/piped/file", tmp_path) == b"through"
    cut = cove("cp", "-", f"{box}:/data", stdin=data[:700], code=1).err
    assert "ends in the middle" in cut and "hint: what came before" in cut
    assert cove("cp", "-", f"{box}:/data", stdin=b"no tar at all", code=1).err
    device = tarfile.TarInfo("null")
    device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
    done = cove("cp", "-", f"{box}:/data", stdin=tar_of((device, b"")), code=None)
    assert done.returncode and "a device" in done.err


def test_hostile_names_of_an_archive_stay_inside(cove: Cove, box: str) -> None:
    for name in ("../up", "a/../../up"):
        done = cove(
            "cp", "-", f"{box}:/data", stdin=tar_of((tarfile.TarInfo(name), b"x")), code=None
        )
        assert done.returncode and '".."' in done.err
    link = tarfile.TarInfo("away")
    link.type, link.linkname = tarfile.SYMTYPE, "/tmp"
    data = tar_of((link, b""), (tarfile.TarInfo("away/landed"), b"x"))
    cove("cp", "-", f"{box}:/data/other", stdin=data)
    assert [e.name for e in archive_of(cove, f"{box}:/tmp/landed")] == ["landed"]
    assert not Path("/tmp/landed").exists(), "the host's /tmp is not the machine's"


# ---- what stands still ----


@container_only("a guest that stands still answers nobody, and it is said that it is paused")
def test_what_a_paused_machine_shows(cove: Cove, tmp_path: Path) -> None:
    cove("run", "-d", "--name", "paused", "bb", "sleep", "1000")
    try:
        cove("pause", "paused")
        (tmp_path / "file").write_text("from here")
        cove("cp", str(tmp_path / "file"), "paused:/tmp/named")
        assert look(cove, "paused", "/tmp/named", tmp_path) == b"from here"
        assert [entry.name for entry in archive_of(cove, "paused:/home")] == ["home", "home/ada"]
        assert "cannot find /nothing" in cove("cp", "paused:/nothing", "-", code=1).err
        assert "sleep 1000" in cove("top", "paused").out
    finally:
        cove("rm", "-f", "paused")


# ---- what is mounted ----


@container_only("a guest has no file system of the host")
def test_binds_are_copied_into_and_read_only_is_kept(cove: Cove, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "file").write_text("x")
    flags = ("-v", f"{tmp_path}/shared:/shared", "--read-only")
    cove("create", "--name", "bound", *flags, "bb", "sleep", "1000")
    try:
        for _ in range(2):
            cove("cp", str(tmp_path / "file"), "bound:/shared/in")
            assert (tmp_path / "shared/in").read_text() == "x"
            cove("cp", "bound:/shared/in", str(tmp_path / "out"))
            assert "read-only" in cove("cp", str(tmp_path / "file"), "bound:/etc", code=1).err
            cove("start", "bound")
            (tmp_path / "shared/in").unlink()
    finally:
        cove("rm", "-f", "bound")


def test_generated_files_are_written_in_place(cove: Cove, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("1.2.3.4 mine\n")
    cove("run", "-d", "--name", "hosts", "bb", "sleep", "1000")
    try:
        cove("cp", str(tmp_path / "hosts"), "hosts:/etc/hosts")
        assert cove("exec", "hosts", "cat", "/etc/hosts").out == "1.2.3.4 mine\n"
    finally:
        cove("rm", "-f", "hosts")


def test_the_kernels_own_files_are_refused_by_name(cove: Cove) -> None:
    cove("run", "-d", "--name", "kernel", "bb", "sleep", "1000")
    try:
        done = cove("cp", "kernel:/proc/cpuinfo", "-", code=None)
        assert done.returncode and "a file of the kernel" in done.err
    finally:
        cove("rm", "-f", "kernel")


@container_only("the image host is the host's own directories, which no guest has")
def test_a_machine_of_the_host_image(cove: Cove, tmp_path: Path) -> None:
    cove("create", "--name", "hosted", "host", "sleep", "1000")
    try:
        (tmp_path / "tool").write_text("#!/bin/sh\necho tool\n")
        (tmp_path / "tool").chmod(0o755)
        cove("cp", str(tmp_path / "tool"), "hosted:/usr/bin/of-the-test")
        assert "A /usr/bin/of-the-test" in cove("diff", "hosted").out
        assert not Path("/usr/bin/of-the-test").exists()
        cove("start", "hosted")
        assert cove("exec", "hosted", "of-the-test").out == "tool\n"
        done = cove("commit", "hosted", code=None)
        assert done.returncode and "cove export" in done.err
    finally:
        cove("rm", "-f", "hosted")


# ---- who leaves ----


def test_a_reader_that_leaves_or_stops_holds_nothing(cove: Cove) -> None:
    cove("create", "--name", "slow", "bb", "sleep", "1000")
    reader, writer = os.pipe()
    try:
        stuck = cove.spawn("cp", "slow:/", "-", stdout=writer, stderr=subprocess.DEVNULL)
        os.close(writer)
        assert os.read(reader, 1)
        cove("start", "slow")  # does not wait for it
        assert stuck.wait(180) != 0
        left = cove.spawn("cp", "slow:/", "-", stderr=subprocess.DEVNULL)
        assert left.stdout is not None
        left.stdout.read(1)
        left.stdout.close()
        assert left.wait(180) == 141
        cove("rm", "-f", "slow")
    finally:
        os.close(reader)
        cove("rm", "-f", "slow", code=None)


def test_events_have_dockers_names(cove: Cove, tmp_path: Path) -> None:
    cove("create", "--name", "told", "bb", "sleep", "1000")
    try:
        cove("cp", "told:/bin/sh", str(tmp_path))
        cove("cp", str(tmp_path / "sh"), "told:/tmp")
        cove("export", "-o", str(tmp_path / "tar"), "told")
        seen = cove("events", "--since", "1h", "--until", "0s", "--filter", "container=told").out
        for action in ("archive-path", "extract-to-dir", "export"):
            assert f" {action} " in seen
    finally:
        cove("rm", "-f", "told")


def test_over_http_too(cove: Cove, tmp_path: Path) -> None:
    """cove-python, as a client that is not the front: frames out, a piped body in."""
    cove("create", "--name", "http", "bb", "sleep", "1000")
    env = {"COVE_HOST": f"unix://{cove.root}/run/api.sock"}
    try:
        (tmp_path / "big").write_bytes(os.urandom(3 << 20))
        cove("cp", str(tmp_path / "big"), "http:/tmp/big", env=env)
        cove("cp", "http:/tmp/big", str(tmp_path / "back"), env=env)
        assert (tmp_path / "back").read_bytes() == (tmp_path / "big").read_bytes()
        assert "cannot find /no" in cove("cp", "http:/no", "-", env=env, code=1).err
        cove("export", "-o", str(tmp_path / "all.tar"), "http", env=env)
        with tarfile.open(tmp_path / "all.tar") as archive:
            assert "tmp/big" in archive.getnames()
    finally:
        cove("rm", "-f", "http")


def archivers(cove: Cove) -> list[int]:
    """Processes of the daemon's that are at a machine's files."""
    pid = cove.daemon_pid()
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                if b"run-plan" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


def request(cove: Cove, head: str, body: bytes) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(cove.root / "run/api.sock"))
    client.sendall(f"{head}\r\nHost: cove\r\n".encode() + body)
    return client


@container_only("who reads a guest's files is a process of the guest's")
def test_http_clients_that_vanish_leave_nothing(cove: Cove) -> None:
    """In the middle of an answer, and in the middle of a body: the verb ends, and its process."""
    cove("run", "-d", "--name", "vanish", "bb", "sleep", "1000")
    cove("exec", "vanish", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=32")
    try:
        params = json.dumps({"machine": "vanish", "path": base64.b64encode(b"/").decode()})
        sized = f"Content-Length: {len(params)}\r\n\r\n{params}"
        with request(cove, "POST /cove/v1/machine.copy_out HTTP/1.1", sized.encode()) as client:
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
            assert archivers(cove)
        wait_until(lambda: not archivers(cove), "the archiver of a reader that left")
        where = params.replace(base64.b64encode(b"/").decode(), base64.b64encode(b"/tmp").decode())
        head = f"Cove-Params: {where}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        part = tar_of((tarfile.TarInfo("cut"), bytes(4096)))[:2048]
        begun = head + b"%x\r\n" % len(part) + part + b"\r\n"
        with request(cove, "POST /cove/v1/machine.copy_in HTTP/1.1", begun):
            wait_until(lambda: bool(archivers(cove)), "the archiver of a writer")
        wait_until(lambda: not archivers(cove), "the archiver of a writer that left")
        assert "Up" in cove("ps", "--filter", "name=vanish").out
    finally:
        cove("rm", "-f", "vanish")


def test_no_room(cove: Cove, tmp_path: Path) -> None:
    """A tmpfs of the machine that is full: said by name, and the machine goes on."""
    (tmp_path / "big").write_bytes(bytes(2 << 20))
    cove("run", "-d", "--name", "full", "--tmpfs", "/t:size=1m", "bb", "sleep", "1000")
    try:
        done = cove("cp", str(tmp_path / "big"), "full:/t/big", code=1)
        assert os.strerror(errno.ENOSPC).lower() in done.err.lower()
    finally:
        cove("rm", "-f", "full")
