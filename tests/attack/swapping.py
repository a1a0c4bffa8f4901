"""A machine that swaps a directory for a link as fast as it can, and what it aims at on the host:
not a test.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
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
