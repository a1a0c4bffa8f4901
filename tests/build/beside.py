"""The Dockerfiles of ``beside/``, each built by cove and by buildah, and what of the two images is
not the same.

A case is ``NAME.dockerfile``. ``NAME.older`` says the same in words that buildah 1.28 knows;
``NAME.json`` has what the command line says; ``differences.toml`` says what differs, and why.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import struct
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.build.oci_trees import Flat, Image, flat_image, read_dir, read_layout
from tests.driver import Cove
from tests.images.tars import Tar

HERE = Path(__file__).resolve().parent / "beside"
BASE = "small"
APPLETS = "cat chmod chown cp echo id ln ls mkdir mkfifo printf rm sh stat test touch tr true yes"
THEN = 1_000_000_000
CAPABILITY = struct.pack("<IIIII", 0x02000001, 0x80, 0, 0, 0)
"""cap_setuid+ep."""
NONE = "-"
"""What one of the two has not."""


@dataclasses.dataclass(frozen=True)
class Case:
    name: str

    @property
    def ours(self) -> Path:
        return HERE / f"{self.name}.dockerfile"

    @property
    def theirs(self) -> Path:
        older = HERE / f"{self.name}.older"
        return older if older.exists() else self.ours

    @property
    def said(self) -> dict[str, Any]:
        said = HERE / f"{self.name}.json"
        found: dict[str, Any] = json.loads(said.read_text()) if said.exists() else {}
        return found

    def flags(self, context: Path) -> list[str]:
        return [word.replace("{context}", str(context)) for word in self.said.get("flags", ())]

    @property
    def whole(self) -> bool:
        """Layer by layer; else buildah, which takes half a second for each, makes one of all."""
        return bool(self.said.get("layers", True))


def cases() -> Iterator[Case]:
    for path in sorted(HERE.glob("*.dockerfile")):
        yield Case(path.stem)


# ---- the context of all cases ----


def put(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def make_context(top: Path) -> None:
    put(top / "file", "file\n", 0o640)
    put(top / "exec", "#!/bin/sh\n", 0o755)
    put(top / "setid", "s", 0o4755)
    put(top / "spaced name", "spaced\n")
    put(top / "a.txt", "a\n")
    put(top / "b.txt", "b\n", 0o600)
    put(top / "empty", "")
    put(top / "secret", "t0ps3cret\n", 0o400)
    make_dir(top / "dir", 0o640)
    make_dir(top / "moded", 0o644)
    (top / "link").symlink_to("file")
    (top / "dangling").symlink_to("/nowhere")
    (top / "byte\udcff").write_bytes(b"name")
    os.link(top / "empty", top / "empty-again")
    for kind in ("", ".gz", ".xz", ".bz2"):
        mode = f"w:{kind[1:]}" if kind else "w"
        (top / (f"packed.tar{kind}" if kind else "plain.tar")).write_bytes(archive(mode, kind))
    for name in ("file", "dir/a", "dir", "moded/a", "moded"):
        os.setxattr(top / name, "user.said", b"by \xff\x00 me")
    os.setxattr(top / "exec", "security.capability", CAPABILITY)
    make_older(top)
    for folder, names, files in os.walk(top, topdown=False):
        for name in (*names, *files):
            os.utime(Path(folder, name), (THEN, THEN), follow_symlinks=False)
    os.utime(top, (THEN, THEN))


def make_dir(top: Path, mode: int) -> None:
    put(top / "a", "a", mode)
    put(top / "sub/b", "b", mode)
    put(top / "left.no", "n", mode)
    (top / "to").symlink_to("sub/b")
    (top / "sub").chmod(0o755)


def make_older(top: Path) -> None:
    """What newer flags make of the context, for a builder that does not know them."""
    put(top / "docs/EOF", "expanded one.two.three\n")
    put(top / "docs/RAW", "raw $A\n")
    put(top / "parents/dir/sub/b", "b", 0o640)
    put(top / "parents/dir/a", "a", 0o640)
    for name in ("dir", "dir/a"):
        shutil.copystat(top / name, top / "parents" / name)
    shutil.copytree(top / "dir", top / "less", symlinks=True)
    shutil.rmtree(top / "less/sub")
    (top / "less/left.no").unlink()
    shutil.copytree(top / "dir", top / "added", symlinks=True)
    (top / "added/a").unlink()


def archive(mode: str, kind: str) -> bytes:
    """A tar with everything that a layer may have."""
    word = kind.removeprefix(".") or "plain"
    tar = Tar()
    tar.dir(f"{word}-dir", mode=0o2750, uid=1000, gid=10, mtime=THEN)
    tar.file(f"{word}-dir/own", b"own", mode=0o4711, uid=1000, gid=10, mtime=THEN)
    tar.symlink(f"{word}-dir/link", "own", mtime=THEN)
    tar.link(f"{word}-dir/hard", f"{word}-dir/own", mode=0o4711, uid=1000, gid=10, mtime=THEN)
    tar.add(f"{word}-fifo", tarfile.FIFOTYPE, mtime=THEN)
    headers = {"SCHILY.xattr.user.said": "word"}
    tar.file(f"{word}-noted", b"n", mtime=THEN, pax_headers=headers)
    plain = tar.data()
    if not kind:
        return plain
    packers = {".gz": "gzip", ".xz": "lzma", ".bz2": "bz2"}
    module = __import__(packers[kind])
    packed: bytes = module.compress(plain)
    return packed


def make_base(top: Path) -> None:
    """A root of few files: buildah's vfs copies it whole at each step."""
    for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
        (top / name).mkdir(parents=True)
    (top / "tmp").chmod(0o1777)
    top.chmod(0o755)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", top / "bin/busybox")
    for applet in APPLETS.split():
        (top / "bin" / applet).symlink_to("busybox")
    put(top / "etc/passwd", "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n")
    put(top / "etc/group", "root:x:0:\nada:x:1000:\nwheel:x:10:ada\n")
    (top / "home/ada").mkdir(parents=True)
    os.chown(top / "home/ada", 1000, 1000)


