"""Tars as honest and as hostile tools write them, and trees as data, to be compared."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from cove.image.importing import import_rootfs
from cove.store.db import Store


@dataclass
class Tar:
    """``Tar().file("a", b"x").link("b", "a").data()``."""

    format: int = tarfile.PAX_FORMAT
    out: io.BytesIO = field(default_factory=io.BytesIO)

    def __post_init__(self) -> None:
        self.tar = tarfile.TarFile(fileobj=self.out, mode="w", format=self.format)

    def add(self, name: str, kind: bytes, data: bytes = b"", **fields: object) -> Tar:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, len(data)
        info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
        for key, value in fields.items():
            setattr(info, key, value)
        self.tar.addfile(info, io.BytesIO(data))
        return self

    def file(self, name: str, data: bytes = b"", **fields: object) -> Tar:
        return self.add(name, tarfile.REGTYPE, data, **fields)

    def dir(self, name: str, **fields: object) -> Tar:
        return self.add(name, tarfile.DIRTYPE, **fields)

    def symlink(self, name: str, target: str, **fields: object) -> Tar:
        return self.add(name, tarfile.SYMTYPE, linkname=target, **fields)

    def link(self, name: str, target: str, **fields: object) -> Tar:
        return self.add(name, tarfile.LNKTYPE, linkname=target, **fields)

    def data(self) -> bytes:
        self.tar.close()
        return self.out.getvalue()


def layer_of(store: Store, data: bytes | Tar, **options: object) -> Path:
    """Import a tar through a pipe or file; the layer's directory."""
    if isinstance(data, Tar):
        data = data.data()
    with memory_file(data) as fd:
        record = import_rootfs(store, fd, **options)  # type: ignore[arg-type]
    layer = store.layer(record.layers[0])
    assert layer is not None
    return Path(store.layout.layer(layer.key))


@contextlib.contextmanager
def memory_file(data: bytes):  # type: ignore[no-untyped-def]
    fd = os.memfd_create("tar", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def tree(root: Path, *, times: bool = True) -> dict[str, tuple[object, ...]]:
    """Everything about each file that a layer must keep."""
    found: dict[str, tuple[object, ...]] = {}
    names: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(root))
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
            if not key.startswith(("system.", "security.selinux"))
        }
        first = names.setdefault(status.st_ino, name)
        found[name] = (
            oct(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns if times else 0,
            status.st_rdev if stat.S_ISCHR(status.st_mode) else 0,
            first,
            xattrs,
            content,
        )
    return found
