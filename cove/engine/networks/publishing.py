"""Ports of a machine that is there already are published, or no more: at once if it runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from cove.engine.calls.ports import PortChange, Ports
from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.machines import life, stopping
from cove.engine.networks import ports
from cove.errors import Conflict, CoveError, NotFound
from cove.spec.machine import MachineSpec
from cove.spec.network import machine_of
from cove.spec.ports import Publish, publishes
from cove.store.records import MachineRecord, Published


def change(home: Home, record: MachineRecord, params: PortChange) -> Ports:
    """Add or remove ports, at once if the machine runs."""
    if record.spec.network == "host":
        raise Conflict(
            f"cannot publish ports of {record.name}: it is on the host's own network, and its "
            "servers are the host's"
        )
    if machine_of(record.spec.network):
        raise Conflict(
            f"cannot publish ports of {record.name}: it shares the network of another machine",
            hint="publish that one's",
        )
    life.wait_begun(home, record)
    live = stopping.running(home, record)
    asked = [port for text in params.ports for port in publishes(text)]
    act = _remove if params.remove else _add
    if live is None:
        with home.lock:
            record = act(home, home.record(record.key), None, asked)
    else:
        with live.served.lock:
            record = act(home, home.record(record.key), live, asked)
            ports.serve(home, live)
    return Ports(record.published)


def _add(
    home: Home, record: MachineRecord, live: Live | None, asked: list[Publish]
) -> MachineRecord:
    for publish in asked:
        if publish in record.spec.ports:
            raise Conflict(f"cannot publish {publish} of {record.name}: it is published already")
    spec = msgspec.structs.replace(record.spec, ports=(*record.spec.ports, *asked))
    if live is None:
        if spec.network == "none":
            raise Conflict(
                f"cannot publish ports of {record.name}: it is on no network",
                hint=f"cove network connect bridge {record.name}",
            )
        return home.update(record.key, spec=spec)
    opened = ports.open_some(home, record, record.endpoints, live, asked)
    try:
        return _write(home, record, spec, (*record.published, *opened))
    except BaseException:
        live.served.close_sockets()
        raise


def _remove(
    home: Home, record: MachineRecord, live: Live | None, asked: list[Publish]
) -> MachineRecord:
    spec, published = record.spec, record.published
    for given in asked:
        gone = [port for port in published if _is_meant(given, port)]
        kept = tuple(wish for wish in spec.ports if not _covers(given, wish, gone))
        if not gone and kept == spec.ports:
            raise NotFound(
                f"cannot take the port {given} from {record.name}: it is not published",
                hint=f"cove port {record.name}",
                exit_code=1,
            )
        published = tuple(port for port in published if port not in gone)
        spec = msgspec.structs.replace(spec, ports=kept)
    changed = _write(home, record, spec, published)
    with suppress(CoveError):
        ports.forbid(home, (port for port in record.published if port not in published))
    return changed


def _write(
    home: Home, record: MachineRecord, spec: MachineSpec, published: tuple[Published, ...]
) -> MachineRecord:
    with home.lock:
        now = home.record(record.key).spec
        spec = msgspec.structs.replace(now, ports=spec.ports)
        return home.update(record.key, spec=spec, published=published)


def _is_meant(given: Publish, port: Published) -> bool:
    return (
        (given.port, given.protocol) == (port.port, port.protocol)
        and given.ip in ("", port.ip)
        and (not given.first or given.first <= port.host <= given.last)
    )


def _covers(given: Publish, wish: Publish, gone: Sequence[Published]) -> bool:
    """Whether a wish is what is taken back: by its words, or by what became of it."""
    if (given.port, given.protocol) != (wish.port, wish.protocol):
        return False
    if given.ip and wish.ip and given.ip != wish.ip:
        return False
    if not given.first or (wish.first, wish.last) == (given.first, given.last):
        return True
    return any(not wish.first or wish.first <= port.host <= wish.last for port in gone)
