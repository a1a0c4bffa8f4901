"""Contents of files that cove generates for a machine: /etc/hosts and /etc/hostname.

Pure: gives text; the engine writes it, a plan mounts it.
"""

from __future__ import annotations

from collections.abc import Sequence

from cove.errors import UsageError

HOST_GATEWAY = "host-gateway"
"""In place of an address: the host's on the machine's network."""

_LOOPBACK = (
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "ff00::0\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)


def render_hosts(
    hostname: str,
    extra: Sequence[str] = (),
    *,
    domainname: str = "",
    address: str = "127.0.0.1",
    gateway: str = "",
    address6: str = "",
) -> str:
    """/etc/hosts: loopback, what ``--add-host`` names (``host:address``), the machine itself."""
    lines = list(_LOOPBACK)
    for entry in extra:
        name, _, target = entry.partition(":")
        target = target.removeprefix("[").removesuffix("]")
        if not name or not target:
            raise UsageError("cannot add a host: not HOST:ADDRESS", origin=f"--add-host {entry}")
        if target == HOST_GATEWAY:
            if not gateway:
                raise UsageError(
                    f"cannot add the host {name}: the machine is on no network with a gateway",
                    origin=f"--add-host {entry}",
                    hint="put it on one: --network bridge",
                )
            target = gateway
        lines.append(f"{target}\t{name}")
    if hostname:
        full = f"{hostname}.{domainname} {hostname}" if domainname else hostname
        lines += [f"{own}\t{full}" for own in (address, address6) if own]
    return "".join(f"{one_line(line)}\n" for line in lines)


def render_hostname(hostname: str) -> str:
    """/etc/hostname."""
    return f"{one_line(hostname)}\n"


def one_line(text: str) -> str:
    if any(c in "\n\r\0" for c in text):
        raise UsageError("cannot write a host name: it has a line break", origin=repr(text))
    return text
