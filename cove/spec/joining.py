"""``--network container:NAME``: what is that machine's cannot be chosen anew. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from cove.errors import CoveError, Unsupported, UsageError
from cove.spec.machine import MachineSpec
from cove.spec.network import machine_of


def problems(spec: MachineSpec) -> Iterator[CoveError]:
    """As Docker refuses them."""
    typed = f"--network {spec.network}"
    if not machine_of(spec.network):
        yield UsageError(
            "cannot join the network of a machine: none is named", origin=typed,
            hint="--network container:NAME",
        )  # fmt: skip
    if spec.isolation == "vm":
        yield Unsupported(
            "cannot join the network of a machine with isolation vm: a guest's network is its own "
            "kernel's",
            origin=typed,
            hint="put both on one: --network bridge",
        )
    for flag, value, what in _chosen(spec):
        if value:
            yield UsageError(
                f"cannot use --{flag} with {typed}: {what} that machine's",
                origin=f"--{flag} {value}",
            )


def _chosen(spec: MachineSpec) -> Iterator[tuple[str, str, str]]:
    first = {
        "hostname": (spec.hostname,),
        "ip": (spec.ip,),
        "ip6": (spec.ip6,),
        "mac-address": (spec.mac,),
        "network-alias": spec.aliases,
        "publish": tuple(map(str, spec.ports)),
        "publish-all": ("true" if spec.publish_all else "",),
        "expose": spec.expose,
        "add-host": spec.extra_hosts,
        "dns": spec.dns,
        "dns-search": spec.dns_search,
        "dns-option": spec.dns_options,
        "sysctl": tuple(f"{n}={v}" for n, v in spec.sysctls if n.startswith("net.")),
    }
    what = {"hostname": "the name is", "publish": "ports are", "publish-all": "ports are",
            "expose": "ports are", "add-host": "/etc/hosts is",
            "sysctl": "the network is"}  # fmt: skip
    for flag, values in first.items():
        default = "/etc/resolv.conf is" if flag.startswith("dns") else "addresses are"
        yield flag, next(iter(values), ""), what.get(flag, default)
