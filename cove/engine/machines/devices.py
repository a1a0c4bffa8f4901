"""The devices of the host that a machine is given."""

from __future__ import annotations

import os
import stat

from cove.errors import NoSuchDevice, UsageError
from cove.linux.probe import DeviceNode, host_devices
from cove.spec.machine import Device, MachineSpec


def devices_of(spec: MachineSpec) -> tuple[DeviceNode, ...]:
    """Those that were asked for, in the spec's order, and with ``--privileged`` all others."""
    asked = tuple(_device(device) for device in spec.devices)
    return (*asked, *host_devices()) if spec.security.privileged else asked


def _device(device: Device) -> DeviceNode:
    """A device of the host by its numbers, followed to the node itself as Docker does."""
    try:
        status = os.stat(device.source)
    except OSError as error:
        path, reason = device.source, (error.strerror or "").lower()
        absent = NoSuchDevice(
            f"cannot give device {path}: {reason}", origin=device.origin, exit_code=125
        )
        absent.path, absent.reason = path, reason
        raise absent from error
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise UsageError(
            f"cannot give device {device.source}: it is not a device", origin=device.origin
        )
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b"
    number = status.st_rdev
    mode = stat.S_IMODE(status.st_mode)
    return DeviceNode(device.target, kind, os.major(number), os.minor(number), mode)
