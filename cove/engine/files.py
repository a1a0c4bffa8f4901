"""The files cove generates for a machine: hosts, hostname, resolv.conf. They are mounted over the
image's own, so that what the machine wrote never shows them.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from typing import NamedTuple

from cove.linux.pump import write_all
from cove.planner.files.generated import render_hostname, render_hosts
from cove.planner.networks.resolv import (
    parse_resolv,
    resolv_alone,
    resolv_on_host,
    resolv_on_network,
)
from cove.spec.machine import MachineSpec
from cove.store.records import MachineRecord

HOST_FILES = {"hosts": "/etc/hosts", "resolv": "/etc/resolv.conf"}
"""What a machine on the host's network sees of it, as with Docker."""

TARGETS = {"/etc/hosts": "hosts", "/etc/hostname": "hostname", "/etc/resolv.conf": "resolv"}
"""Where in the machine each register is mounted."""


def hostname_of(spec: MachineSpec, machine_id: str) -> str:
    if spec.hostname:
        return spec.hostname
    of_host = "host" in (spec.network, spec.uts)
    return socket.gethostname() if of_host else machine_id[:12]


class Where(NamedTuple):
    """A machine, as its generated files tell of it."""

    address: str = "127.0.0.1"
    """What its own name means to it."""
    gateway: str = ""
    """``host-gateway``; empty: there is none."""
    resolver: str = ""
    """Its network's name server; empty: it is on none."""
    address6: str = ""
    """Its own IPv6 address; empty: it has none."""


ALONE, WITH_HOST = Where(), Where(gateway="127.0.0.1")
EXAMPLE = Where("10.192.0.2", "10.192.0.1", "10.192.15.254")
"""Of a plan that is only shown."""


def address_of(record: MachineRecord) -> Where:
    if not record.endpoints:
        return WITH_HOST if record.spec.network == "host" else ALONE
    first = record.endpoints[0]
    way = next((e for e in record.endpoints if e.default), first)
    own, own6 = (word.partition("/")[0] for word in (first.address, first.address6))
    return Where(own, way.gateway, way.resolver, own6)


def texts(spec: MachineSpec, hostname: str, where: Where = ALONE) -> tuple[tuple[str, str], ...]:
    """Register and content of each."""
    if spec.network == "host":
        extra = render_hosts("", spec.extra_hosts, gateway=where.gateway).split("\n", 6)[-1]
        hosts = read_host(HOST_FILES["hosts"]) + extra
    else:
        hosts = render_hosts(
            hostname, spec.extra_hosts, domainname=spec.domainname, address=where.address,
            gateway=where.gateway, address6=where.address6,
        )  # fmt: skip
    resolv = _resolv(spec, where)
    return ("hosts", hosts), ("hostname", render_hostname(hostname)), ("resolv", resolv)


def _resolv(spec: MachineSpec, where: Where) -> str:
    asked = spec.dns or spec.dns_search or spec.dns_options
    on_host = spec.network == "host"
    if on_host and not asked:
        return read_host(HOST_FILES["resolv"])
    if not on_host and not where.resolver:
        return resolv_alone(spec.dns, spec.dns_search, spec.dns_options)
    host = parse_resolv(read_host(HOST_FILES["resolv"]))
    if on_host:
        return resolv_on_host(spec.dns, spec.dns_search, spec.dns_options, host)
    return resolv_on_network(
        spec.dns, spec.dns_search, spec.dns_options, host, resolver=where.resolver
    )


def ask_another(directory: str, before: MachineRecord, now: MachineRecord) -> None:
    """A machine that runs has come to other networks: its resolv.conf names a server that it
    reaches, unless it was changed meanwhile. What is mounted is the file: it is written in place.
    """
    if address_of(before).resolver == address_of(now).resolver:
        return
    try:
        fd = os.open(f"{directory}/resolv", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        text = os.read(fd, 1 << 16).decode("utf-8", "surrogateescape")
        changed = with_another(text, before, now)
        if changed != text:
            data = changed.encode("utf-8", "surrogateescape")
            os.pwrite(fd, data, 0)
            os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def with_another(text: str, before: MachineRecord, now: MachineRecord) -> str:
    """What a resolv.conf becomes then."""
    old, new = address_of(before).resolver, address_of(now).resolver
    if old and new:
        return text.replace(f"nameserver {old}\n", f"nameserver {new}\n")
    if text == _resolv(before.spec, address_of(before)):
        return _resolv(now.spec, address_of(now))
    return text


def read_host(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(1 << 20)
    except OSError:
        return ""


def is_default(spec: MachineSpec) -> bool:
    """Whether the files of a slot serve this machine as they are."""
    asked = spec.hostname or spec.domainname or spec.extra_hosts or spec.dns
    asked = asked or spec.dns_search or spec.dns_options or spec.uts
    return not asked and spec.network == "none"


@cache
def _default_texts() -> tuple[str, str]:
    """hosts with a mark where the name goes, and resolv.conf."""
    return render_hosts("@"), resolv_alone()


def write_default(directory: int, hostname: str) -> dict[str, int]:
    hosts, resolv = _default_texts()
    return _write(
        directory,
        (
            ("hosts", hosts.replace("@", hostname)),
            ("hostname", f"{hostname}\n"),
            ("resolv", resolv),
        ),
    )


def write_generated(
    directory: int, spec: MachineSpec, hostname: str, where: Where
) -> dict[str, int]:
    """Name to fd; the files are written anew at every start, as Docker does."""
    return _write(directory, texts(spec, hostname, where))


def _write(directory: int, texts: tuple[tuple[str, str], ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    try:
        for name, text in texts:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = found[name] = os.open(name, flags, 0o644, dir_fd=directory)
            write_all(fd, text.encode("utf-8", "surrogateescape"))
    except BaseException:
        for fd in found.values():
            os.close(fd)
        raise
    return found
