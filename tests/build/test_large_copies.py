"""A COPY of more than a few megabytes: its writable layer becomes the layer, without a second copy.
One of many files into a folder that is new or empty: their archive does. Both have to be what the
archive says, whoever unpacks that, and what the same files are elsewhere.
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


MANY = """\
FROM bb AS s
RUN mkdir -p /s/d/sub /s/e && cd /s && for i in $(seq 300); do echo $i >d/f$i; done \\
    && echo one >a && ln a b && ln -s a link && ln -s /etc away && mkfifo -m 640 fifo \\
    && truncate -s 3M holes && echo end >>holes && : >empty \\
    && head -c 5242880 /dev/urandom >big && printf x >"$(printf 'n\\nl')" && echo u >ü \\
    && echo long >$(printf 'l%.0s' $(seq 200)) && chown 5:7 d d/f3 && chown -h 8:9 link \\
    && chmod 4755 d/f4 && chmod 2711 d && touch -d @1000 d/sub && touch -h -d @2000 link
FROM bb
RUN mkdir -p /real/full /empty /gone/old && echo 1 >/real/full/1 && ln -s real led \\
    && chown 3:4 /real /empty && chmod 711 /empty && touch -d @3000 /real
RUN rm -rf /gone
COPY --from=s /s/ /real/full/
COPY --from=s /s/ /new/er/
COPY --from=s /s/ /led/into/
COPY --from=s /s /gone
COPY --link --from=s /s/ /linked/er/
WORKDIR /empty
COPY --from=s /s/ .
COPY --from=s --chown=11:12 --chmod=750 /s/d/ /owned/d
COPY --from=s /s/a /s/d/* /s/big /several/
"""
HERE = (
    "cd {} && find . -mindepth 1 ! -name 1 -print0 | sort -z "
    "| xargs -0 stat -c '%n %f %u %g %s %Y %h'; "
    "for link in $(find . -type l | sort); do readlink $link; done; "
    "find . -type f ! -name 1 -print0 | sort -z | xargs -0 md5sum"
)


def test_many_files_are_the_same_wherever_they_go(build: Build, cove: Cove, tmp_path: Path) -> None:
    """Into a folder with files, and where they are unpacked as a layer is that is pulled."""
    build(MANY, "-t", "many")

    def seen(*words: str) -> str:
        return cove("run", "--rm", "many", "sh", "-c", *words).out

    everywhere = {place: seen(HERE.format(place)) for place in PLACES}
    first = everywhere["/real/full"]
    assert first.count("./d/f") == 600 and "./d/f4 89ed" in first and "\n/etc\n" in first
    assert all(one == first for one in everywhere.values())
    state = "stat -c '%n %F %a %u:%g' /real /real/into /new /new/er /empty /led /gone /owned/d/f3"
    folders = seen(f"{state}; ls /gone; ls /several | wc -l")
    assert folders.startswith(STATE) and "\nold\n" not in folders and folders.split()[-1] == "302"
    cove("save", "-o", str(tmp_path / "many.tar"), "many")
    layers = cove("image", "inspect", "--format", "{{json .RootFS.Layers}}", "many").out
    cove("rmi", "-f", "many")
    cove("builder", "prune", "-af")
    cove("load", "-i", str(tmp_path / "many.tar"))
    assert cove("image", "inspect", "--format", "{{json .RootFS.Layers}}", "many").out == layers
    assert {place: seen(HERE.format(place)) for place in PLACES} == everywhere
    assert seen(f"{state}; ls /gone; ls /several | wc -l") == folders


PLACES = ("/real/full", "/new/er", "/real/into", "/gone", "/linked/er", "/empty")
STATE = """\
/real directory 755 3:4
/real/into directory 755 0:0
/new directory 755 0:0
/new/er directory 755 0:0
/empty directory 711 3:4
/led symbolic link 777 0:0
/gone directory 755 0:0
/owned/d/f3 regular file 750 11:12
"""


def test_a_name_of_an_image_s_own_is_refused_among_many(build: Build, tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"f{number}").touch()
    (tmp_path / "f7").rename(tmp_path / ".wh.f7")
    said = build("FROM bb\nCOPY . /new/\n", code=1).err
    assert 'begins with ".wh.", which an image cannot hold' in said
