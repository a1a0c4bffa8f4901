"""The start of a virtual machine that goes on where another stood, or itself at another time: its
memory, devices and disk are a moment's. What no two guests may share is renewed before any of its
processes runs. It never boots instead: that would be another machine than was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cove.engine import files
from cove.engine.descriptors import Descriptors
from cove.engine.home import Base, Home
from cove.engine.live import Live
from cove.engine.vms import emulators, virtual
from cove.engine.vms.clones import hand_over
from cove.engine.vms.emulators import Where
from cove.engine.vms.ground import ground_of
from cove.engine.vms.virtual import Size
from cove.errors import HostError
from cove.executor.messages import Start
from cove.plan.ops import Plan
from cove.planner.virtual.guest import plan_resume
from cove.planner.virtual.jail import RUN_ADOPT
from cove.store.records import MachineRecord
from cove.vm import moments
from cove.vm.moments import Held


@contextmanager
def moment_of(home: Home, record: MachineRecord, live: Live) -> Iterator[Held | None]:
    """What its start goes on from; None: nothing."""
    if live.moment is not None:
        yield live.moment
        return
    if not record.resume:
        yield None
        return
    snapshot = home.store.find_snapshot(record.resume)
    held = moments.load(home.store.layout.snapshot(snapshot.id), _what(record))
    try:
        yield held
    finally:
        held.close()


def _what(record: MachineRecord) -> str:
    return f"start {record.name} where it is to go on"


def start_resumed(
    home: Home,
    record: MachineRecord,
    base: Base,
    live: Live,
    held: Held,
    ready: Descriptors,
    fds: Descriptors,
    size: Size | None,
    message: Callable[[Plan], Start],
) -> None:
    """As ``start_clone``; raises what keeps it from going on."""
    shape = held.shape
    assert shape is not None and live.group is not None
    ground = ground_of(home, shape.arch)
    moments.check_shape(shape, ground.accel, ground.emulator, _what(record))
    hostname = files.hostname_of(record.spec, record.id)
    texts = dict(files.texts(record.spec, hostname, files.address_of(record)))
    identity = virtual.identity_of(home, record, base)
    if any(place.index >= shape.cards for place in record.endpoints):
        raise HostError(
            f"cannot {_what(record)}: its guest has no card for {record.endpoints[-1].name}",
            hint="its networks are those that it had",
        )
    links = virtual.links_of(record) if shape.cards else None
    guest = plan_resume(record.spec, identity, texts, hostname=hostname, links=links)
    with Descriptors() as more:
        root = more.mine("root", home.disks.open(home, base))
        if moments.root_digest(root) != shape.root:
            raise HostError(f"cannot {_what(record)}: its image's disk was made anew since")
        scratch = more.mine("disk", virtual.open_scratch(home, record, ready["dir"]))
        where = Where(record.key, record.id_range, live.group, ready, live.cards)
        live.ctl = live.ctl or home.forker.fork()
        emulator = emulators.resumed(
            home,
            where,
            virtual.jail_of(record.spec),
            ground.facts,
            held,
            (root, scratch),
            live.ctl,
        )
        try:
            emulator.agent.begin_anew()
            emulator.agent.run(guest)
            hand_over(
                home, record, live, emulator, guest, None, ready, fds, size, message, how=RUN_ADOPT
            )
        finally:
            emulator.close()