# ---- the two builders ----


@dataclasses.dataclass(frozen=True)
class Buildah:
    place: Path

    def __call__(self, *words: str) -> str:
        tool = ["buildah", "--root", f"{self.place}/s", "--runroot", f"{self.place}/r"]
        done = subprocess.run(
            [*tool, "--storage-driver", "vfs", *words], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"buildah {' '.join(words)}\n{done.stderr}"
        return done.stdout.strip()

    def begin(self, cove: Cove) -> None:
        """With the same base: what cove imported is what buildah pulls."""
        base = self.place / "base"
        make_base(base)
        tar = ["tar", "-C", str(base), "--numeric-owner", "-c", "."]
        root = subprocess.run(tar, check=True, capture_output=True).stdout
        cove("image", "import", "-q", "-c", "CMD sh", "-", BASE, stdin=root)
        cove("save", "--format", "oci-archive", "-o", f"{self.place}/base.oci", BASE)
        self("tag", self("pull", "-q", f"oci-archive:{self.place}/base.oci"), BASE)

    def build(self, case: Case, context: Path) -> Image:
        target = self.place / f"{case.name}.theirs"
        flags = ["--isolation", "chroot", "--format", "docker", "--pull-never", "-q"]
        flags += ["--layers"] * case.whole + case.flags(context)
        name = self("build", *flags, "-f", str(case.theirs), str(context)).splitlines()[-1]
        self("push", "-q", "--disable-compression", name, f"dir:{target}")
        return read_dir(target)


def build_ours(cove: Cove, case: Case, context: Path, place: Path) -> Image:
    layout = place / f"{case.name}.ours"
    flags = ["-q", "-t", f"beside-{case.name}", *case.flags(context)]
    cove("build", *flags, "-f", str(case.ours), str(context))
    cove("save", "--format", "oci-dir", "-o", str(layout), f"beside-{case.name}")
    return read_layout(layout)


# ---- what is not the same ----


@dataclasses.dataclass(frozen=True)
class Difference:
    """Each of ``where`` is a pattern of the places; ``reason`` says who is right."""

    case: str
    where: str
    ours: str
    theirs: str
    reason: str

    def fits(self, case: Case, place: str, ours: str, theirs: str) -> bool:
        return all(
            re.fullmatch(pattern, text)
            for pattern, text in (
                (self.case, case.name), (self.where, place), (self.ours, ours),
                (self.theirs, theirs),
            )
        )  # fmt: skip


def listed() -> list[Difference]:
    data = tomllib.loads((HERE / "differences.toml").read_text())
    return [
        Difference(
            one.get("case", ".*"), where, one.get("ours", ".*"), one.get("theirs", ".*"),
            one["reason"],
        )
        for one in data["difference"]
        for where in one["where"]
    ]  # fmt: skip


def differing(ours: Flat, theirs: Flat) -> Iterator[tuple[str, str, str]]:
    for place in sorted({*ours, *theirs}):
        one, other = ours.get(place, NONE), theirs.get(place, NONE)
        if one != other:
            yield place, one, other


def images(case: Case, one: Image, other: Image) -> tuple[Flat, Flat]:
    found = [flat_image(image) for image in (one, other)]
    if not case.whole:
        parts = ("step ", "config.history", "config.rootfs")
        found = [{k: v for k, v in flat.items() if not k.startswith(parts)} for flat in found]
    return found[0], found[1]
