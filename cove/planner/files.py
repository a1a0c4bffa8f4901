"""Contents of the files cove generates for a machine: /etc/hosts, /etc/hostname, /etc/resolv.conf.

Pure: gives text; the engine writes it, a plan mounts it.
"""

from __future__ import annotations

from collections.abc import Sequence

from cove.errors import UsageError

_LOOPBACK = (
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "ff00::0\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)


def render_hosts(
    hostname: str, extra: Sequence[str] = (), *, domainname: str = "", address: str = "127.0.0.1"
) -> str:
    """/etc/hosts: loopback, what ``--add-host`` names (``host:address``), the machine itself."""
    lines = list(_LOOPBACK)
    for entry in extra:
        name, _, target = entry.partition(":")
        target = target.removeprefix("[").removesuffix("]")
        if not name or not target:
            raise UsageError("cannot add a host: not HOST:ADDRESS", origin=f"--add-host {entry}")
        lines.append(f"{target}\t{name}")
    if hostname:
        full = f"{hostname}.{domainname} {hostname}" if domainname else hostname
        lines.append(f"{address}\t{full}")
    return "".join(f"{_one_line(line)}\n" for line in lines)


def render_hostname(hostname: str) -> str:
    """/etc/hostname."""
    return f"{_one_line(hostname)}\n"


def render_resolv(
    servers: Sequence[str], *, search: Sequence[str] = (), options: Sequence[str] = ()
) -> str:
    """/etc/resolv.conf; without servers it says so, and names are not resolved."""
    lines = [f"nameserver {server}" for server in servers]
    if search:
        lines.append("search " + " ".join(search))
    if options:
        lines.append("options " + " ".join(options))
    if not servers:
        lines.insert(0, "# no name servers: --dns names one")
    return "".join(f"{_one_line(line)}\n" for line in lines)


def _one_line(text: str) -> str:
    if any(c in "\n\r\0" for c in text):
        raise UsageError("cannot write a host name: it has a line break", origin=repr(text))
    return text
