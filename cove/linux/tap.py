"""Taps: a link of the host whose other end is a descriptor."""

from __future__ import annotations

import fcntl
import os
import struct

DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_TUN_EXCL = 0x2, 0x1000, 0x8000
IFREQ = struct.Struct("16sH22x")


def open_tap(name: str) -> int:
    """A new link, down; it goes with the last copy of the descriptor."""
    fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        wanted = IFREQ.pack(name.encode(), IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL)
        fcntl.ioctl(fd, TUNSETIFF, wanted)
    except BaseException:
        os.close(fd)
        raise
    return fd
