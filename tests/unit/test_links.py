"""What a link says, and the variables that are made of it."""

from __future__ import annotations

import pytest

from cove.errors import UsageError
from cove.spec.links import parse_link, problems, variables


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("db", "db:db"),
        ("db:sql", "db:sql"),
        ("/db:/web/sql", "db:sql"),
        ("db-1:my_db", "db-1:my_db"),
    ],
)
def test_a_link_has_a_name_and_an_alias(text: str, link: str) -> None:
    assert parse_link(text) == link


@pytest.mark.parametrize("text", ["", ":", "db:", ":db", "db:a b", "db:-a", "db:" + "a" * 300])
def test_what_is_no_link(text: str) -> None:
    with pytest.raises(UsageError):
        parse_link(text)


def test_links_need_a_network_of_coves() -> None:
    assert not list(problems(("db:db",), "bridge")) and not list(problems((), "none"))
    for mode in ("none", "host", "container:other"):
        assert mode in str(next(iter(problems(("db:db",), mode))))
    assert list(problems(("db",), "bridge")) == [] and list(problems(("db: ",), "bridge"))


def test_without_ports_only_names_and_variables_are_told() -> None:
    env = ("PATH=/bin", "HOME=/", "A=b=c", "BARE")
    assert list(variables("my-db", "web", "10.0.0.2", (), env)) == [
        "MY_DB_NAME=/web/my-db",
        "MY_DB_ENV_A=b=c",
    ]


def test_tcp_comes_first_and_neighbours_are_a_span() -> None:
    ports = ("10/udp", "9/udp", "9000/tcp", "80/tcp", "81/tcp", "82/tcp")
    told = dict(word.partition("=")[::2] for word in variables("d", "w", "10.0.0.2", ports, ()))
    assert told["D_PORT"] == "tcp://10.0.0.2:80"
    assert told["D_PORT_80_TCP_START"] == "tcp://10.0.0.2:80"
    assert told["D_PORT_82_TCP_END"] == "tcp://10.0.0.2:82"
    assert told["D_PORT_80_TCP_PORT_END"] == "82"
    assert told["D_PORT_9_UDP_PORT_START"] == "9" and told["D_PORT_9_UDP_PORT_END"] == "10"
    assert "D_PORT_9000_TCP_START" not in told and told["D_PORT_9000_TCP_PORT"] == "9000"
