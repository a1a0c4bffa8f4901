"""What a virtual machine of an image needs once, made ahead of the first."""

from __future__ import annotations

import msgspec

from cove.spec.machine import MachineSpec


class Prepare(msgspec.Struct, frozen=True):
    """For ``machine.run``: its spec, of which the image and the isolation count."""

    spec: MachineSpec
