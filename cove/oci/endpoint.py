"""Which host serves a reference, over what, and which addresses nobody may lead us to. Pure."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from cove.errors import UsageError
from cove.oci.reference import DEFAULT_DOMAIN, Reference

DOCKER_HOST = "registry-1.docker.io"
"""Serves what is named ``docker.io``."""

METADATA4 = ("100.100.100.200", "168.63.129.16", "192.0.0.192")
METADATA6 = ("fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe")
"""Where clouds tell a host who it is and what it may (Alibaba, Azure, Oracle; AWS, Google, Oracle),
beside 169.254.169.254: for the host alone."""
METADATA = frozenset(map(ipaddress.ip_address, ("169.254.169.254", *METADATA4, *METADATA6)))

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``host`` is HOST[:PORT]."""

    host: str
    loose: bool = False
    """Plain HTTP is accepted, and certificates are not checked: loopback, or configured so."""
    loopback: bool = False
    certificates: tuple[str, ...] = ()
    """Directories with ``*.crt``, which vouch for it, and ``*.cert`` with ``*.key``, by which it
    knows us. Where there are any its certificate is checked, whatever ``loose`` says.
    """


def endpoint_of(reference: Reference, insecure: Sequence[str] = ()) -> Endpoint:
    """The registry of a reference; ``insecure`` names hosts (``HOST[:PORT]``) and networks."""
    domain = reference.domain
    if domain == DEFAULT_DOMAIN:
        return Endpoint(DOCKER_HOST)
    loopback = is_loopback(domain)
    return Endpoint(domain, loopback or _configured(domain, insecure), loopback)


def is_loopback(host: str) -> bool:
    """By its name or address as written: what a name resolves to may change."""
    return _is_here(host_name(host))


def _is_here(name: str) -> bool:
    name = name.removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and address.is_loopback


def forbidden(address: str, *, loopback: bool) -> str:
    """Why a redirect or a token server may not be at ``address``, or have that name; empty where it
    may: what a name stands for is asked again.

    ``loopback``: the registry itself is there, so another door of this host is no surprise.
    """
    name = address.partition("%")[0].removesuffix(".")
    found = _address(name)
    if found is None:
        return "this host's own loopback" if _is_here(name.lower()) and not loopback else ""
    found = _inner(found)
    if found in METADATA:
        return "a cloud's metadata service"
    if found.is_link_local:
        return "a link-local address"
    if found.is_multicast or found.is_unspecified:
        return "no host's address"
    if found.is_loopback and not loopback:
        return "this host's own loopback"
    return ""


def _inner(found: _Address) -> _Address:
    """The IPv4 address that an IPv6 one stands for."""
    if not isinstance(found, ipaddress.IPv6Address):
        return found
    if found in NAT64:
        return ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return found.ipv4_mapped or found.sixtofour or found


def host_name(host: str) -> str:
    """``HOST[:PORT]`` without the port, an IPv6 address without its brackets."""
    return (urlsplit(f"//{host}").hostname or "").lower()


def _configured(domain: str, insecure: Sequence[str]) -> bool:
    address = _address(host_name(domain))
    for entry in insecure:
        if entry.lower() == domain.lower():
            return True
        if "/" not in entry:
            continue
        try:
            network = ipaddress.ip_network(entry, strict=False)
        except ValueError:
            raise UsageError(
                f'cannot use insecure registry "{entry}": it is no network',
                hint="write HOST, HOST:PORT or 10.0.0.0/8",
            ) from None
        if address is not None and address in network:
            return True
    return False


def _address(text: str) -> _Address | None:
    """Also of ``127.1`` and ``0x7f000001``, which resolvers take for addresses."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except (OSError, ValueError):
        return None
