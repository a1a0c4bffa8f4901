"""How many flows a machine may have with what is beyond its bridge: the host remembers each, and
there are so many for all.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cove.planner.networks.flows import MOST
from tests.driver import Cove
from tests.networks.conftest import OUTSIDE, Host, inside, machine, network, rules, run, with_python
from tests.networks.test_ipv6 import OUTSIDE6, six

__all__ = ["six"]

pytestmark = pytest.mark.usefixtures("clean")

KEPT = Path("/proc/sys/net/netfilter/nf_conntrack_udp_timeout")
COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")

FLOOD = """
import contextlib, itertools, socket, sys
where, port, many, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
family = socket.AF_INET6 if ":" in where else socket.AF_INET
numbers = itertools.count()
def ask(sock):  # whoever is there answers, and so all that was sent before has arrived
    sock.settimeout(1)
    while True:
        with contextlib.suppress(TimeoutError):
            said = b"%d" % next(numbers)
            sock.sendto(said, (where, port))
            while sock.recv(10) != said:
                pass
            return
known = socket.socket(family, socket.SOCK_DGRAM)
ask(known)
for start in range(0, many, 4096):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    for other in range(20000, 20000 + min(4096, many - start)):
        sock.sendto(b"x", (where, other))
        if other % 128 == 0:  # no queue is longer
            ask(known)
ask(known)
late = socket.socket(family, socket.SOCK_DGRAM)
if last == "answered":
    ask(late)
else:
    late.sendto(b"LATE", (where, port))
    ask(known)
"""
"""Words: who is outside, how many flows, and whether a last one is answered."""

ONE_MORE = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
socket.socket(family, socket.SOCK_DGRAM).sendto(b"LATE", (sys.argv[1], int(sys.argv[2])))
"""


@contextmanager
def echo(host: Host, address: str) -> Iterator[tuple[str, list[bytes]]]:
    """Somebody outside who answers: the port, and all that he heard."""
    with inside(host.outside):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        end = socket.socket(family, socket.SOCK_DGRAM)
    heard: list[bytes] = []

    def serve() -> None:
        while not heard or heard[-1] != b"END":
            data, peer = sock.recvfrom(10)
            heard.append(data)
            sock.sendto(data, peer)

    with sock, end:
        sock.bind((address, 0))
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield str(sock.getsockname()[1]), heard
        finally:
            end.sendto(b"END", sock.getsockname())
            thread.join()


@pytest.mark.parametrize("address", [OUTSIDE, OUTSIDE6])
def test_nobody_takes_all_flows_of_the_host(cove: Cove, host: Host, address: str) -> None:
    def flood(name: str, many: int, last: str) -> None:
        cove("exec", name, "python3", "-c", FLOOD, address, port, str(many), last)

    with (
        network(cove, "lan", "--ipv6"),
        machine(cove, "greedy", "lan", image=with_python(cove)),
        machine(cove, "modest", "lan", image=with_python(cove)),
        echo(host, address) as (port, heard),
    ):
        bridge = cove("network", "inspect", "-f", "{{.Bridge}}", "lan").out.strip()
        # Nor is anybody's link one that gets what others say to groups.
        assert "mcast_snooping 0" in run("ip", "-d", "link", "show", bridge)
        KEPT.write_text("100000")  # none is forgotten before this ends
        before = int(COUNT.read_text())
        flood("greedy", MOST + 512, "lost")
        assert b"LATE" not in heard
        assert (
            abs(int(COUNT.read_text()) - before - MOST) < 64
        )  # answered ones are forgotten sooner
        flood("modest", 1, "answered")
        cove("network", "create", "other")  # rules made anew count on
        cove("run", "--rm", "--network", "other", "bb", "true")
        cove("exec", "greedy", "python3", "-c", ONE_MORE, address, port)
        flood("modest", 1, "answered")
        assert b"LATE" not in heard
        tag = rules().split("table bridge ")[1].split()[0]
        run("nft", "delete", "table", "inet", f"{tag}f")
        flood("greedy", MOST + 512, "answered")  # nobody counts
        cove("run", "--rm", "--network", "lan", "bb", "true")
        assert f"table inet {tag}f" in rules()
        cove("network", "rm", "other")
