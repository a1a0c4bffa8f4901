"""What tests of ``build`` share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.driver import Cove, Done, wait_until

Build = Callable[..., Done]


@pytest.fixture
def tidied(request: pytest.FixtureRequest) -> Iterator[None]:
    """What is built goes with the test, and then nothing of it is left."""
    names = [name for name in ("fresh_cove", "cove") if name in request.fixturenames]
    cove: Cove = request.getfixturevalue(names[0])
    before = images_of(cove)
    yield
    tidy(cove, before)
    # The image `host` gets another layer when the host's /etc changes, and keeps the former one.
    layers = [p for p in cove.root.glob("roots/l*") if not (p / "etc/os-release").is_symlink()]
    assert len(layers) <= 1, "bb's"
    assert str(cove.root) not in Path("/proc/self/mountinfo").read_text()


def tidy(cove: Cove, before: list[str]) -> None:
    """Take away what was built since the images ``before``. What a build leaves to the daemon may
    last a little longer than itself.
    """
    wait_until(lambda: not cove("ps", "-aq").out, "the end of all machines")
    made = [one for one in images_of(cove) if one not in before]
    if made:
        cove("rmi", "-f", *made)
    cove("builder", "prune", "-af")
    assert not cove("volume", "ls", "-q").out
    wait_until(lambda: not os.listdir(cove.root / "tmp"), "an empty tmp")
    assert "nothing was found" in cove("system", "check").out


def images_of(cove: Cove) -> list[str]:
    return list(dict.fromkeys(cove("images", "-qa", "--no-trunc").out.split()))


@pytest.fixture
def build(cove: Cove, tmp_path: Path) -> Build:
    """``build(dockerfile, flags..., **files)`` in a context of the test's own."""

    def run(dockerfile: str, *flags: str, code: int | None = 0, **options: Any) -> Done:
        (tmp_path / "Dockerfile").write_text(dockerfile)
        words = ("build", "--progress=plain", *flags, str(tmp_path))
        return cove(*words, code=code, **options)

    return run
