"""Networks in a host of their own: these tests, their daemon and its bridges are in a network
namespace that nothing else is in, so nothing of the machine they run on is touched or looked at.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.forks import python_tar
from tests.conftest import need, need_root
from tests.driver import Cove, wait_until
from tests.kernel.conftest import closed_cove
from tests.kernel.settled import settled
from tests.shared import ALL, KINDS, seed_guests

__all__ = ["settled"]

CLONE_NEWNET = 0x40000000

OUTSIDE, INSIDE = "198.51.100.2", "198.51.100.1"
"""Somebody on the network of the host, and the host there."""

METADATA = ("169.254.169.254", "100.100.100.200", "168.63.129.16")


def _call(name: str, *args: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*args):
        raise OSError(ctypes.get_errno(), f"{name} was refused")


def run(*words: str, text: str = "") -> str:
    """A tool of the host's, in the namespace that this thread is in."""
    done = subprocess.run(words, input=text, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


@contextlib.contextmanager
def inside(namespace: int) -> Iterator[None]:
    """This thread, and what it starts, in another network namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("setns", namespace, CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", home, CLONE_NEWNET)
    finally:
        os.close(home)


@contextlib.contextmanager
def new_namespace() -> Iterator[int]:
    """A network namespace that lasts as long as its descriptor."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("unshare", CLONE_NEWNET)
        made = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        run("ip", "link", "set", "lo", "up")
        # A new one begins as the first one is at that moment, where somebody else's cove may be.
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0", encoding="ascii")
        _call("setns", home, CLONE_NEWNET)
    finally:
        os.close(home)
    try:
        yield made
    finally:
        os.close(made)


@dataclass(frozen=True)
class Host:
    namespace: int
    outside: int
    """The namespace of somebody on the host's own network, who knows no way to machines."""


@pytest.fixture(scope="module")
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """The network of a host with one neighbour. This thread stays in it for the whole module."""
    need_root()
    need("nft")
    if (ALL and "vm" in KINDS) or getattr(request.module, "GUESTS", False):
        need("qemu-system-x86_64")
        need("mkfs.erofs")
        seed_guests()  # a kernel may have to be fetched: from in there is no way out
    with new_namespace() as namespace, new_namespace() as outside, inside(namespace):
        link = ("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "eth0")
        run(*link)
        with _held(outside) as holder:
            run("ip", "link", "set", "eth0", "netns", str(holder))
        # A new namespace forwards if the one of the machine does, where others' networks may be.
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
        run("ip", "addr", "add", f"{INSIDE}/24", "dev", "uplink")
        run("ip", "link", "set", "uplink", "up")
        for address in METADATA:
            run("ip", "route", "add", address, "via", OUTSIDE)
        with inside(outside):
            run("ip", "addr", "add", f"{OUTSIDE}/24", "dev", "eth0")
            for address in METADATA:
                run("ip", "addr", "add", f"{address}/32", "dev", "lo")
            run("ip", "link", "set", "eth0", "up")
        # The kernel tells of a carrier a moment later, and routes are shown by that.
        wait_until(lambda: "linkdown" not in run("ip", "route"), "the carrier")
        yield Host(namespace, outside)


@contextlib.contextmanager
def _held(namespace: int) -> Iterator[int]:
    """A process in it: ip(8) knows namespaces by who is there."""
    with inside(namespace):
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        yield process.pid
    finally:
        process.communicate()


def _default(request: pytest.FixtureRequest) -> str:
    """Of machines that name no network: as the module says."""
    return str(getattr(request.module, "DEFAULT_NETWORK", "none"))


@pytest.fixture(scope="module")
def cove(
    request: pytest.FixtureRequest, host: Host, bb_tar: Path, isolation: str
) -> Iterator[Cove]:
    """Shared by a module. Its daemon is in the network of ``host``."""
    with closed_cove(bb_tar, isolation, network=_default(request)) as driver:
        yield driver
        driver("rm", "-f", *driver("ps", "-aq").out.split(), code=None)
        driver("network", "prune", "-f")
    assert rules() == "", "rules are left"


@pytest.fixture
def fresh_cove(
    request: pytest.FixtureRequest, host: Host, bb_tar: Path, isolation: str
) -> Iterator[Cove]:
    """A test's own, to be killed and crashed."""
    before = state()
    with closed_cove(bb_tar, isolation, network=_default(request)) as driver:
        yield driver
        driver("rm", "-f", *driver("ps", "-aq").out.split(), code=None)
        driver("network", "prune", "-f")
    check_as(before)


@pytest.fixture
def clean(settled: None) -> Iterator[None]:
    """No link, address, route or rule more than before, nor anything else of a machine."""
    before = state()
    yield
    check_as(before)


def check_as(before: tuple[object, ...]) -> None:
    """What the kernel tears down a moment later is waited for."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: state() == before)
    assert state() == before


def state() -> tuple[object, ...]:
    """What the host's network is made of, without counters and neighbours."""
    routes = run("ip", "-4", "route", "show", "table", "all")
    return (links(), run("ip", "-4", "-o", "addr"), routes, rules())


def rules() -> str:
    """All tables, in order of their names; without what counts flows, which the kernel forgets in
    its own time.
    """
    tables = re.findall(r"^table .*?^}\n", run("nft", "list", "ruleset"), re.DOTALL | re.MULTILINE)
    counted = re.compile(r"^table inet cv[0-9a-z]{5}f ")
    return "".join(
        re.sub(r"\t\telements = {.*?}\n", "", each, flags=re.DOTALL)
        if counted.match(each)
        else each
        for each in sorted(tables)
    )


def links() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


@contextlib.contextmanager
def network(cove: Cove, name: str, *flags: str) -> Iterator[str]:
    """A network for a while: its gateway."""
    cove("network", "create", *flags, name)
    try:
        yield cove(
            "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", name
        ).out.strip()
    finally:
        cove("network", "rm", name)


@contextlib.contextmanager
def machine(cove: Cove, name: str, net: str, *flags: str, image: str = "bb") -> Iterator[str]:
    """One that runs for a while: its address on ``net``; empty: on the default one."""
    named = ("--network", net) if net else ()
    cove("run", "-d", "--name", name, *named, *flags, image, "sleep", "1000")
    try:
        yield address(cove, name, net or "bridge")
    finally:
        cove("rm", "-f", name)


def with_python(cove: Cove) -> str:
    """An image that has python3 and getent: the host's own, which is for containers alone, or one
    made of it.
    """
    if cove.isolation == "container":
        return "host"
    if not cove("images", "-q", "python").out:
        tar = python_tar(cove.root / "python.tar", "/usr/bin/getent")
        cove("image", "import", "-q", str(tar), "python")
        tar.unlink()
    return "python"


def address(cove: Cove, name: str, net: str) -> str:
    found = cove.inspect(name)["NetworkSettings"]["Networks"][net]["IPAddress"]
    return str(found)
