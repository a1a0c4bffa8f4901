"""A machine that swaps a directory for a link as fast as it can, and what it aims at on the host:
not a test.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SWAPPER = """
mkdir -p /swap/real/sub
echo mine >/swap/real/secret; echo mine >/swap/real/sub/secret
ln -s @TARGET@ /swap/lure
mv /swap/real /swap/dir
touch /ready
while :; do
    mv /swap/dir /swap/real; mv /swap/lure /swap/dir
    mv /swap/dir /swap/lure; mv /swap/real /swap/dir
done
"""


@dataclass(frozen=True)
class Canary:
    path: Path
    secret: bytes

    @classmethod
    @contextlib.contextmanager
    def make(cls) -> Iterator[Canary]:
        """Open to everybody: nothing but the machine's walls is in the way."""
        path = Path(tempfile.mkdtemp(prefix="cove-canary-", dir="/tmp"))
        secret = secrets.token_hex(16).encode()
        try:
            path.chmod(0o777)
            (path / "sub").mkdir()
            (path / "sub").chmod(0o777)
            for name in ("secret", "sub/secret"):
                (path / name).write_bytes(secret)
                (path / name).chmod(0o666)
            yield cls(path, secret)
        finally:
            shutil.rmtree(path)

    def check(self) -> None:
        """Nothing was added, and what was there says what it said."""
        found = sorted(os.path.relpath(p, self.path) for p in self.path.rglob("*"))
        assert found == ["secret", "sub", "sub/secret"]
        for name in ("secret", "sub/secret"):
            assert (self.path / name).read_bytes() == self.secret


EXCHANGE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
one, other = map(os.fsencode, sys.argv[1:])
print("ready", flush=True)
while not libc.renameat2(-100, one, -100, other, 2):
    pass
raise SystemExit(f"errno {ctypes.get_errno()}")
"""


@contextlib.contextmanager
def exchanging(one: Path, other: Path) -> Iterator[None]:
    """Each has the other's name, and back, as fast as a process can (RENAME_EXCHANGE): at no moment
    is there nothing of a name.
    """
    words = [sys.executable, "-Sc", EXCHANGE, one, other]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield
        assert process.poll() is None, "nothing was swapped any more"
    finally:
        process.kill()
        process.communicate()
