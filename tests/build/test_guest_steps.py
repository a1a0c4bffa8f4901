"""``build --isolation vm``: RUN in virtual machines, with the layers that containers make."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.beside import CAPABILITY
from tests.build.conftest import Build
from tests.build.oci_trees import Flat, flat_image, read_layout
from tests.build.test_builds import wait_for_line
from tests.conftest import open_cove
from tests.driver import Cove, wait_until
from tests.leaks import groups_of

pytestmark = pytest.mark.usefixtures("no_guests", "tidied")

VM = ("--isolation", "vm")
GUESTS = ("qemu-system", "virtiofsd")


@pytest.fixture(scope="module")
def cove(bb_tar: Path) -> Iterator[Cove]:
    """With guests, and all that is made once for them."""
    with open_cove(bb_tar, "vm") as driver:
        driver("run", "--rm", "bb", "true")
        yield driver


@pytest.fixture
def no_guests(cove: Cove) -> Iterator[None]:
    """None is left, and none of their disks."""
    yield
    wait_until(lambda: not guests_of(cove), "the end of all guests")
    wait_until(lambda: not list(cove.root.glob("machines/*/scratch*")), "no disk")


def guests_of(cove: Cove) -> list[int]:
    """Processes in the groups of its machines that belong to a guest."""
    found = []
    for top in groups_of(str(cove.root)):
        for listed in top.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found += [int(pid) for pid in listed.read_text().split() if is_guest(pid)]
    return found


def is_guest(pid: str) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().startswith(GUESTS)
    return False


def made_of(cove: Cove, build: Build, place: Path, text: str, name: str, *flags: str) -> Flat:
    """The image, layer by layer and as a whole."""
    build(text, "-t", name, *flags)
    layout = place / f"{name}.layout"
    cove("save", "--format", "oci-dir", "-o", str(layout), name)
    try:
        return flat_image(read_layout(layout))
    finally:
        shutil.rmtree(layout)


def runs(cove: Cove, image: str, *words: str) -> str:
    return cove("run", "--rm", "--isolation", "container", image, *words).out


WRITES = """\
FROM bb AS one
COPY context/ /
RUN mkdir -p /made/deep/er && echo x >/made/f && ln /made/f /made/hard && ln -s f /made/link \\
    && mkfifo /made/pipe && chmod 4751 /made/f && chown -R 7:8 /made/deep \\
    && chmod 2775 /made/deep && touch -d @1000000000 /made/f /noted /able && mkdir /empty \\
    && test ! -e /etc/machine-id && cat /proc/self/cgroup >/dev/null && rm -f /etc/machine-id
ENV A=b
USER 7:8
WORKDIR /made/deep
RUN rm -r er && mkdir er && echo "$A $(id -u) $(pwd)" >er/said && test ! -w /
USER root
RUN cat /made/f && ls / >/dev/null
RUN rm -r /made/deep && mkdir /made/deep && rm /made/link /gone && mv /made/f /made/g \\
    && chmod 1777 / && seq 800000 >/large && mv /empty /moved && ln /noted /noted.2
"""
LAST = (
    WRITES
    + """\
FROM scratch AS last
COPY --from=one / /
RUN echo last >/last && rm -r /made
"""
)


def test_layers_are_those_of_containers(cove: Cove, build: Build, tmp_path: Path) -> None:
    """Entry by entry; a step that wrote nothing makes the layer that has nothing."""
    context, place = tmp_path / "context", tmp_path.parent
    context.mkdir()
    for name in ("noted", "able", "gone"):
        (context / name).write_text(name)
    os.setxattr(context / "noted", "user.said", b"by \xff\x00 me")
    os.setxattr(context / "able", "security.capability", CAPABILITY)
    target = ("--target", "one", "--no-cache")
    one = made_of(cove, build, place, WRITES, "one", *VM, *target)
    assert one == made_of(cove, build, place, WRITES, "other", *target)
    assert one["root /made/g time"] == "1e+09" and one["root / mode"] == "1777"
    assert one["root /able xattr.security.capability"] and one["root /noted xattr.user.said"]
    assert one["root /moved type"] == "folder" and one["root /noted.2 xattr.user.said"]
    assert int(one["root /large size"]) > 5 << 20  # more than a layer that is read at once
    links = ("stat", "-c", "%h", "/noted", "/noted.2", "/made/g", "/made/hard")
    linked = runs(cove, "one", *links)
    assert linked.split()[:2] == ["2", "2"] and linked == runs(cove, "other", *links)
    assert "CACHED" in build(WRITES, *VM, "--target", "one").err
    anew = ("--no-cache-filter", "last")
    last = made_of(cove, build, place, LAST, "last", *VM, *anew)
    assert last == made_of(cove, build, place, LAST, "lasting", *anew)
    assert "root /last digest" in last and "root /made/g digest" not in last


GIVEN = """\
FROM bb AS files
COPY <<END /files/f
of a stage
END
FROM bb
RUN --mount=type=cache,target=/kept/deep --mount=type=tmpfs,target=/quick \\
    --mount=type=secret,id=word,mode=0440,uid=7 --mount=type=secret,id=word,env=WORD \\
    --mount=type=bind,target=/shown --mount=type=bind,from=files,source=files,target=/x/y,rw <<END
