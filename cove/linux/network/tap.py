"""Taps: a link of the host whose other end is a descriptor. Packets there have a header beside them
(``vnet_hdr``): with it they may be larger than a wire's, with checksums that nobody has made yet.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from collections.abc import Iterable

from cove.linux.syscalls import PIDFD_GETFD, syscall

DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_TUN_EXCL = 0x2, 0x1000, 0x4000, 0x8000
FLAGS = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL
TUNSETVNETHDRSZ = 0x400454D8
WITH_BUFFERS = 12
"""Bytes of that header, as an emulator has it whose guest takes packets in several buffers; Linux
does."""
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
        fcntl.ioctl(fd, TUNSETIFF, IFREQ.pack(name.encode(), FLAGS))
    except BaseException:
        os.close(fd)
        raise
    return fd


def attach_again(fd: int, name: str) -> None:
    """The link anew of a descriptor whose link was deleted: who has it reads and writes on. What
    its reader takes is not known here: it gets no large packets any more.
    """
    fcntl.ioctl(fd, TUNSETIFF, IFREQ.pack(name.encode(), FLAGS))
    fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", WITH_BUFFERS))


def tap_of(pid: int, index: int) -> int:
    """A copy of the descriptor by which a process has its tap of this number; -1: it has none."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
        held = sorted(int(n) for n in names if os.readlink(f"/proc/{pid}/fd/{n}") == DEVICE)
        if index >= len(held):
            return -1
        pidfd = os.pidfd_open(pid)
        try:
            return syscall(PIDFD_GETFD, pidfd, held[index], 0)
        finally:
            os.close(pidfd)
    except OSError:  # it has ended
        return -1


def close_taps(fds: Iterable[int]) -> None:
    """At once: the kernel takes 15 ms for each that was the last, in which it only waits."""
    closing = [threading.Thread(target=os.close, args=(fd,)) for fd in fds]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join()
