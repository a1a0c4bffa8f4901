"""A machine that does not run gets no more by copies than its storage limit lets it have."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.linux.disk import tree_usage
from tests.driver import Cove, wait_until
from tests.shared import container_only

LIMIT = 8 << 20


@pytest.fixture
def small(cove: Cove) -> Iterator[str]:
    name = "small"
    cove("create", "--name", name, "--storage-opt", "size=8m", "bb", "true")
    yield name
    place = Path(cove.inspect(name)["LogPath"]).parent
    cove("rm", "-f", name)
    wait_until(lambda: not place.exists() and not os.listdir(cove.root / "tmp"), "it is removed")


def upper(cove: Cove, name: str) -> int:
    """Bytes on the disk of what it wrote."""
    found = cove.inspect(name)["GraphDriver"]["Data"]["UpperDir"]
    return tree_usage(os.path.dirname(found))


def archive(*sizes: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number, size in enumerate(sizes):
            entry = tarfile.TarInfo(f"f{number}")
            entry.size = size
            tar.addfile(entry, io.BytesIO(os.urandom(size)))
    return out.getvalue()


@pytest.mark.parametrize("coded", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_copy_ends_at_the_limit(cove: Cove, small: str, coded: object) -> None:
    data = coded(archive(*[1 << 20] * 64))  # type: ignore[operator]
    done = cove("cp", "-", f"{small}:/", stdin=data, code=1)
    if cove.isolation == "vm":  # the limit is the size of its disk
        assert "no space left on device" in done.err.lower()
        return
    assert f"cannot copy to {small}: it has more than its storage limit of 8m then" in done.err
    assert upper(cove, small) < 2 * LIMIT


def test_what_fits_is_copied(cove: Cove, small: str, tmp_path: Path) -> None:
    cove("cp", "-", f"{small}:/", stdin=archive(5 << 20))
    (tmp_path / "more").write_bytes(os.urandom(6 << 20))
    done = cove("cp", str(tmp_path / "more"), f"{small}:/", code=1)
    if cove.isolation == "vm":
        assert "no space left on device" in done.err.lower()
    else:
        assert "storage limit of 8m" in done.err and "--storage-opt" in done.err
    cove("cp", f"{small}:/f0", str(tmp_path / "back"))  # out of it anything goes
    assert (tmp_path / "back").stat().st_size == 5 << 20


@container_only(
    "a virtual machine's storage limit is the size of its disk, tests/vm/test_causes.py"
)
def test_empty_directories_count_too(cove: Cove, small: str) -> None:
    """A header of 512 bytes makes a directory, which takes a block."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(6000):
            entry = tarfile.TarInfo(f"d{number}")
            entry.type = tarfile.DIRTYPE
            tar.addfile(entry)
    done = cove("cp", "-", f"{small}:/", stdin=out.getvalue(), code=None)
    assert done.returncode in (0, 1)
    assert upper(cove, small) < 3 * LIMIT
    if upper(cove, small) > LIMIT:
        assert "storage limit of 8m" in done.err
