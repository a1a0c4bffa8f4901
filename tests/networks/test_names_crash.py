"""The daemon is killed, the name server is killed, both are: questions are answered."""

from __future__ import annotations

import os
import signal
import socket

from tests.driver import Cove, kill_process, wait_until
from tests.networks.asking import seat
from tests.networks.conftest import machine, network
from tests.networks.test_names import pid_of, server_pid


def test_without_a_daemon_names_are_answered(fresh_cove: Cove) -> None:
    cove = fresh_cove
    with network(cove, "web"), machine(cove, "one", "web") as one, seat(cove, "one") as at:
        first = server_pid(cove)
        cove.kill_daemon()
        assert at.addresses("one") == [one]
        cove("ps")
        wait_until(lambda: server_pid(cove) not in (0, first), "the next daemon's server")
        assert at.addresses("one") == [one]
        with machine(cove, "two", "web") as two:
            assert at.addresses("two") == [two]
        cove.stop_daemon()
        assert at.addresses("one") == [one]
        assert cove("ps", "-q").out


def test_the_server_is_killed(fresh_cove: Cove) -> None:
    """Its sockets are the daemon's too: nobody has to ask twice."""
    cove = fresh_cove
    with network(cove, "web"), machine(cove, "one", "web") as one, seat(cove, "one") as at:
        for _ in range(3):
            kill_process(server_pid(cove))
            assert at.addresses("one") == [one]
        with machine(cove, "two", "web") as two:
            assert at.addresses("two") == [two]


def test_both_are_killed(fresh_cove: Cove) -> None:
    cove = fresh_cove
    with network(cove, "web"), machine(cove, "one", "web") as one:
        for _ in range(2):
            server = server_pid(cove)
            cove.kill_daemon()
            kill_process(server)
            cove("ps")
            with seat(cove, "one") as at:
                assert at.addresses("one") == [one]


def test_a_server_that_hangs_is_replaced_by_the_next_daemon(fresh_cove: Cove) -> None:
    cove = fresh_cove
    with network(cove, "web"), machine(cove, "one", "web") as one:
        hung = server_pid(cove)
        os.kill(hung, signal.SIGSTOP)
        cove.kill_daemon()
        cove("ps")
        with seat(cove, "one") as at:
            assert at.addresses("one") == [one]
        assert server_pid(cove) != hung


def test_of_nobody_the_server_ends_with_its_daemon(fresh_cove: Cove) -> None:
    cove = fresh_cove

    def ended() -> bool:
        """A monitor that was about to go may have brought the daemon back once more."""
        if server_pid(cove) and pid_of(cove, b"cove.daemon"):
            cove.kill_daemon()
        return not server_pid(cove)

    with network(cove, "web"):
        with machine(cove, "one", "web"):
            assert server_pid(cove)
        wait_until(ended, "the server's end")
        cove("run", "--rm", "--network", "web", "bb", "true")
        there = ("network", "inspect", "-f", "{{len .Containers}}", "web")
        wait_until(lambda: cove(*there).out == "0\n", "the machine to be put away")
        cove.stop_daemon()
        wait_until(lambda: not server_pid(cove), "the server's end")
        assert cove("network", "ls", "-q").out


def test_somebody_comes_for_its_sockets_and_is_gone(fresh_cove: Cove) -> None:
    """As a daemon that is killed while it starts."""
    cove = fresh_cove
    with network(cove, "web"), machine(cove, "one", "web") as one, seat(cove, "one") as at:
        for _ in range(3):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as comer:
                wait_until(lambda: not comer.connect_ex(str(cove.root / "run/names.sock")))
            assert at.addresses("one") == [one]
