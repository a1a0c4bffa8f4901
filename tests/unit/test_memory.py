"""The memory of another process: what it wrote, at its places, and nothing of one that has gone."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest

from cove.linux import memory

SIZE = 24 << 20
WRITER = f"""
import ctypes, mmap, sys
data = mmap.mmap(-1, {SIZE}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
data.madvise(mmap.MADV_NOHUGEPAGE)
for page in range({SIZE} // 4096):
    if page % 7:
        data[page * 4096 : page * 4096 + 8] = page.to_bytes(8, "little")
print(ctypes.addressof(ctypes.c_char.from_buffer(data)), flush=True)
sys.stdin.read()
"""


def test_what_a_process_wrote_is_copied_to_its_place() -> None:
    words = [sys.executable, "-c", WRITER]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        at = int(child.stdout.readline())
        with mmap.mmap(-1, SIZE) as view:
            pages = SIZE // 4096
            assert memory.copy_own(child.pid, at, view) == 4096 * (pages - (pages + 6) // 7)
            found = [int.from_bytes(view[p * 4096 : p * 4096 + 8], "little") for p in range(pages)]
            assert found == [page if page % 7 else 0 for page in range(pages)]
        with mmap.mmap(-1, SIZE) as view:
            child.stdin.close()
            child.wait()
            with pytest.raises(OSError):
                memory.copy_own(child.pid, at, view)


def test_memory_that_is_taken_away_meanwhile_is_an_error() -> None:
    with mmap.mmap(-1, 4096) as view, pytest.raises(OSError):
        memory._copy(os.getpid(), 4096, 4096, [(0, 4096)])
        view.flush()
