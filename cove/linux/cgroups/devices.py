"""Limits of block devices: which numbers a device has, and what v1 and v2 call them."""

from __future__ import annotations

import contextlib
import os
import stat

from cove.errors import NotFound, Unsupported, UsageError
from cove.linux.cgroups.files import read_lines, set_limit, write
from cove.spec.machine import DeviceRate, Limits
from cove.spec.rates import flag_of

V1 = {
    "read-bps": "blkio.throttle.read_bps_device",
    "write-bps": "blkio.throttle.write_bps_device",
    "read-iops": "blkio.throttle.read_iops_device",
    "write-iops": "blkio.throttle.write_iops_device",
}
V2 = {"read-bps": "rbps", "write-bps": "wbps", "read-iops": "riops", "write-iops": "wiops"}
V1_WEIGHTS = ("blkio.bfq.weight", "blkio.weight")
V2_WEIGHTS = ("io.bfq.weight", "io.weight")
"""Which there is hangs on how the host schedules its disks."""


def numbers_of(rate: DeviceRate) -> str:
    """``8:0``. The path is the host root's own, who alone writes in /dev."""
    try:
        status = os.stat(rate.path)
    except OSError as error:
        raise NotFound(
            f"cannot limit {rate.path}: {(error.strerror or '').lower()}",
            origin=flag_of(rate),
            exit_code=125,
        ) from error
    if not stat.S_ISBLK(status.st_mode):
        raise UsageError(
            f"cannot limit {rate.path}: it is not a block device", origin=flag_of(rate)
        )
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def limit_v1(base: str, limits: Limits) -> None:
    if limits.blkio_weight:
        _weigh(base, V1_WEIGHTS, limits.blkio_weight)
    for rate in limits.rates:
        value = f"{numbers_of(rate)} {rate.rate}"
        what = f"limit {rate.path}"
        set_limit(f"{base}/{V1[rate.kind]}", value, what=what, flag=flag_of(rate))


def limit_v2(base: str, limits: Limits) -> None:
    if limits.blkio_weight:
        _weigh(base, V2_WEIGHTS, limits.blkio_weight)
    for rate in limits.rates:
        value = f"{numbers_of(rate)} {V2[rate.kind]}={rate.rate}"
        set_limit(f"{base}/io.max", value, what=f"limit {rate.path}", flag=flag_of(rate))


def files_of(base: str) -> list[str]:
    """Those of a group, of whatever version, that hold a weight or rates."""
    names = (*V1.values(), "io.max", *V1_WEIGHTS, *V2_WEIGHTS)
    return [path for name in names if os.path.exists(path := f"{base}/{name}")]


def put_back(path: str, before: list[str]) -> None:
    """Have a file of weights or rates say again what it said: the kernel takes a line a write."""
    for line in lines_back(os.path.basename(path), before, read_lines(path)):
        with contextlib.suppress(OSError):
            write(path, line)


def lines_back(name: str, before: list[str], now: list[str]) -> list[str]:
    """What has to be written. A device that had no rate has no line, and is freed by its number."""
    had = {line.split()[0] for line in before}
    new = [line.split()[0] for line in now if line.split()[0] not in had]
    none = " ".join(f"{key}=max" for key in V2.values()) if name == "io.max" else "0"
    return [line for line in before if line not in now] + (
        [f"{numbers} {none}" for numbers in new] if name in (*V1.values(), "io.max") else []
    )


def _weigh(base: str, names: tuple[str, ...], weight: int) -> None:
    flag = f"--blkio-weight {weight}"
    name = next((name for name in names if os.path.exists(f"{base}/{name}")), "")
    if not name:
        raise Unsupported(
            "cannot weigh machines at block devices: this kernel's disks have no weights",
            origin=flag,
            host=f"no {' and no '.join(names)}",
        )
    if name == "io.weight":  # 1 to 10000, as every runtime converts it
        weight = 1 + (weight - 10) * 9999 // 990
    set_limit(f"{base}/{name}", str(weight), what="weigh it at block devices", flag=flag)