set -e
test "$(cat /run/secrets/word)" = "$WORD" && test -n "$WORD"
stat -c '%u %a' /run/secrets/word >/said
cat /shown/file /x/y/f >>/said
echo more >>/x/y/f && echo more >/x/y/g && touch /quick/f
echo kept >>/kept/deep/f
cat /kept/deep/f >>/said
! touch /shown/file
END
"""


def test_mounts(cove: Cove, build: Build, tmp_path: Path) -> None:
    """None of them, and no place of one, is in the layer; a cache is that of containers, too."""
    word, place = secrets.token_hex(20), tmp_path.parent
    (tmp_path / "file").write_text("of the context\n")
    (place / "word").write_text(word)
    secret = ("--secret", f"id=word,src={place}/word")
    ours = made_of(cove, build, place, GIVEN, "ours", "--no-cache", *VM, *secret)
    assert runs(cove, "ours", "cat", "/said") == "7 440\nof the context\nof a stage\nkept\n"
    build(GIVEN, "--no-cache", "-t", "again", *secret)
    assert runs(cove, "again", "cat", "/said").endswith("of a stage\nkept\nkept\n")
    cove("volume", "rm", *cove("volume", "ls", "-q").out.split())
    assert ours == made_of(cove, build, place, GIVEN, "theirs", "--no-cache", *secret)
    assert holding(cove.root, word.encode()) == []


def holding(top: Path, word: bytes) -> list[Path]:
    """Files that hold it; the holes of disks are not read."""
    return [path for path in top.rglob("*") if path.is_file() and word in written(path)]


def written(path: Path) -> bytes:
    found, at = b"", 0
    with path.open("rb") as file, contextlib.suppress(OSError):  # ENXIO: no more of it
        while True:
            begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
            at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            found += os.pread(file.fileno(), at - begin, begin)
    return found


def test_a_tree_that_no_disk_holds(cove: Cove, build: Build) -> None:
    """A file of holes alone takes nothing in a layer, and all of its length in an erofs."""
    text = "FROM bb\nRUN truncate -s 20G /holes\nRUN true\n"
    build(text.replace("RUN true\n", ""))
    before = os.statvfs(cove.root)
    failed = build(text, *VM, code=125)
    assert "cannot make an image's disk: it would be larger than 10" in failed.err
    assert "Dockerfile:3" in failed.err and "du --apparent-size" in failed.err
    wait_until(lambda: not os.listdir(cove.root / "tmp"), "an empty tmp")
    after = os.statvfs(cove.root)
    assert (before.f_bavail - after.f_bavail) * after.f_frsize < 1 << 30


ASKED = """\
FROM bb
RUN --security=insecure --mount=type=cache,from=bb,source=bin,target=/c \\
    test -e /c/busybox && mkdir /m && mount -t tmpfs none /m && grep CapEff /proc/self/status >/caps
RUN grep CapEff /proc/self/status | diff -q - /caps >/dev/null || echo fewer >/said
"""


def test_more_rights_are_those_of_the_guest(cove: Cove, build: Build) -> None:
    """Root in it is root in there."""
    build(ASKED, *VM, "--allow", "security.insecure", "-t", "more")
    assert runs(cove, "more", "cat", "/said") == "fewer\n"


def test_a_step_that_fails(build: Build) -> None:
    """It is in a guest, which it cannot end."""
    text = "FROM bb\nRUN uname -r; reboot -f; kill -9 1; echo because >&2; exit 7\n"
    done = build(text, "--network", "none", *VM, code=1)
    assert "RUN ended with exit code 7" in done.err and " because\n" in done.err
    assert "Dockerfile:2" in done.err and f" {os.uname().release}\n" not in done.err


def test_a_step_that_fills_its_disk(cove: Cove, build: Build) -> None:
    """The disk is the guest's: it is full there, and nowhere else."""
    text = "FROM bb\nRUN fallocate -l 20g /all; cat /bin/busybox >/more || rm /all\n"
    assert "No space left on device" in build(text, *VM, "-t", "full").err
    assert runs(cove, "full", "ls", "/").split().count("more") == 1


@pytest.mark.parametrize(
    ("step", "flags", "why"),
    [
        ("RUN true", ("--network", "host"), "--network host is not possible with --isolation vm"),
        ("RUN --network=host true", (), "--network host is not possible with --isolation vm"),
    ],
)
def test_what_a_guest_cannot_be_given(
    build: Build, step: str, flags: tuple[str, ...], why: str
) -> None:
    """It is said before anything is done."""
    done = build(f"FROM bb\nWORKDIR /made\n{step}\n", *VM, *flags, code=1)
    assert why in done.err and "Dockerfile:3" in done.err and "#1" not in done.err


def test_a_word_that_is_no_isolation(build: Build) -> None:
    assert "it is container or vm" in build("FROM bb\n", "--isolation", "jail", code=125).err


BEFORE = "FROM bb\nRUN echo here >/f\n"
WAITS = "RUN echo begun; sleep 1000\n"


def begun(cove: Cove, place: Path, before: str = "FROM bb\n") -> subprocess.Popen[bytes]:
    """A build whose last step runs."""
    (place / "Dockerfile").write_text(before + WAITS)
    process = cove.spawn("build", "--progress=plain", *VM, str(place))
    wait_for_line(process, b" begun")
    return process


def test_an_emulator_that_is_killed_fails_the_step(cove: Cove, tmp_path: Path) -> None:
    process = begun(cove, tmp_path)
    for pid in guests_of(cove):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 1 and b"emulator" in said, said


def test_an_interrupted_build_ends_its_guest(cove: Cove, tmp_path: Path) -> None:
    process = begun(cove, tmp_path)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=240)
    assert process.returncode == 130


def test_a_killed_daemon_leaves_no_guest(cove: Cove, build: Build, tmp_path: Path) -> None:
    """The next one ends the step's machine, and goes on with what was made before."""
    process = begun(cove, tmp_path, BEFORE)
    cove.kill_daemon()
    process.communicate(timeout=240)
    wait_until(lambda: not cove("ps", "-aq").out, "the end of the step's machine")
    assert build((BEFORE + WAITS).replace("sleep 1000", "true"), *VM).err.count("CACHED") == 1
