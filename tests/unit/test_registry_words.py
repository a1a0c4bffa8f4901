"""What of a registry's protocol is only words: endpoints, challenges, logins, platforms."""

from __future__ import annotations

import base64
import json

import pytest

from cove.errors import UsageError
from cove.oci.auth import Credentials, credentials_from_docker, parse_challenges
from cove.oci.endpoint import Endpoint, endpoint_of, forbidden, is_loopback
from cove.oci.manifest import Descriptor, Index, Platform, choose, parse_platform
from cove.oci.reference import parse_reference


@pytest.mark.parametrize(
    ("text", "insecure", "expected"),
    [
        ("debian", (), Endpoint("registry-1.docker.io")),
        ("docker.io/a/b", ("docker.io",), Endpoint("registry-1.docker.io")),
        ("index.docker.io/a/b", (), Endpoint("registry-1.docker.io")),
        ("localhost/a", (), Endpoint("localhost", True, True)),
        ("localhost:5000/a", (), Endpoint("localhost:5000", True, True)),
        ("127.9.8.7:5000/a", (), Endpoint("127.9.8.7:5000", True, True)),
        ("[::1]:5000/a", (), Endpoint("[::1]:5000", True, True)),
        ("registry.localhost/a", (), Endpoint("registry.localhost", True, True)),
        ("localhost.example.com/a", (), Endpoint("localhost.example.com")),
        ("127.0.0.1.example.com/a", (), Endpoint("127.0.0.1.example.com")),
        ("registry.example.com:5000/a", (), Endpoint("registry.example.com:5000")),
        ("registry.example.com:5000/a", ("registry.example.com",),
         Endpoint("registry.example.com:5000")),
        ("registry.example.com:5000/a", ("registry.example.com:5000",),
         Endpoint("registry.example.com:5000", True)),
        ("10.1.2.3/a", ("10.0.0.0/8",), Endpoint("10.1.2.3", True)),
        ("11.1.2.3/a", ("10.0.0.0/8",), Endpoint("11.1.2.3")),
    ],
)  # fmt: skip
def test_endpoints(text: str, insecure: tuple[str, ...], expected: Endpoint) -> None:
    assert endpoint_of(parse_reference(text), insecure) == expected


def test_an_insecure_network_must_be_one() -> None:
    with pytest.raises(UsageError, match="it is no network"):
        endpoint_of(parse_reference("10.1.2.3/a"), ("10.0.0.0/99",))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("169.254.169.254", "metadata"),
        ("169.254.1.1", "link-local"),
        ("::ffff:169.254.169.254", "metadata"),
        ("64:ff9b::a9fe:a9fe", "metadata"),
        ("2002:7f00:1::", "loopback"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("fd00:ec2::254", "metadata"),
        ("100.100.100.200", "metadata"),
        ("192.0.0.192", "metadata"),
        ("fd20:ce::254", "metadata"),
        ("fd00:c1::a9fe:a9fe", "metadata"),
        ("127.1", "loopback"),
        ("2130706433", "loopback"),
        ("0x7f.0.0.1", "loopback"),
        ("0251.0376.0251.0376", "metadata"),
        ("localhost", "loopback"),
        ("a.LocalHost.", "loopback"),
        ("127.0.0.1.example", ""),
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("0.0.0.0", "no host"),
        ("224.0.0.1", "no host"),
        ("192.0.2.1", ""),
        ("10.0.0.1", ""),
        ("registry.example.com", ""),
    ],
)
def test_where_nobody_may_lead(address: str, reason: str) -> None:
    found = forbidden(address, loopback=False)
    assert reason in found and bool(reason) == bool(found)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST.:80", "a.localhost.", "127.1:5000", "0x7f000001", "017700000001",
     "2130706433", "[::1]:80", "127.0.0.1."],
)  # fmt: skip
def test_what_is_this_host_by_its_name(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", ".", "localhost.example", "127.0.0.1.example", "10.1", "1", "[::2]"]
)
def test_what_is_another_host_by_its_name(host: str) -> None:
    assert not is_loopback(host)


