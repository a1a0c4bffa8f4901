"""Taps: a link of the host whose other end is a descriptor. Packets there have a header beside them
(``vnet_hdr``): with it they may be larger than a wire's, with checksums that nobody has made yet.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from collections.abc import Iterable

DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_TUN_EXCL = 0x2, 0x1000, 0x4000, 0x8000
IFREQ = struct.Struct("16sH22x")


def has_taps() -> bool:
    """Whether this host has what makes them."""
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def open_tap(name: str) -> int:
    """A new link, down; it goes with the last copy of the descriptor."""
    fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL
        fcntl.ioctl(fd, TUNSETIFF, IFREQ.pack(name.encode(), flags))
    except BaseException:
        os.close(fd)
        raise
    return fd


def close_taps(fds: Iterable[int]) -> None:
    """At once: the kernel takes 15 ms for each that was the last, in which it only waits."""
    closing = [threading.Thread(target=os.close, args=(fd,)) for fd in fds]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join()
