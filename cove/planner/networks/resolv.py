"""A machine's /etc/resolv.conf, as C libraries read it. Pure: gives text; the engine writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cove.planner.files.generated import one_line


class Resolv(NamedTuple):
    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def parse_resolv(text: str) -> Resolv:
    """resolv.conf(5): of search and domain the last counts, servers and options add up."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = tuple(words[1:])
        elif words[0] == "options":
            options += words[1:]
    return Resolv(tuple(servers), search, tuple(options))


def resolv_alone(
    dns: Sequence[str] = (), search: Sequence[str] = (), options: Sequence[str] = ()
) -> str:
    """On no network: what was asked for, and without servers it says so."""
    if not dns:
        first = "# on no network: no name servers, unless --dns names one\n"
        return first + _render((), _domains(search), options)
    return _render(dns, _domains(search), options)


def resolv_on_host(
    dns: Sequence[str], search: Sequence[str], options: Sequence[str], host: Resolv
) -> str:
    """On the host's network: the host's own, but for what was asked for."""
    return _render(
        dns or host.servers, _domains(search) if search else host.search, options or host.options
    )


def resolv_on_network(
    dns: Sequence[str],
    search: Sequence[str],
    options: Sequence[str],
    host: Resolv,
    *,
    resolver: str,
) -> str:
    """The network's server, which asks ``dns`` or the host's servers in turn. One that was named by
    a loopback address is in the machine: it asks itself.
    """
    inside = [server for server in dns if server.startswith("127.") or server == "::1"]
    options = tuple(options or host.options)
    # A name without a dot is a machine's: it is asked for as it is before a domain is tried.
    if not any(option.startswith("ndots:") for option in options):
        options = (*options, "ndots:0")
    servers = dns if inside else (resolver,)
    return _render(servers, _domains(search) if search else host.search, options)


def _domains(search: Sequence[str]) -> tuple[str, ...]:
    """``.`` alone asks for none, as with Docker."""
    return tuple(domain for domain in search if domain != ".")


def _render(servers: Sequence[str], search: Sequence[str], options: Sequence[str]) -> str:
    lines = [f"nameserver {server}" for server in servers]
    if search:
        lines.append("search " + " ".join(search))
    if options:
        lines.append("options " + " ".join(options))
    return "".join(f"{one_line(line)}\n" for line in lines)
