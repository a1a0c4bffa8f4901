"""``--allow``: what a Dockerfile may ask for only if who builds it says so."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.build.conftest import Build
from tests.build.test_builds import says
from tests.driver import Cove

pytestmark = pytest.mark.usefixtures("tidied")

INSECURE = """\
FROM bb
RUN grep CapEff /proc/self/status >/sandboxed; ls /dev | sort >/dev1
RUN --security=insecure grep CapEff /proc/self/status >/caps && cat /proc/self/uid_map >/ids \\
    && mkdir /mine && mount -t tmpfs none /mine && touch /mine/gone && umount /mine \\
    && mknod /node c 1 3 && chown 7:8 /mine && ls /sys/kernel >/dev/null; echo "$?" >/code
RUN grep CapEff /proc/self/status | diff - /sandboxed && stat -c %u:%g /mine >/owner
"""
HOST = """\
FROM bb
RUN --network=host readlink /proc/self/ns/net >/host
RUN readlink /proc/self/ns/net >/own
"""


@pytest.mark.parametrize(
    ("step", "flags", "hint"),
    [
        ("--security=insecure", (), "--allow security.insecure"),
        ("--security=insecure", ("--allow", "network.host"), "--allow security.insecure"),
        ("--security=insecure", ("--network", "host"), "--allow security.insecure"),
        ("--network=host", (), "--allow network.host"),
        ("--network=host", ("--allow", "security.insecure"), "--allow network.host"),
    ],
)
def test_what_nobody_allowed(build: Build, step: str, flags: tuple[str, ...], hint: str) -> None:
    """It is said before anything is done, wherever the target needs it."""
    text = f"FROM bb AS one\nRUN true\nRUN {step} true\nFROM bb\nCOPY --from=one /bin /b\n"
    failed = build(text, *flags, code=1)
    assert "is not allowed" in failed.err and f"hint: allow it to this build: {hint}" in failed.err
    assert f"Dockerfile:3  RUN {step} true" in failed.err and "#1" not in failed.err
    build(text.replace("COPY --from=one /bin /b\n", ""), *flags)  # not needed


def test_a_word_that_is_nothing_to_allow(build: Build) -> None:
    failed = build("FROM bb\n", "--allow", "security.insecur", code=125)
    assert "did you mean security.insecure?" in failed.err


def test_root_on_the_host_for_one_step(cove: Cove, build: Build) -> None:
    """As ``run --privileged``; the steps beside it are as ever."""
    build(INSECURE, "--allow", "security.insecure", "-t", "insecure")
    said = says(cove, "insecure", "cat /caps /ids /code /owner; ls /mine").split()
    mine = cove("run", "--rm", "--privileged", "bb", "grep", "CapEff", "/proc/self/status").out
    assert said[:2] == mine.split() and said[2:5] == ["0", "0", "4294967295"]
    assert said[5:] == ["0", "7:8"]
    assert " /mine " not in Path("/proc/self/mountinfo").read_text()


def test_a_device_that_was_left_in_a_cache_is_shut(cove: Cove, build: Build) -> None:
    """Whoever takes the cache later was allowed nothing."""
    mount = "--mount=type=cache,id=left,target=/c"
    text = f"FROM bb\nRUN --security=insecure {mount} mknod -m 666 /c/null c 1 3 && cat /c/null\n"
    build(text, "--allow", "security.insecure")
    build(f"FROM bb\nRUN {mount} ls -l /c/null >/said; cat /c/null 2>>/said; true\n", "-t", "taken")
    said = says(cove, "taken", "cat /said")
    assert said.startswith("crw-rw-rw-") and "Permission denied" in said


def test_a_step_of_a_guest_is_root_there_alone(cove: Cove, build: Build) -> None:
    text = "FROM bb\nRUN --security=insecure true\n"
    failed = build(text, "--isolation", "vm", code=1)
    assert "--allow security.insecure" in failed.err


def test_the_hosts_network_for_one_step(cove: Cove, build: Build) -> None:
    for flags in (("--allow", "network.host"), ("--allow=network.host", "--network", "none")):
        build(HOST, *flags, "--no-cache", "-t", "hosts")
        host, own = says(cove, "hosts", "cat /host /own").split()
        assert host == os.readlink("/proc/self/ns/net") != own
    build(HOST, "--network", "host", "--no-cache", "-t", "hosts")
    host, own = says(cove, "hosts", "cat /host /own").split()
    assert host == own == os.readlink("/proc/self/ns/net")


def test_what_one_step_may_reach_is_not_for_add(build: Build) -> None:
    """It is fetched by the daemon: only the network of the whole build says where from."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/f"
        failed = build(f"FROM bb\nADD {url} /\n", "--allow", "network.host", code=1)
        assert "--network host" in failed.err
