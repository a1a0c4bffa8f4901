"""Which proxy leads to a host, by the variables that everybody knows: ``HTTP_PROXY``,
``HTTPS_PROXY``, ``NO_PROXY``, in small letters or large, by Go's rules as Docker has them. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from cove.errors import Unsupported, UsageError
from cove.oci.endpoint import is_loopback

PORTS = {"http": 80, "https": 443}


def proxy_for(url: str, env: Mapping[str, str]) -> str:
    """The proxy's URL, with its login if it has one; empty: none. This host itself has none."""
    parts = urlsplit(url)
    name = f"{parts.scheme}_proxy"
    proxy = env.get(name) or env.get(name.upper()) or ""
    host = (parts.hostname or "").lower()
    if not proxy or is_loopback(parts.netloc) or _excepted(host, parts.port, parts.scheme, env):
        return ""
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    try:
        found = urlsplit(proxy)
        usable = bool(found.hostname) and (found.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"cannot use {name.upper()}: it is no URL of a proxy", exit_code=1)
    if found.scheme not in ("http", "https"):
        raise Unsupported(
            f"cannot use {name.upper()}: proxies of the kind {found.scheme} are not known here",
            hint="http:// and https:// are",
            exit_code=1,
        )
    return proxy


def _excepted(host: str, port: int | None, scheme: str, env: Mapping[str, str]) -> bool:
    wanted = port or PORTS.get(scheme, 0)
    entries = (env.get("no_proxy") or env.get("NO_PROXY") or "").lower().split(",")
    return any(_covers(entry.strip(), host, wanted) for entry in entries)


def _covers(entry: str, host: str, port: int) -> bool:
    """``*``, a network, an address or a domain with all below it, which may have a port."""
    if entry in ("", "*"):
        return entry == "*"
    address = _address(host)
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    if (known := _address(entry.strip("[]"))) is not None:
        return address == known
    name, colon, number = entry.rpartition(":")
    if colon:
        if number != str(port):
            return False
        entry = name
        if (known := _address(entry.strip("[]"))) is not None:
            return address == known
    below = entry.removeprefix("*")
    if below.startswith("."):
        return host.endswith(below)
    return host == below or host.endswith(f".{below}")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
