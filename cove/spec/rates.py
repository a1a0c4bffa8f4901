"""How fast a machine may use block devices of the host. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from cove.errors import CoveError, UsageError
from cove.spec import values
from cove.spec.machine import DeviceRate, Limits

Kind = Literal["read-bps", "write-bps", "read-iops", "write-iops"]
WEIGHT_LEAST, WEIGHT_MOST = 10, 1000
MOST = 1 << 63


def _parsed(kind: Kind, text: str) -> DeviceRate:
    """``/dev/sda:1mb``, ``/dev/sda:1000``."""
    path, colon, rate = text.rpartition(":")
    if not colon or not path.startswith("/dev/"):
        raise values.bad("rate", text, "not DEVICE:RATE", hint="write /dev/sda:1mb")
    if kind.endswith("bps"):
        number = values.parse_size(rate)
    elif re.fullmatch(r"[0-9]{1,18}", rate):
        number = int(rate)
    else:
        raise values.bad("rate", text, f'"{rate}" is no number of operations')
    if not 0 < number < MOST:
        raise values.bad("rate", text, "it is not above 0", hint="leave it out for no limit")
    return DeviceRate(values.clean_path(path), kind, number)


def read_bps(text: str) -> DeviceRate:
    return _parsed("read-bps", text)


def write_bps(text: str) -> DeviceRate:
    return _parsed("write-bps", text)


def read_iops(text: str) -> DeviceRate:
    return _parsed("read-iops", text)


def write_iops(text: str) -> DeviceRate:
    return _parsed("write-iops", text)


def flag_of(rate: DeviceRate) -> str:
    return f"--device-{rate.kind} {rate.path}:{rate.rate}"


def check_rates(limits: Limits) -> Iterator[CoveError]:
    weight = limits.blkio_weight
    if weight and not WEIGHT_LEAST <= weight <= WEIGHT_MOST:
        yield UsageError(
            f"cannot use --blkio-weight {weight}: it is not between {WEIGHT_LEAST} and "
            f"{WEIGHT_MOST}",
            origin=f"--blkio-weight {weight}",
        )
    for rate in limits.rates:
        if not rate.path.startswith("/dev/") or ".." in rate.path or not 0 < rate.rate < MOST:
            yield UsageError("cannot limit such a device", origin=flag_of(rate))
