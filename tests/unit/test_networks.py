"""Addresses, rules and words of networks: what is decided without a kernel."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cove.errors import CoveError
from cove.net.wires import number_text, tag_of
from cove.plan.ops import Barrier, Ifup
from cove.plan.vm_ops import Card, CardBack
from cove.planner.networks import firewall
from cove.planner.networks.addresses import POOLS, choose_address, choose_subnet, mac_of
from cove.planner.virtual.cards import Link, anew, with_links
from cove.spec.machine import MachineSpec, connections_of
from cove.spec.network import (
    Connection,
    parse_alias,
    parse_connection,
    parse_mac,
    parse_network_name,
    parse_subnet,
)

NETWORKS = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 30)).map(
    lambda pair: IPv4Network(pair, strict=False)
)


@given(st.lists(NETWORKS, max_size=8))
def test_a_chosen_subnet_touches_nothing(taken: list[IPv4Network]) -> None:
    subnet = choose_subnet(taken)
    if subnet is not None:
        assert subnet.is_private and not any(subnet.overlaps(other) for other in taken)


def test_every_pool_is_used_before_there_is_none() -> None:
    pools = [IPv4Network(pool) for pool, _ in POOLS]
    for count, pool in enumerate(pools):
        found = choose_subnet(pools[:count])
        assert found is not None and found.subnet_of(pool)
    assert choose_subnet(pools) is None


@given(st.sets(st.integers(0, 15)), st.integers(0, 15))
def test_a_chosen_address_is_free_and_the_next_one(taken: set[int], last: int) -> None:
    subnet = IPv4Network("10.0.0.0/28")
    used = {str(subnet[number]) for number in taken}
    found = choose_address(subnet, subnet, used.__contains__, str(subnet[last]))
    free = [number for number in range(1, 15) if number not in taken]
    if not free:
        assert found == ""
        return
    behind = [number for number in free if number > last]
    assert found == str(subnet[(behind or free)[0]])


def test_addresses_come_from_the_range() -> None:
    subnet, part = IPv4Network("10.0.0.0/24"), IPv4Network("10.0.0.64/31")
    assert choose_address(subnet, part, lambda text: False) == "10.0.0.64"
    assert choose_address(subnet, part, lambda text: text == "10.0.0.64") == "10.0.0.65"
    assert choose_address(subnet, part, lambda text: True) == ""


def test_every_address_has_a_mac_address_of_its_own() -> None:
    assert mac_of("10.1.2.3") == "02:c0:0a:01:02:03" == parse_mac(mac_of("10.1.2.3"))


@given(st.integers(0, 2**31))
def test_names_of_links_fit_the_kernel(number: int) -> None:
    assert len(f"{tag_of('/var/lib/cove')}e{number_text(number)}0") <= 15
    assert int(number_text(number), 36) == number


def test_who_forwards_says_so() -> None:
    assert not parse_connection("name=a,alias=b").forwards
    assert parse_connection("name=a,driver-opt=forwarding=true,ip=10.0.0.2").forwards
    off = "name=a,driver-opt=forwarding=true,driver-opt=forwarding=false"
    assert not parse_connection(off).forwards


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_subnet, "10.0.0.0/30"),
        (parse_subnet, "224.0.0.0/8"),
        (parse_subnet, "10.0.0.1/24"),
        (parse_subnet, "fd00::1/64"),
        (parse_subnet, "fe80::/64"),
        (parse_subnet, "10.0.0.0/24; drop"),
        (parse_mac, "02:00:00:00:00"),
        (parse_mac, "ff:ff:ff:ff:ff:ff"),
        (parse_mac, "00:00:00:00:00:00"),
        (parse_network_name, 'a" }'),
        (parse_network_name, "container"),
        (parse_network_name, ""),
        (parse_alias, "a b"),
        (parse_alias, "-a"),
        (parse_alias, "a..b"),
        (parse_alias, "a" * 64),
        (parse_connection, ""),
        (parse_connection, "alias=db"),
        (parse_connection, "name=a,name=b"),
        (parse_connection, "name=a,ip=10.0.0"),
        (parse_connection, "name=a,ip6=10.0.0.2"),
        (parse_connection, "name=a,link-local-ip=fe80::2"),
        (parse_connection, "name=a,driver-opt=x=y"),
        (parse_connection, "name=a,driver-opt=forwarding"),
        (parse_connection, "name=a,driver-opt=forwarding=1,driver-opt=forwarding=true"),
        (parse_connection, "name=a,size=1"),
        (parse_connection, "name=a,alias="),
    ],
)
def test_words_that_are_refused(parse, text: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CoveError):
        parse(text)


def test_which_networks_a_machine_asks_for() -> None:
    assert connections_of(MachineSpec("i")) == ()
    more = (Connection("db", "10.0.0.2"),)
    spec = MachineSpec("i", network="web", mac="02:00:00:00:00:01", connections=more)
    assert connections_of(spec) == (Connection("web", "", "02:00:00:00:00:01"), *more)


def test_a_network_is_asked_for_by_its_name_or_in_dockers_long_form() -> None:
    assert parse_connection("web") == Connection("web")
    assert parse_connection("default") == Connection("default")
    text = "name=web,alias=db,ip=10.0.0.2,alias=sql,mac-address=02-00-00-00-00-0A"
    asked = Connection("web", "10.0.0.2", "02:00:00:00:00:0a", ("db", "sql"))
    assert parse_connection(text) == asked


def test_rules_name_every_port_and_drop_the_rest() -> None:
    bridge = firewall.Bridge(
        "cvxb1", "10.0.0.0/24", "10.0.0.1", internal=True, resolver="10.0.0.254"
    )
    port = firewall.Port("cvxe10", "10.0.0.2", "02:c0:0a:00:00:02")
    text = firewall.whole("cvx", "cvx", [bridge], [port], router=False)
    assert '"cvxe10" . 10.0.0.2' in text and '"cvxe10" . 02:c0:0a:00:00:02' in text
    guard = text.split("chain guard {")[1].split("\n }")[0]
    assert guard.split()[-1] == "drop"
    assert "elements = { 10.0.0.254 }" in text.split("set resolvers")[1].split("set busy")[0]
    assert "elements" not in text.split("set routed")[1].split("}")[0]
    assert text.startswith(firewall.delete("cvx"))


def test_the_plan_of_a_guest_has_its_cards_where_a_container_waits() -> None:
    links = (
        Link(0, "web", "02:c0:0a:00:00:02", "10.0.0.2/20", "10.0.0.1"),
        Link(2, "db", "02:c0:0a:01:00:02", "10.1.0.2/24"),
    )
    before, after = Ifup("lo", why=""), Ifup("lo", why="")
    first, web, db, last = with_links((before, Barrier(1, (), why=""), after), links)
    assert (first, last) == (before, after)
    assert isinstance(web, Card) and isinstance(db, Card)
    assert (web.target, web.name, web.address, web.mask) == (
        "-",
        "eth0",
        "10.0.0.2",
        "255.255.240.0",
    )
    assert (web.gateway, db.gateway) == ("10.0.0.1", "")
    assert web.why == "--network web" and db.card == bytes.fromhex("02cc00000002")


def test_in_a_copy_of_a_guest_every_card_is_this_machines_or_nobodys() -> None:
    one = Link(1, "db", "02:c0:0a:01:00:02", "10.1.0.2/24")
    kinds = [(type(op), getattr(op, "target", "")) for op in anew((one,))]
    assert kinds == [(CardBack, "target"), (Card, "target"), (CardBack, "target")]
