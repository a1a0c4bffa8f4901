"""The network of a machine that names none: ``bridge``, as Docker has it, unless the daemon's
environment says otherwise. What is decided is in the machine's record: it stays so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from cove.engine.home import Home
from cove.engine.networks import joining, linking
from cove.errors import CoveError, HostError, NotFound, UsageError
from cove.spec.check import check_networks
from cove.spec.machine import MachineSpec
from cove.spec.network import ASKED_FOR, DEFAULT_NETWORK, parse_default

SETTING = "COVE_DEFAULT_NETWORK"
ORIGIN = f"{SETTING} in the daemon's environment"


def default_network() -> str:
    try:
        return parse_default(os.environ.get(SETTING, ""))
    except UsageError as error:
        error.origin = ORIGIN
        raise


def decided(home: Home, spec: MachineSpec) -> MachineSpec:
    """With the network that it is to be on, judged by that."""
    spec = linking.resolved(home, spec)
    if spec.network != ASKED_FOR:
        return joining.resolved(home, spec)
    name = default_network()
    if name not in (DEFAULT_NETWORK, "none"):
        try:
            home.store.find_network(name)
        except NotFound as error:
            raise NotFound(
                f'cannot join the network "{name}": no such network',
                origin=ORIGIN,
                hint=f"cove network create {name}, or name another: --network bridge",
                exit_code=125,
            ) from error
    spec = msgspec.structs.replace(spec, network=name)
    try:
        check_networks(spec)
    except CoveError as error:
        error.host = error.host or f"{SETTING} is {name}"
        raise
    return spec


@contextmanager
def hint_of_none() -> Iterator[None]:
    """Where a host has no networks, a machine can still be had: who hears of the one hears of the
    other.
    """
    try:
        yield
    except HostError as error:
        if "--network none" not in error.hint:
            other = "without a network: --network none"
            error.hint = f"{error.hint}; {other}" if error.hint else other
        raise
