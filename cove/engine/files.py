"""The files cove generates for a machine: hosts, hostname, resolv.conf. They are mounted over the
image's own, so that what the machine wrote never shows them.
"""

from __future__ import annotations

import os
import socket
from functools import cache

from cove.planner.files import render_hostname, render_hosts, render_resolv
from cove.spec.machine import MachineSpec
from cove.store.records import MachineRecord

HOST_FILES = {"hosts": "/etc/hosts", "resolv": "/etc/resolv.conf"}
"""What a machine on the host's network sees of it, as with Docker."""

TARGETS = {"/etc/hosts": "hosts", "/etc/hostname": "hostname", "/etc/resolv.conf": "resolv"}
"""Where in the machine each register is mounted."""


def hostname_of(spec: MachineSpec, machine_id: str) -> str:
    if spec.hostname:
        return spec.hostname
    return socket.gethostname() if spec.network == "host" else machine_id[:12]


def address_of(record: MachineRecord) -> str:
    """What the machine's own name means to it."""
    first = record.endpoints[0].address if record.endpoints else "127.0.0.1"
    return first.partition("/")[0]


def texts(
    spec: MachineSpec, hostname: str, address: str = "127.0.0.1"
) -> tuple[tuple[str, str], ...]:
    """Register and content of each."""
    hosts = render_hosts(hostname, spec.extra_hosts, domainname=spec.domainname, address=address)
    resolv = render_resolv(spec.dns)
    if spec.network == "host":
        extra = render_hosts("", spec.extra_hosts).split("\n", 6)[-1]
        hosts = read_host(HOST_FILES["hosts"]) + extra
        resolv = resolv if spec.dns else read_host(HOST_FILES["resolv"])
    return ("hosts", hosts), ("hostname", render_hostname(hostname)), ("resolv", resolv)


def read_host(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(1 << 20)
    except OSError:
        return ""


def is_default(spec: MachineSpec) -> bool:
    """Whether the files of a slot serve this machine as they are."""
    asked = spec.hostname or spec.domainname or spec.extra_hosts or spec.dns
    return not asked and spec.network == "none"


@cache
def _default_texts() -> tuple[str, str]:
    """hosts with a mark where the name goes, and resolv.conf."""
    return render_hosts("@"), render_resolv(())


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
    directory: int, spec: MachineSpec, hostname: str, address: str
) -> dict[str, int]:
    """Name to fd; the files are written anew at every start, as Docker does."""
    return _write(directory, texts(spec, hostname, address))


def _write(directory: int, texts: tuple[tuple[str, str], ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    try:
        for name, text in texts:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = found[name] = os.open(name, flags, 0o644, dir_fd=directory)
            os.write(fd, text.encode("utf-8", "surrogateescape"))
    except BaseException:
        for fd in found.values():
            os.close(fd)
        raise
    return found