def test_a_registry_on_loopback_may_lead_there() -> None:
    assert forbidden("127.0.0.1", loopback=True) == ""
    assert forbidden("169.254.169.254", loopback=True) != ""


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (('Basic realm="a b"',), [("basic", {"realm": "a b"})]),
        (("basic",), [("basic", {})]),
        (
            ('Bearer realm="https://auth.example/token",service="s",scope="repository:a:pull,push"',),
            [("bearer", {"realm": "https://auth.example/token", "service": "s",
                         "scope": "repository:a:pull,push"})],
        ),
        (('Negotiate, Bearer realm=x, Basic realm="y"',),
         [("negotiate", {}), ("bearer", {"realm": "x"}), ("basic", {"realm": "y"})]),
        (("Bearer realm=x", "Basic"), [("bearer", {"realm": "x"}), ("basic", {})]),
        ((r'Basic realm="a\"b", charset = "UTF-8"',),
         [("basic", {"realm": 'a"b', "charset": "UTF-8"})]),
        (("", "=", '"', "realm=x"), []),
        (('Bearer realm="never ends',), [("bearer", {"realm": '"never'})]),
    ],
)  # fmt: skip
def test_challenges(headers: tuple[str, ...], expected: list[tuple[str, dict[str, str]]]) -> None:
    found = [(c.scheme, c.parameters) for c in parse_challenges(headers)]
    assert found[: len(expected)] == expected


def login(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    ("auths", "domain", "expected"),
    [
        ({"https://index.docker.io/v1/": login("ada:x:y")}, "docker.io", ("ada", "x:y")),
        ({"https://index.docker.io/v1/": login("ada:x")}, "registry.example", None),
        ({"registry.example:5000": login("ada:x")}, "registry.example:5000", ("ada", "x")),
        ({"https://registry.example": login("ada:x")}, "registry.example", ("ada", "x")),
        ({"registry.example": {"username": "u", "password": "p"}}, "registry.example", ("u", "p")),
        ({"registry.example": {}}, "registry.example", None),
        ({"registry.example": {"auth": "*"}}, "registry.example", None),
        ({"registry.example": []}, "registry.example", None),
        ([], "registry.example", None),
    ],
)
def test_logins_of_docker(auths: object, domain: str, expected: tuple[str, str] | None) -> None:
    found = credentials_from_docker(json.dumps({"auths": auths}), domain)
    assert found == (Credentials(*expected) if expected else None)
    assert "x:y" not in repr(found)


def test_what_is_no_config_has_no_logins() -> None:
    assert credentials_from_docker("{", "docker.io") is None
    assert credentials_from_docker("[]", "docker.io") is None


def index(*has: str) -> Index:
    platforms = [Platform(*(*text.split("/"), "", "")[1:2], text.split("/")[0],
                          (*text.split("/"), "")[2]) for text in has]  # fmt: skip
    return Index(tuple(Descriptor(f"sha256:{n}", n, platform=p) for n, p in enumerate(platforms)))


@pytest.mark.parametrize(
    ("has", "wanted", "place"),
    [
        (("linux/amd64/v3", "linux/amd64"), "amd64", 1),
        (("linux/amd64/v3", "linux/amd64/v1"), "amd64", 1),
        (("linux/arm/v5", "linux/arm/v6", "linux/arm/v7"), "linux/arm/v7", 2),
        (("linux/arm/v5", "linux/arm/v6"), "linux/arm/v7", 1),
        (("linux/arm/v7",), "linux/arm/v6", None),
        (("linux/arm64/v8",), "arm64", 0),
        (("linux/arm64",), "linux/arm64/v8", 0),
        (("windows/amd64", "unknown/unknown"), "amd64", None),
    ],
)
def test_the_best_of_an_index(has: tuple[str, ...], wanted: str, place: int | None) -> None:
    found = choose(index(*has), parse_platform(wanted))
    assert (found.size if found else None) == place
