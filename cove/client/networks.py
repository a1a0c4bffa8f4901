"""The Python API: networks. ``client/aio_networks.py`` is this file for asyncio, written by
``tools/aio.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cove.client.steps import Steps, finish
from cove.client.talk import Daemon
from cove.engine.calls import networks as calls
from cove.spec import network as spec

if TYPE_CHECKING:
    from cove.client.sync import Machine


def named(machine: str | Machine) -> str:
    return machine if isinstance(machine, str) else machine.id


def each(words: str | Sequence[str]) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else tuple(words)


def _looked_at(daemon: Daemon, network: str) -> Steps[calls.Network]:
    found: calls.Network = yield from daemon.call("network.inspect", calls.NetworkInspect(network))
    return found


class Networks:
    """Networks of a daemon; ``cove.networks`` are those of the default one."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def create(
        self,
        name: str,
        *,
        subnet: str | Sequence[str] = (),
        gateway: str | Sequence[str] = (),
        ip_range: str | Sequence[str] = (),
        ipv6: bool = False,
        internal: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> calls.Network:
        """As ``cove network create``. ``subnet``, ``gateway``, ``ip_range``: one, or one of each
        family. Conflict: there is one of that name, or the subnet is another's. UsageError: a word
        is wrong."""
        subnets = spec.of_families("subnet", each(subnet))
        gateways = spec.of_families("gateway", each(gateway))
        ranges = spec.of_families("ip-range", each(ip_range))
        asked = spec.NetworkSpec(
            name=name, subnet=subnets[0], gateway=gateways[0], range=ranges[0], ipv6=ipv6,
            subnet6=subnets[1], gateway6=gateways[1], range6=ranges[1], internal=internal,
            labels=dict(labels or {}),
        )  # fmt: skip
        spec.check_network(asked)
        made: calls.NetworkNamed = finish(
            self._daemon.call("network.create", calls.NetworkCreate(asked))
        )
        return finish(_looked_at(self._daemon, made.id))

    def list(self) -> tuple[calls.Network, ...]:
        """The built-in ones first, then oldest first."""
        found: calls.NetworksListed = finish(self._daemon.call("network.list", calls.NetworkList()))
        return found.networks

    def get(self, network: str) -> calls.Network:
        """By name, id, or the beginning of an id. NotFound: there is none."""
        return finish(_looked_at(self._daemon, network))

    def connect(
        self,
        network: str,
        machine: str | Machine,
        *,
        ip: str = "",
        ip6: str = "",
        mac: str = "",
        aliases: Sequence[str] = (),
        forwarding: bool = False,
    ) -> None:
        """Put a machine on one more network, at once if it runs. ``forwarding``: it is a router
        there. Conflict: it is on it, or somebody has the address."""
        params = calls.NetworkConnect(
            network, named(machine), ip, mac, tuple(aliases), ip6, forwarding
        )
        finish(self._daemon.call("network.connect", params))

    def disconnect(self, network: str, machine: str | Machine) -> None:
        """Take it off, at once if it runs."""
        params = calls.NetworkDisconnect(network, named(machine))
        finish(self._daemon.call("network.disconnect", params))

    def refused(self, machine: str | Machine) -> calls.Refusals:
        """What its network policy did not let it begin, the last first."""
        found: calls.Refusals = finish(
            self._daemon.call("network.refused", calls.NetworkRefused(named(machine)))
        )
        return found

    def remove(self, network: str) -> None:
        """Conflict: a machine is on it."""
        finish(self._daemon.call("network.remove", calls.NetworkRemove(network)))

    def prune(self) -> tuple[str, ...]:
        """Remove those that no machine is made for: their names."""
        found: calls.NetworksPruned = finish(
            self._daemon.call("network.prune", calls.NetworkPrune())
        )
        return found.names
