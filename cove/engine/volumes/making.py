"""Volumes made and taken away: the record says what is under way, before it is.

Whatever a killed daemon leaves is in the record: a directory to be made, one to be removed, or a
volume that was made for a machine which never was.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress

import msgspec

from cove.engine.home import Home
from cove.engine.volumes.users import publish, users_of
from cove.errors import Conflict
from cove.spec.machine import MachineSpec
from cove.spec.volume import VolumeSpec, check_volume, is_plain
from cove.store.lock import translated
from cove.store.records import VolumeRecord


def make(home: Home, spec: VolumeSpec, *, loose: bool = False, ready: str = "") -> VolumeRecord:
    """A new volume, or the one that has this name already. ``loose``: for a machine to come.
    ``ready``: a directory that becomes the new one, with ``_data`` in it.
    """
    check_volume(spec)
    with home.lock:
        held = home.store.volume(spec.name) if spec.name else None
        if held is not None:
            _check_same(spec, held)
            if ready:
                raise Conflict(f"cannot make volume {spec.name}: it was made just now")
            return held
        record = VolumeRecord(
            name=spec.name or secrets.token_hex(32),
            created=time.time(),
            labels=spec.labels,
            options=spec.options,
            anonymous=not spec.name,
            loose=loose and not spec.name,
            making=True,
        )
        home.store.put_volume(record)
        try:
            if ready:
                os.rename(ready, home.store.layout.volume(record.name))
            _make_directory(home, record.name, plain=is_plain(spec.options))
        except BaseException:
            _take_away(home, record)
            raise
        record = msgspec.structs.replace(record, making=False)
        home.store.put_volume(record)
    publish(home, "create", record.name)
    return record


def _check_same(spec: VolumeSpec, held: VolumeRecord) -> None:
    if held.removing:
        raise Conflict(f"cannot make volume {spec.name}: one of this name is being removed")
    if any(held.options.get(name) != value for name, value in spec.options.items()):
        raise Conflict(
            f"cannot make volume {spec.name}: there is one with other options",
            hint=f"cove volume rm {spec.name}, or choose another name",
        )


def _make_directory(home: Home, name: str, *, plain: bool) -> None:
    path = home.store.layout.volume(name)
    places = ((path, 0o700), (f"{path}/_data", 0o755))
    with translated(f"make volume {name}"):
        for place, mode in places[: 2 if plain else 1]:
            with suppress(FileExistsError):
                os.mkdir(place)
                os.chmod(place, mode)


def _take_away(home: Home, record: VolumeRecord) -> None:
    """Under ``home.lock``, and nobody has it."""
    home.store.put_volume(msgspec.structs.replace(record, removing=True))
    home.remover.remove(home.store.layout.volume(record.name))
    home.store.remove_volume(record.name)


def take_away(home: Home, name: str) -> VolumeRecord:
    """Unless a machine has it, which is named."""
    with home.lock:
        record = home.store.find_volume(name)
        users = users_of(home, name)
        if users:
            names = sorted(user.name for user in users)
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise Conflict(
                f"cannot remove volume {name}: {', '.join(names[:5])}{more} "
                f"{'has' if len(names) == 1 else 'have'} it",
                hint=f"cove rm {names[0]}",
            )
        _take_away(home, record)
    publish(home, "destroy", name)
    return record


def loosen(home: Home, spec: MachineSpec) -> tuple[str, ...]:
    """Before a machine's record goes: its anonymous volumes go with it, whoever finishes that."""
    names = []
    for mount in spec.mounts:
        record = home.store.volume(mount.source) if mount.anonymous else None
        if record is not None:
            home.store.put_volume(msgspec.structs.replace(record, loose=True))
            names.append(record.name)
    return tuple(names)


def drop_loose(home: Home, names: tuple[str, ...]) -> None:
    """Those of a machine whose record is gone, or never came; one that another has as well stays
    until that one goes.
    """
    for name in names:
        with suppress(Conflict):
            if home.store.volume(name) is not None:
                take_away(home, name)


def recover(home: Home) -> None:
    """What was under way is finished."""
    for record in home.store.volumes():
        used = bool(users_of(home, record.name))
        layout = home.store.layout
        path = layout.volume_data if is_plain(record.options) else layout.volume
        begun = record.making and not os.path.isdir(path(record.name))
        if record.removing or begun or (record.loose and not used):
            _take_away(home, record)
        elif record.making or record.loose:
            home.store.put_volume(msgspec.structs.replace(record, making=False, loose=False))
