"""Bad archives, and loads that are interrupted: through the front, in its words, nothing left."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need_root
from tests.driver import Cove, wait_until
from tests.images.tars import Tar
from tests.kernel.disks import small_disk
from tests.kernel.settled import settled, too_much
from tests.shared import no_scenario

pytestmark = no_scenario("archives that are refused: no machine is made")

__all__ = ["settled"]

MIB = 1 << 20


def content(cove: Cove) -> dict[str, object]:
    """Images, and what of them is on disk. Layers are directories called lN, and the built-in
    image has one that is made when it is first used.
    """
    roots = [name for name in os.listdir(cove.root / "roots") if name.startswith("l")]
    blobs = [str(path) for path in (cove.root / "blobs").rglob("*") if path.is_file()]
    return {
        "images": sorted(cove("images", "-q", "--no-trunc").out.split()),
        "layers": len(roots),
        "blobs": sorted(blobs),
        "tmp": [name for name in os.listdir(cove.root / "tmp") if not name.startswith("gone-")],
    }


@pytest.fixture
def unchanged(cove: Cove, settled: None) -> Iterator[None]:
    """The store of images after the test is what it was before."""
    cove("run", "--rm", "host", "true")
    before = content(cove)
    yield
    wait_until(lambda: content(cove) == before, f"{content(cove)} to be {before}")


def archive(tmp_path: Path, name: str, data: bytes) -> str:
    (tmp_path / name).write_bytes(data)
    return str(tmp_path / name)


def docker(layer: bytes, **changes: Any) -> bytes:
    """A docker-archive of one layer, as ``docker save`` writes them."""
    digits = hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [changes.get("diff_id", f"sha256:{digits}")]},
    }
    manifest = [{"Config": "config.json", "RepoTags": ["bad:1"], "Layers": ["layer.tar"]}]
    tar = Tar().file("config.json", json.dumps(config).encode()).file("layer.tar", layer)
    return tar.file("manifest.json", json.dumps(manifest).encode()).data()


LAYER = Tar().dir("bin").file("bin/it", b"x" * 50_000).data()
TREE = Tar().dir("bin").file("bin/it", b"x" * 50_000).data()

WRONG: list[tuple[str, str, bytes, int, str]] = [
    ("load", "words", b"no archive at all\n" * 100, 1, "cannot read FILE: it is not a tar archive"),
    ("load", "short", b"FROM", 1, "cannot read FILE: it is not a tar archive"),
    ("load", "empty", b"", 1, "cannot read FILE: it is empty"),
    (
        "load",
        "tree",
        TREE,
        1,
        "cannot load FILE: it holds neither manifest.json nor index.json, so no image\n"
        "  hint: a root file system is imported: cove image import FILE NAME",
    ),
    (
        "load",
        "cut",
        docker(LAYER)[:30_000],
        1,
        "cannot read FILE: truncated: it ends in the middle of layer.tar",
    ),
    (
        "load",
        "lies",
        docker(LAYER, diff_id="sha256:" + "0" * 64),
        1,
        "wrong diff ID",
    ),
    ("import", "words", b"no archive at all\n" * 100, 1, "cannot unpack FILE: it is not a tar"),
    ("import", "empty", b"", 1, "cannot unpack FILE: it is empty"),
    (
        "import",
        "cut",
        TREE[:30_000],
        1,
        "cannot unpack FILE: truncated: bin/it: the archive ends in the middle of it",
    ),
    ("import", "cut.gz", gzip.compress(TREE)[:-20], 1, "cannot unpack FILE: "),
    (
        "import",
        "parents",
        Tar().file("a/.wh...", b"").data(),
        1,
        "cannot unpack FILE: a/.wh...: a whiteout of a directory it is in",
    ),
    (
        "import",
        "out",
        Tar().file("../../etc/out", b"").data(),
        1,
        'cannot unpack FILE: ../../etc/out: a name with ".." in it',
    ),
    (
        "import",
        "device",
        Tar().file("ok").data()[:512] + b"\xff" * 512 + bytes(1024),
        1,
        "cannot unpack FILE: ",
    ),
]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("verb", "name", "data", "code", "said"), WRONG, ids=[f"{w[0]}-{w[1]}" for w in WRONG]
)
def test_a_bad_archive(
    cove: Cove, tmp_path: Path, verb: str, name: str, data: bytes, code: int, said: str
) -> None:
    path = archive(tmp_path, name, data)
    words = ("load", "-q", "-i", path) if verb == "load" else ("image", "import", "-q", path, "bad")
    done = cove(*words, code=code)
    said = said.replace("FILE NAME", "\0").replace("FILE", path).replace("\0", "FILE NAME")
    assert done.err.startswith("cove: cannot ") and said in done.err, done.err
    assert done.out == ""


@pytest.mark.usefixtures("unchanged")
def test_a_layer_that_is_not_what_its_digest_says(cove: Cove, tmp_path: Path) -> None:
    """An OCI layout, whose blobs have digests of their own."""
    blobs = tmp_path / "oci/blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, Any]:
        digits = hashlib.sha256(data).hexdigest()
        (blobs / digits).write_bytes(data)
        media = f"application/vnd.oci.image.{kind}"
        return {"digest": f"sha256:{digits}", "size": len(data), "mediaType": media}

    diff_id = f"sha256:{hashlib.sha256(LAYER).hexdigest()}"
    rootfs = {"type": "layers", "diff_ids": [diff_id]}
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}
    layer = put(LAYER, "layer.v1.tar")
    manifest = {"schemaVersion": 2, "config": put(json.dumps(config).encode(), "config.v1+json")}
    manifest |= {"layers": [layer]}
    top = {
        "schemaVersion": 2,
        "manifests": [put(json.dumps(manifest).encode(), "manifest.v1+json")],
    }
    (tmp_path / "oci/index.json").write_text(json.dumps(top))
    (tmp_path / "oci/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    digits = layer["digest"].removeprefix("sha256:")
    other = bytearray(LAYER)
    other[20_000] ^= 1
    (blobs / digits).write_bytes(other)
    done = cove("load", "-q", "-i", str(tmp_path / "oci"), code=1)
    assert re.search(r"cove: cannot .*wrong digest", done.err), done.err
    (blobs / digits).write_bytes(LAYER[:600])
    done = cove("load", "-q", "-i", str(tmp_path / "oci"), code=1)
    assert f"has 600 bytes, its manifest says {len(LAYER)}" in done.err


def zeros(size: int) -> bytes:
    """A gzip of a tar with one file of zeros, made without making the tar."""
    info = tarfile.TarInfo("zeros")
    info.size = size
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT)) + gzip.compress(bytes(MIB), 9) * (
        size // MIB
    )


@pytest.mark.usefixtures("unchanged")
def test_ten_gigabytes_of_zeros(cove: Cove, tmp_path: Path) -> None:
    path = archive(tmp_path, "zeros.gz", zeros(10 << 30))
    done = cove("image", "import", "-q", path, "bad", code=1)
    assert re.match(r"cove: cannot unpack .*: \d+ MiB come out of ", done.err), done.err
    with open(tmp_path / "hole", "wb") as file:
        file.truncate(10 << 30)
    done = cove("load", "-q", "-i", str(tmp_path / "hole"), code=1)
    assert "only zeros" in done.err
    done = cove("image", "import", "-q", str(tmp_path / "hole"), "bad", code=1)
    assert "64 MiB follow the end" in done.err


@pytest.mark.usefixtures("unchanged")
def test_a_million_and_one_entries(cove: Cove) -> None:
    """Sent while they are made: one directory again and again, which costs the disk nothing."""
    process = cove.spawn("image", "import", "-q", "-", "bad", stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        entry = tarfile.TarInfo("a")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        block = entry.tobuf(tarfile.USTAR_FORMAT) * 1000
        for _ in range(1002):
            process.stdin.write(block)
    except BrokenPipeError:
        pass
    out, err = process.communicate(timeout=180)
    assert process.returncode == 1
    assert err.decode().startswith("cove: cannot unpack the archive: "), err
    assert "more than 1000000 entries" in err.decode()
    assert out == b""


def test_the_last_of_doubled_names_wins(cove: Cove, bb_tar: Path, tmp_path: Path) -> None:
    data = io.BytesIO(bb_tar.read_bytes())
    with tarfile.open(fileobj=data, mode="a") as tar:
        for text in (b"first", b"second"):
            info = tarfile.TarInfo("./doubled")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    cove("image", "import", archive(tmp_path, "twice", data.getvalue()), "twice")
    assert cove("run", "--rm", "twice", "cat", "/doubled").out == "second"
    cove("image", "rm", "twice")


@pytest.mark.usefixtures("unchanged")
def test_a_directory_is_no_archive(cove: Cove, tmp_path: Path) -> None:
    done = cove("image", "import", str(tmp_path), "bad", code=125)
    assert done.err == (
        f"cove: cannot import {tmp_path}: it is a directory\n"
        f"  hint: send a tar of it: tar -C {tmp_path} -c . | cove image import - NAME\n"
    )


# ---- interrupted ----


def half_sent(cove: Cove, data: bytes) -> subprocess.Popen[bytes]:
    """An import that has begun to unpack and waits for more of its input."""
    words = ("image", "import", "-", "half")
    process = cove.spawn(*words, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(data[: len(data) // 2])
    process.stdin.flush()
    wait_until(lambda: list(cove.root.glob("tmp/layer-*")), "the unpacker's directory")
    return process


BIG = Tar().dir("bin").file("bin/big", os.urandom(2 * MIB)).file("end").data()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_front_that_is_interrupted(cove: Cove, number: signal.Signals) -> None:
    process = half_sent(cove, BIG)
    process.send_signal(number)
    code = process.wait(180)  # its input has not ended
    _, err = process.communicate()
    assert code == (-9 if number == signal.SIGKILL else 130), err


def test_a_daemon_killed_while_it_unpacks(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "--rm", "host", "true")
    before = content(cove)
    process = half_sent(cove, BIG)
    cove.kill_daemon()
    out, err = process.communicate(timeout=180)
    assert (process.returncode, out) == (125, b"")
    assert err.endswith(b"cove: lost the daemon\n")
    cove("run", "--rm", "host", "true")
    wait_until(lambda: content(cove) == before, "the half layer to be swept")
    wait_until(lambda: too_much(cove) == [], "all but what is kept ready to go")
    done = cove("image", "import", "-", "half", stdin=BIG)
    assert done.out.startswith("sha256:")


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def test_an_unpacker_that_is_killed(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "--rm", "host", "true")
    before = content(cove)
    process = half_sent(cove, BIG)

    def unpacker() -> list[int]:
        children = Path(f"/proc/{cove.daemon_pid()}/task").glob("*/children")
        pids = [int(pid) for file in children for pid in file.read_text().split()]
        return [pid for pid in pids if b"unpack" in command_line(pid)]

    wait_until(lambda: bool(unpacker()), "the unpacker")
    os.kill(unpacker()[0], signal.SIGKILL)
    _, err = process.communicate(timeout=180)
    assert process.returncode not in (0, -9), err
    assert b"cove: cannot unpack the archive: " in err
    wait_until(lambda: content(cove) == before, "nothing of it")


# ---- no room ----


def test_a_disk_that_is_full_while_unpacking(bb_tar: Path, tmp_path: Path) -> None:
    need_root()
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", *small_disk(tmp_path / "disk", 16), place], check=True)
    cove = Cove(place / "state")
    try:
        cove("image", "import", "-q", str(bb_tar), "bb")
        cove("run", "--rm", "host", "true")
        before = content(cove)
        large = Tar().file("a", os.urandom(6 * MIB)).file("b", os.urandom(6 * MIB)).data()
        done = cove("image", "import", "-q", "-", "large", stdin=large, code=125)
        assert done.err == (
            "cove: cannot unpack the archive: no space left on the state directory's file "
            "system\n  hint: make room, or choose another place: --root DIR\n"
        )
        wait_until(lambda: content(cove) == before, "nothing of it")
        assert cove("run", "--rm", "bb", "echo", "goes on").out == "goes on\n"
    finally:
        if (place / "state/run/front.sock").exists():
            cove.stop_daemon()
        subprocess.run(["umount", place], check=True)
