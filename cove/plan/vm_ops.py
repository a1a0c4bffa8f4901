"""The ops of virtual machines: those of the jail around an emulator, and those of a guest, which
change the whole system they run in and which only its agent may be asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from cove.plan.ops import Op, row


@row("pass", "m", "f*")
@dataclass(frozen=True, slots=True)
class Pass(Op):
    """dup2(2) these to 3, 4, ... of the next program that is spawned"""

    registers: tuple[str, ...]


@row("spawn", "m", "fs*")
@dataclass(frozen=True, slots=True)
class Spawn(Op):
    """fork(2), execve(2): a program beside the machine's own, which ends with it; where its
    messages go, and its words
    """

    messages: str
    argv: tuple[str, ...]


@row("guest", "m", "ffffffu")
@dataclass(frozen=True, slots=True)
class Guest(Op):
    """carry the streams of the machine's program in the guest, and end as it does: serial port,
    listener, plan, console, its log, end record, flags
    """

    serial: str
    listener: str
    plan: str
    console: str
    log: str
    end: str
    flags: int


@row("guest_exec", "m", "ffu")
@dataclass(frozen=True, slots=True)
class GuestExec(Op):
    """the same for one more process, by the hub's socket: socket, plan, flags"""

    hub: str
    plan: str
    flags: int


@row("disk", "g", "ss")
@dataclass(frozen=True, slots=True)
class Disk(Op):
    """symlinkat(2) a name to the block device with this serial number, once it is there"""

    serial: str
    path: str


@row("unused", "g", "s")
@dataclass(frozen=True, slots=True)
class Unused(Op):
    """open(2) O_EXCL of a block device, once nobody has it mounted any more"""

    path: str


@row("write", "g", "ss")
@dataclass(frozen=True, slots=True)
class Write(Op):
    """write(2) a value to a file of the kernel's"""

    path: str
    value: str


@row("file", "b", "fsosuu")
@dataclass(frozen=True, slots=True)
class File(Op):
    """openat2(2), write(2) a new file below a root: path, mode, content, uid, gid"""

    dirfd: str
    path: str
    mode: int
    content: str
    uid: int
    gid: int


@row("listen", "g", "usouu")
@dataclass(frozen=True, slots=True)
class Listen(Op):
    """bind(2), listen(2): a unix socket whose visitors the host takes: number, path, mode, uid,
    gid
    """

    number: int
    path: str
    mode: int
    uid: int
    gid: int


@row("card", "g", "fxsxsss")
@dataclass(frozen=True, slots=True)
class Card(Op):
    """rtnetlink(7), ioctl(2): the machine has this card: whose namespace (-: the plan's own
    child's), the card's address; name, hardware address, address, mask, gateway or nothing
    """

    target: str
    card: bytes
    name: str
    mac: bytes
    address: str
    mask: str
    gateway: str


@row("card_six", "g", "fssu")
@dataclass(frozen=True, slots=True)
class CardSix(Op):
    """rtnetlink(7) RTM_NEWADDR: the machine's card has this IPv6 address at once and believes no
    router: whose namespace, name, address, bits
    """

    target: str
    name: str
    address: str
    bits: int


@row("card_back", "g", "fxs")
@dataclass(frozen=True, slots=True)
class CardBack(Op):
    """rtnetlink(7): the machine has the card of this name no more: whose namespace, the card's
    address, name
    """

    target: str
    card: bytes
    name: str


@row("card_route", "g", "fss")
@dataclass(frozen=True, slots=True)
class CardRoute(Op):
    """ioctl(2) SIOCADDRT: the machine's way out: whose namespace, name, gateway"""

    target: str
    name: str
    gateway: str


@row("settime", "g", "uu")
@dataclass(frozen=True, slots=True)
class Settime(Op):
    """clock_settime(2): seconds nanoseconds"""

    seconds: int
    nanoseconds: int


@row("reseed", "g", "x")
@dataclass(frozen=True, slots=True)
class Reseed(Op):
    """ioctl(2) RNDADDENTROPY, RNDRESEEDCRNG: nobody else's random numbers"""

    seed: bytes
