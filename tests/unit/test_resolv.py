"""A machine's resolv.conf: of what was asked for, and of the host's."""

from __future__ import annotations

from cove.planner.networks.resolv import (
    Resolv,
    parse_resolv,
    resolv_alone,
    resolv_on_host,
    resolv_on_network,
)

HOST = Resolv(("9.9.9.9",), ("corp.example",), ("edns0", "timeout:2"))


def test_reading_the_hosts() -> None:
    text = "# x\nnameserver 9.9.9.9\ndomain a.example\nsearch corp.example lan\noptions edns0\n;\n"
    assert parse_resolv(text + "nameserver fe80::1%eth0\noptions rotate\nnameserver\n") == Resolv(
        ("9.9.9.9", "fe80::1%eth0"), ("corp.example", "lan"), ("edns0", "rotate")
    )
    assert parse_resolv("") == Resolv()


def test_on_no_network() -> None:
    assert resolv_alone() == "# on no network: no name servers, unless --dns names one\n"
    assert resolv_alone(("1.1.1.1",), ("lan",), ("ndots:2",)) == (
        "nameserver 1.1.1.1\nsearch lan\noptions ndots:2\n"
    )


def test_on_the_hosts_network_what_was_asked_for_stands_in_place_of_the_hosts() -> None:
    assert resolv_on_host((), ("lan",), (), HOST) == (
        "nameserver 9.9.9.9\nsearch lan\noptions edns0 timeout:2\n"
    )
    assert resolv_on_host(("1.1.1.1",), (".",), ("rotate",), HOST) == (
        "nameserver 1.1.1.1\noptions rotate\n"
    )


def test_on_a_network_its_own_server_is_asked() -> None:
    assert resolv_on_network((), (), (), HOST, resolver="10.0.0.254") == (
        "nameserver 10.0.0.254\nsearch corp.example\noptions edns0 timeout:2 ndots:0\n"
    )
    asked = resolv_on_network(("1.1.1.1",), (".",), ("ndots:3",), HOST, resolver="10.0.0.254")
    assert asked == "nameserver 10.0.0.254\noptions ndots:3\n"


def test_a_server_in_the_machine_itself_is_asked_by_the_machine() -> None:
    text = resolv_on_network(("127.0.0.1",), (".",), ("edns0",), HOST, resolver="10.0.0.254")
    assert text == "nameserver 127.0.0.1\noptions edns0 ndots:0\n"
