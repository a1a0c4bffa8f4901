"""A daemon that is killed before any of the effects of a build: there is the whole image or none,
nothing of it stays that nobody needs, and the next build goes on with the steps that were done.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cove.engine.slots import READY
from cove.store.layout import Layout
from tests.driver import Cove, wait_until
from tests.kernel.test_walks import Crashing

STRIDE = int(os.environ.get("COVE_WALK", "120").replace("all", "1"))
"""Every step takes two starts of a daemon; ``COVE_WALK=all`` walks them all."""
TEXT = """\
FROM bb AS one
RUN --mount=type=cache,target=/cache --mount=type=secret,id=word,required=true \\
    echo kept >/cache/f && cp /cache/f /made && cat /run/secrets/word >>/made \\
    && mkdir /many && for number in $(seq 300); do : >/many/$number; done
FROM bb
COPY file /file
WORKDIR /room
COPY --from=one /made /made
COPY --from=one /many /many
RUN cat /file /made >all && ls /many | wc -l >>all
"""
SAID = "file\nkept\nword300\n"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    (place / "Dockerfile").write_text(TEXT)
    (place / "file").write_text("file\n")
    (tmp_path / "word").write_text("word")
    return place


@pytest.mark.timeout(900 if STRIDE > 8 else 7200)
def test_a_daemon_killed_at_any_step_of_a_build(
    fresh_cove: Cove, context: Path, tmp_path: Path
) -> None:
    cove, report = fresh_cove, tmp_path / "where"
    words = ("build", "--secret", f"id=word,src={tmp_path}/word", "-t", "walked", str(context))
    cove("run", "--rm", "host", "true")  # its layer stays
    before = rooms(cove)
    last, steps = 1, 0
    while True:
        cove.stop_daemon()
        daemon = Crashing(cove, last, report, "cove.engine.builds.verb:_build")
        done = cove(*words, code=None)
        died = daemon.died()
        assert died or done.returncode == 0, done.err
        where = report.read_text() if died else "the end"
        check(cove, where, there=done.returncode == 0)
        cove(*words)
        assert cove("run", "--rm", "walked", "cat", "/room/all").out == SAID, where
        cove("rmi", "walked")
        cove("builder", "prune", "-af")
        wait_until(lambda: rooms(cove) == before, f"left by one killed at {where}")
        if not died:
            break
        steps += 1
        last += STRIDE
    assert steps, "the walk never began"


def check(cove: Cove, where: str, *, there: bool) -> None:
    """By the daemon that came after the crash. Who was told of success has an image."""
    names = cove("images", "--format", "{{.Repository}}").out.split()
    assert not there or "walked" in names, where
    if "walked" in names:
        assert cove("run", "--rm", "walked", "cat", "/room/all").out == SAID, where
    assert "<none>" not in names, where
    wait_until(lambda: not cove("ps", "-aq").out, f"the end of a step's machine: {where}")
    wait_until(lambda: swept(cove), f"an empty tmp: {where}")
    said = cove("system", "check", code=None).out
    assert said.startswith("nothing was found"), f"{where}\n{said}"


def swept(cove: Cove) -> bool:
    secrets = Layout(str(cove.root.resolve())).in_memory
    return (
        os.listdir(cove.root / "tmp") == []
        and len(list(cove.root.glob("roots/u*"))) <= READY
        and not any(name.startswith(secrets) for name in os.listdir("/dev/shm"))
    )


def rooms(cove: Cove) -> dict[str, list[str]]:
    """What is in the store that a build puts things into. The image ``host`` gets another layer
    when the host's /etc changes: it is no build's.
    """
    found = {name: sorted(os.listdir(cove.root / name)) for name in ("blobs/sha256", "volumes")}
    layers = cove.root.glob("roots/l*")
    own = (one for one in layers if not (one / "etc/os-release").is_symlink())
    return found | {"layers": sorted(one.name for one in own)}
