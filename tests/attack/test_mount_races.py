"""What is to be mounted is swapped for a link all the while: before, during and after it is opened.

CVE-2017-1002101 and CVE-2021-25741: kubelet mounted a part of a volume by its path, which a machine
that has the volume made a link to the host's root meanwhile. CVE-2021-30465: runc, likewise. Here a
source is opened once, within what it may lead to, and what was opened is what is mounted, also in
the process that serves a virtual machine's directories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.attack.swapping import Canary, exchanging
from tests.driver import Cove

MOUNTS = 8
"""Of one machine, each opened on its own."""
MOST = {"container": 60, "vm": 12}
"""Machines, until both sides of the race were seen."""


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary.make() as made:
        yield made


@pytest.fixture(params=["plain", "sized"])
def volume(cove: Cove, request: pytest.FixtureRequest) -> Iterator[str]:
    options = ("--opt", "size=32m") if request.param == "sized" else ()
    cove("volume", "create", *options, "parts")
    yield "parts"
    cove("volume", "rm", "-f", "parts")


SWAPPER = """
mkdir -p /v/dir/sub /v@TARGET@/sub
for d in /v/dir /v@TARGET@; do echo ${d#/v} >$d/secret; echo ${d#/v} >$d/sub/secret; done
ln -s @LINK@ /v/lure
touch /ready
exec probe exchange /v/dir /v/lure
"""


@pytest.mark.parametrize("up", [False, True], ids=["absolute", "upwards"])
def test_a_part_of_a_volume_never_leads_out(
    cove: Cove, volume: str, canary: Canary, up: bool
) -> None:
    """A machine that has the whole volume makes the part a link to what only the host has; to who
    is kept in the volume it leads to a directory of the same name there, so that each mount is one
    or the other.
    """
    link = f"{'../' * 12}{str(canary.path)[1:]}" if up else str(canary.path)
    script = SWAPPER.replace("@TARGET@", str(canary.path)).replace("@LINK@", link)
    cove("run", "-d", "--name", "swapping", "-v", f"{volume}:/v", "bb", "sh", "-c", script)
    try:
        cove("exec", "swapping", "sh", "-c", "until test -e /ready; do sleep 0.01; done")
        _until_both({"/dir", str(canary.path)}, cove, lambda: _parts(cove, volume))
        canary.check()
    finally:
        cove("rm", "-f", "swapping")


def _parts(cove: Cove, volume: str) -> set[str]:
    """Of what each mount of one machine is, which also writes there."""
    flags, targets = [], []
    for number in range(MOUNTS):
        part = ("dir", "dir/sub")[number % 2]
        targets.append(f"/p{number}")
        flags += ["--mount", f"type=volume,source={volume},target=/p{number},volume-subpath={part}"]
    script = f"for d in {' '.join(targets)}; do cat $d/secret; echo x >$d/planted; done"
    return set(cove("run", "--rm", *flags, "bb", "sh", "-c", script).out.splitlines())


def test_a_bind_never_leads_into_a_process(cove: Cove, tmp_path: Path) -> None:
    """Links of a bind's source are followed, as its user sees them, but none of /proc: with them a
    path is whatever some process has there.
    """
    source, lure = tmp_path / "source", tmp_path / "lure"
    source.mkdir()
    (source / "mine").touch()
    lure.symlink_to("/proc/self/root")

    def start() -> set[str]:
        words = ("run", "--rm", "-v", f"{source}:/data", "bb", "ls", "/data")
        done = cove(*words, code=None)
        if done.returncode:
            assert "too many symbolic links, or one of /proc" in done.err
        return {done.out or "refused"}

    with exchanging(source, lure):
        _until_both({"mine\n", "refused"}, cove, start)


def test_what_is_shared_is_swapped_while_it_is_read(
    cove: Cove, canary: Canary, tmp_path: Path
) -> None:
    """A link in a shared directory leads to places of the machine, whoever makes it, and whenever:
    also for the process that serves it.
    """
    folder, lure = tmp_path / "shared/dir", tmp_path / "shared/lure"
    (folder / "sub").mkdir(parents=True)
    for path in ("secret", "sub/secret"):
        (folder / path).write_text("mine\n")
    lure.symlink_to(canary.path)
    own = f"mkdir -p {canary.path}/sub; for f in secret sub/secret; do"
    own += f" echo inside >{canary.path}/$f; done; sleep 1000"
    look = "for n in $(seq 400); do cat /data/dir/secret /data/dir/sub/secret;"
    look += " echo x >/data/dir/planted; done 2>/dev/null; echo end"
    flags = ("--name", "reading", "-v", f"{tmp_path}/shared:/data")
    cove("run", "-d", *flags, "bb", "sh", "-c", own)
    try:
        with exchanging(folder, lure):

            def read() -> set[str]:
                return set(cove("exec", "reading", "sh", "-c", look).out.splitlines())

            _until_both({"mine", "inside", "end"}, cove, read)
        canary.check()
    finally:
        cove("rm", "-f", "reading")


def _until_both(sides: set[str], cove: Cove, look: Callable[[], set[str]]) -> None:
    """Nothing but these is seen, and all of them, or it was no race."""
    seen: set[str] = set()
    for _ in range(MOST[cove.isolation]):
        seen |= look()
        assert seen <= sides
        if seen == sides:
            return
    raise AssertionError(f"the race was not one: of {sides} only {seen}")
