"""A COPY of more than a few megabytes: its writable layer becomes the layer, without a second copy.
It has to be what its archive says, whoever unpacks that.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.build.conftest import Build
from tests.driver import Cove

TEXT = """\
FROM bb AS s
RUN mkdir -p /s/d/sub && cd /s && echo one >a && ln a b && ln -s a link && mkfifo fifo \\
    && truncate -s 3M holes && echo end >>holes && : >empty \\
    && head -c 5242880 /dev/urandom >big && printf x >"$(printf 'n\\nl')" \\
    && chown 5:7 d && chown 70:71 b && chmod 4755 a && chmod 2711 d && touch -d @1000 d/sub
FROM bb
RUN mkdir -p /x/d/sub/old /x/gone && echo old >/x/a && echo lower >/x/lower
RUN rm -rf /x/gone /x/d/sub
COPY --from=s /s/ /x/
COPY random /x/gone/
COPY --from=s /s/ /x/copy/
COPY --link random /y/z/
"""
LIST = (
    "find /x /y -print0 | sort -z | xargs -0 stat -c '%n %f %u %g %s %Y %h'; "
    "find /x /y -type l -exec readlink {} +; find /x /y -type f -print0 | sort -z | xargs -0 md5sum"
)
pytestmark = pytest.mark.usefixtures("tidied")


def test_a_large_copy_is_what_its_archive_says(build: Build, cove: Cove, tmp_path: Path) -> None:
    (tmp_path / "random").write_bytes(os.urandom(5 << 20))
    build(TEXT, "-t", "large")
    seen = cove("run", "--rm", "large", "sh", "-c", LIST).out
    assert "/x/d/sub/old" not in seen and "/x/lower" in seen and "/x/copy/fifo" in seen
    assert seen.count("  /x/") > 10 and " 89ed " in seen
    layers = cove("image", "inspect", "--format", "{{json .RootFS.Layers}}", "large").out
    # The recipe and the tree give the bytes that the digest is of, or save says so.
    cove("save", "-o", str(tmp_path / "large.tar"), "large")
    cove("rmi", "-f", "large")
    cove("builder", "prune", "-af")
    cove("load", "-i", str(tmp_path / "large.tar"))
    assert cove("run", "--rm", "large", "sh", "-c", LIST).out == seen
    assert cove("image", "inspect", "--format", "{{json .RootFS.Layers}}", "large").out == layers
