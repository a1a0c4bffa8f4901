"""The verbs of networks, and of the ports that machines publish."""

from __future__ import annotations

from cove.engine import calls
from cove.engine.calls.capture import Captured, NetworkCapture
from cove.engine.calls.networks import (
    Network,
    NetworkConnect,
    NetworkCreate,
    NetworkDisconnect,
    NetworkInspect,
    NetworkList,
    NetworkNamed,
    NetworkPrune,
    NetworkRefused,
    NetworkRemove,
    NetworksListed,
    NetworksPruned,
    Refusals,
)
from cove.engine.calls.ports import PortChange, Ports
from cove.engine.networks import capturing, networks, policies, publishing
from cove.engine.verbs.base import Verbs


class NetworkVerbs(Verbs):
    def network_create(self, params: NetworkCreate, call: calls.Call) -> NetworkNamed:
        made = networks.create(self.home, params.spec)
        return NetworkNamed(made.id, made.name)

    def network_list(self, params: NetworkList, call: calls.Call) -> NetworksListed:
        return NetworksListed(networks.listed(self.home))

    def network_inspect(self, params: NetworkInspect, call: calls.Call) -> Network:
        return networks.inspect(self.home, params.network)

    def network_remove(self, params: NetworkRemove, call: calls.Call) -> NetworkNamed:
        gone = networks.remove(self.home, params.network)
        return NetworkNamed(gone.id, gone.name)

    def network_prune(self, params: NetworkPrune, call: calls.Call) -> NetworksPruned:
        return networks.prune(self.home, params)

    def network_connect(self, params: NetworkConnect, call: calls.Call) -> NetworkNamed:
        return networks.connect(self.home, self._find(params.machine), params)

    def network_disconnect(self, params: NetworkDisconnect, call: calls.Call) -> NetworkNamed:
        return networks.disconnect(self.home, self._find(params.machine), params)

    def network_capture(self, params: NetworkCapture, call: calls.Call) -> Captured:
        return capturing.capture(self.home, params, call)

    def network_refused(self, params: NetworkRefused, call: calls.Call) -> Refusals:
        return policies.refused(self.home, self._find(params.machine))

    def change_ports(self, params: PortChange, call: calls.Call) -> Ports:
        return publishing.change(self.home, self._find(params.machine), params)
