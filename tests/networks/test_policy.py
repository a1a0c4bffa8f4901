"""--network-policy: where a machine may begin conversations, against its own root, and what it was
refused.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.driver import Cove, wait_until
from tests.networks.asking import seat
from tests.networks.conftest import OUTSIDE, Host, inside, machine, network, rules, with_python
from tests.networks.frames import ethernet, udp, udp6
from tests.networks.publishing import answers, running
from tests.networks.test_attacks import heard, listening
from tests.networks.test_ipv6 import OUTSIDE6, address6, place, six
from tests.networks.test_networks import ping, unheard

__all__ = ["six"]

pytestmark = pytest.mark.usefixtures("clean")


@contextmanager
def served(host: Host, address: str) -> Iterator[int]:
    """A server outside that lets anybody in, and out: its port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(host.outside):
        server = socket.socket(family)
    with server:
        server.bind((address, 0))
        server.listen(64)
        thread = threading.Thread(target=close_all, args=(server,))
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RD)  # who accepts is told
            thread.join()


def close_all(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            server.accept()[0].close()


def reaches(cove: Cove, name: str, address: str, port: int) -> bool:
    """Whether a connection comes about; one that is refused is told at once."""
    return cove("exec", name, "nc", address, str(port), code=None).returncode == 0


def refusals(cove: Cove, name: str) -> set[tuple[str, str, str]]:
    form = "{{.Address}} {{.Port}} {{.Protocol}}"
    lines = cove("network", "refused", "--format", form, name).out.splitlines()
    return {tuple(line.split(" ")) for line in lines}  # type: ignore[misc]


def test_deny_all(cove: Cove, host: Host) -> None:
    flags = ("--network-policy", "deny-all", "--add-host", f"outside:{OUTSIDE}", "-p", "8080:80")
    with (
        network(cove, "web", "--ipv6") as gateway,
        served(host, OUTSIDE) as port,
        served(host, OUTSIDE6) as port6,
        machine(cove, "friend", "web") as friend,
        running(cove, "one", "--network", "web", *flags),
    ):
        config = cove.inspect("one")["HostConfig"]
        assert config["NetworkPolicy"] == ["deny-all"]
        own, own6 = (str(place(cove, "one", "web")[n]) for n in ("IPAddress", "GlobalIPv6Address"))
        assert not reaches(cove, "one", OUTSIDE, port) and reaches(cove, "friend", OUTSIDE, port)
        assert not reaches(cove, "one", OUTSIDE6, port6)
        assert unheard(cove, "one", friend) and unheard(cove, "one", gateway)
        assert unheard(cove, "one", address6(cove, "friend", "web"))
        # It answers whom it did not ask: who is on its network, and who comes by its port.
        assert ping(cove, "friend", own) and ping(cove, "friend", own6)
        assert cove("exec", "friend", "sh", "-c", f"echo hi | nc {own} 80").out == "hi\n"
        wait_until(lambda: answers("127.0.0.1", 8080), "an answer")
        with seat(cove, "one") as there:
            assert cove("exec", "one", "nslookup", "friend", code=None).returncode != 0
        wanted = {
            (OUTSIDE, str(port), "tcp"), (OUTSIDE6, str(port6), "tcp"), (friend, "", "icmp"),
            (gateway, "", "icmp"), (address6(cove, "friend", "web"), "", "ipv6-icmp"),
            (there.server, "53", "udp"),
        }  # fmt: skip
        assert refusals(cove, "one") == wanted
        cove.kill_daemon()
        assert not reaches(cove, "one", OUTSIDE, port)
        assert refusals(cove, "one") == wanted and ping(cove, "friend", own)
        shown = cove("network", "refused", "one").out.splitlines()
        assert shown[0].split() == ["ADDRESS", "PORT", "PROTOCOL", "PACKETS", "LAST", "AT"]
        cove("stop", "-t", "0", "one")
        assert refusals(cove, "one") == wanted
        cove("start", "one")
        assert refusals(cove, "one") == set()
        assert not reaches(cove, "one", OUTSIDE, port)
        assert refusals(cove, "one") == {(OUTSIDE, str(port), "tcp")}
    assert rules() == ""


def test_what_is_allowed(cove: Cove, host: Host) -> None:
    with (
        network(cove, "web", "--ipv6"),
        network(cove, "inner", "--internal"),
        served(host, OUTSIDE) as port,
        served(host, OUTSIDE) as other,
        served(host, OUTSIDE6) as port6,
        machine(cove, "friend", "web") as friend,
        machine(cove, "store", "inner") as store,
    ):
        words = (
            f"allow={OUTSIDE}:{port}", f"allow=[{OUTSIDE6}/128]:{port6}/tcp",
            f"allow={friend}/icmp", "allow=dns",
        )  # fmt: skip
        flags = [each for word in words for each in ("--network-policy", word)]
        with machine(cove, "one", "web", *flags):
            assert reaches(cove, "one", OUTSIDE, port) and reaches(cove, "one", OUTSIDE6, port6)
            assert not reaches(cove, "one", OUTSIDE, other)
            assert ping(cove, "one", friend) and unheard(cove, "one", OUTSIDE)
            assert friend in cove("exec", "one", "nslookup", "friend").out
            cove("network", "connect", "inner", "one")
            assert unheard(cove, "one", store)
            own = str(place(cove, "one", "inner")["IPAddress"])
            assert ping(cove, "store", own)
            assert refusals(cove, "one") == {
                (OUTSIDE, str(other), "tcp"), (OUTSIDE, "", "icmp"), (store, "", "icmp")
            }  # fmt: skip
            cove("network", "disconnect", "inner", "one")
            with machine(cove, "next", "inner", "--ip", own):
                assert ping(cove, "next", store)  # the address has no policy, the machine had
            assert reaches(cove, "one", OUTSIDE, port)
            plain = cove("network", "refused", "friend", code=1)
            assert "it has no network policy" in plain.err


def test_its_root_cannot_get_around_it(cove: Cove, host: Host) -> None:
    """Frames straight to whom it is on a network with, to everybody, and to the gateway."""
    flags = ("--network-policy", "deny-all", "--cap-add", "NET_ADMIN")
    with (
        network(cove, "web", "--ipv6"),
        machine(cove, "friend", "web", image=with_python(cove)) as friend,
        machine(cove, "one", "web", *flags) as own,
        inside(host.namespace),
        listening(OUTSIDE_OF_HOST) as up,
    ):
        mine, theirs = place(cove, "one", "web"), place(cove, "friend", "web")
        mac, to = str(mine["MacAddress"]), str(theirs["MacAddress"])
        own6, friend6 = address6(cove, "one", "web"), address6(cove, "friend", "web")
        code = "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); " \
            "s.bind(('::', 4000)); print('ready', flush=True)\n" \
            "while True:\n data = s.recv(100); print(data.decode(), flush=True)\n" \
            " if data == b'HONEST': break\n"  # fmt: skip
        ear = cove.spawn("exec", "friend", "python3", "-uc", code)
        assert ear.stdout is not None and ear.stdout.readline() == b"ready\n"
        everybody, group = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"
        frames = [
            ethernet(to, mac, 0x800, udp(own, friend, 4000, b"AROUND")),
            ethernet(everybody, mac, 0x800, udp(own, friend, 4000, b"AROUND everybody")),
            ethernet(everybody, mac, 0x800, udp(own, "255.255.255.255", 4000, b"AROUND all")),
            ethernet(to, mac, 0x86DD, udp6(own6, friend6, b"AROUND six")),
            ethernet(group, mac, 0x86DD, udp6(own6, "ff02::1", b"AROUND group")),
            ethernet(to, mac, 0x800, udp(own, OUTSIDE_OF_HOST, up.getsockname()[1], b"AROUND")),
        ]
        cove("exec", "one", "probe", "frames", "eth0", *frames)
        with machine(cove, "third", "web", image=with_python(cove)):
            say = "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); " \
                "s.sendto(b'HONEST', (sys.argv[1], 4000))"  # fmt: skip
            cove("exec", "third", "python3", "-c", say, friend)
            assert ear.communicate(timeout=180)[0] == b"HONEST\n"
        assert not heard(up)
        assert {(friend, "4000", "udp"), (friend6, "4000", "udp")} <= refusals(cove, "one")


def test_forks_have_the_policy(cove: Cove, host: Host) -> None:
    flags = ("--network-policy", "deny-all", "--network-policy", "allow=dns")
    with network(cove, "web"), served(host, OUTSIDE) as port, machine(cove, "one", "web", *flags):
        cove("fork", "one", "-n", "2")
        try:
            for name in ("one-1", "one-2"):
                assert cove.inspect(name)["HostConfig"]["NetworkPolicy"] == list(flags[1::2])[1:]
                assert not reaches(cove, name, OUTSIDE, port)
                assert refusals(cove, name) == {(OUTSIDE, str(port), "tcp")}
        finally:
            cove("rm", "-f", "one-1", "one-2")
        assert reaches(cove, "one", OUTSIDE, port) is False


OUTSIDE_OF_HOST = "198.51.100.1"


def test_a_flood_of_refusals_is_bounded(cove: Cove) -> None:
    code = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n" \
        "for port in range(1, 3001):\n try: s.sendto(b'x', ('203.0.113.9', port))\n" \
        " except OSError: pass\n"  # fmt: skip
    flags = ("--network-policy", "deny-all")
    with network(cove, "web"), machine(cove, "one", "web", *flags, image=with_python(cove)):
        cove("exec", "one", "python3", "-c", code)
        found = refusals(cove, "one")
        assert 0 < len(found) <= 1024


def test_words(cove: Cove) -> None:
    for word, said in (
        ("allow=example.com:443", "names may lead elsewhere"),
        ("allow=10.0.0.1/8", "the network is 10.0.0.0/8"),
        ("allow=10.0.0.0/8:0", "is no port"),
        ("allow=10.0.0.0/8/sctp", "no protocol"),
        ("allow", "not deny-all"),
    ):
        done = cove("run", "--rm", "--network-policy", word, "bb", "true", code=125)
        assert said in done.err
    both = ("--network", "host", "--network-policy", "deny-all")
    assert "that is another's network" in cove("run", "--rm", *both, "bb", "true", code=125).err
