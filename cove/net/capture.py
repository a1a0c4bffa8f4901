"""``python -m cove.net.capture COUNT SNAPLEN``: packets of links into a file in pcap's form, by a
process of its own, as nobody: 1 is the file or pipe, 3 the daemon's socket, 4 and up are packet
sockets that see a link each. It ends when the daemon's socket does or somebody writes there, and
says on it, in JSON, what came of it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import struct
import sys
import time

from cove.net.merging import WINDOW, Merge, Packet

OUT, DAEMON, FIRST = 1, 3, 4
NOBODY = 65534
MAGIC = 0xA1B23C4D
"""Times in nanoseconds, in this host's byte order."""
ETHERNET = 1
FILE = struct.Struct("=IHHiIII")
RECORD = struct.Struct("=IIII")

SOL_PACKET, PACKET_STATISTICS, PACKET_AUXDATA = 263, 6, 8
SO_TIMESTAMPNS = 35
AUXDATA = struct.Struct("=IIIHHHH")
VLAN_VALID, TPID_VALID, TPID = 1 << 4, 1 << 6, 0x8100
LONGEST = 1 << 18
BATCH = 256
PIPE_BUF = 4096
"""What a pipe takes without blocking once it polls writable."""

HOLD = WINDOW // 10**6 + 1
"""Milliseconds between two looks while packets are held."""


class Ended(Exception):
    """``args[0]``: why."""


def main() -> None:
    count, snaplen = int(sys.argv[1]), int(sys.argv[2])
    daemon = socket.socket(fileno=DAEMON)
    links = [socket.socket(fileno=fd) for fd in range(FIRST, FIRST + int(sys.argv[3]))]
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    capture = Capture(daemon, links, snaplen)
    said: dict[str, object] = {"ended": "", "error": 0}
    try:
        capture.run(count)
    except Ended as ended:
        said["ended"] = ended.args[0]
    except OSError as error:
        said["error"] = error.errno
    drops = sum(dropped(link) for link in links)
    daemon.sendall(json.dumps(said | {"packets": capture.written, "drops": drops}).encode())


class Capture:
    def __init__(self, daemon: socket.socket, links: list[socket.socket], snaplen: int) -> None:
        self.daemon, self.links, self.snaplen = daemon, links, snaplen
        self.written = 0
        self._file = stat.S_ISREG(os.fstat(OUT).st_mode)
        self._buffer = bytearray(LONGEST)

    def run(self, count: int) -> None:
        self._write(FILE.pack(MAGIC, 2, 4, 0, 0, self.snaplen, ETHERNET))
        poll = select.poll()
        for fd in (DAEMON, *(link.fileno() for link in self.links)):
            poll.register(fd, select.POLLIN)
        if not self._file:
            poll.register(OUT, 0)  # that nobody reads it any more
        merge = Merge(link.fileno() for link in self.links)
        while not count or self.written < count:
            if ended := self._watch(poll, merge):
                if ended == "asked":
                    self._put(merge.rest(), count)
                raise Ended(ended)
            gone = self._take(merge)
            self._put(merge.ready(time.monotonic_ns()), count)
            for fd in gone:
                poll.unregister(fd)
            self.links = [link for link in self.links if link.fileno() not in gone]
            if not self.links:
                self._put(merge.rest(), count)
                raise Ended("link")

    def _watch(self, poll: select.poll, merge: Merge) -> str:
        """Until there is something to read, or why it ends; a link of which enough is held is not
        asked.
        """
        for link in self.links:
            poll.modify(link, select.POLLIN if merge.wanted(link.fileno()) else 0)
        ready = dict(poll.poll(HOLD if merge.waits() else None))
        if DAEMON in ready:
            return "asked"
        return "reader" if OUT in ready else ""

    def _put(self, packets: list[Packet], count: int) -> None:
        for packet in packets[: count - self.written if count else None]:
            self._write(self._record(packet))
            self.written += 1

    def _take(self, merge: Merge) -> set[int]:
        """What there is; the sockets whose link is there no more. All are asked, also those that
        had nothing to tell: now it is known.
        """
        gone: set[int] = set()
        for link in self.links:
            number, now = link.fileno(), time.time_ns()
            if not merge.wanted(number):
                continue
            try:
                found, empty = self._drain(link)
            except OSError:  # ENETDOWN: told once
                gone.add(number)
                merge.end(number)
                continue
            merge.take(number, found, since=time.monotonic_ns())
            if empty:
                merge.drained(number, now)
        return gone

    def _drain(self, link: socket.socket) -> tuple[list[Packet], bool]:
        """Some, and whether that was all."""
        found: list[Packet] = []
        flags = socket.MSG_DONTWAIT | socket.MSG_TRUNC
        for _ in range(BATCH):
            try:
                size, told, _, _ = link.recvmsg_into([self._buffer], 256, flags)
            except BlockingIOError:
                return found, True
            except OSError:
                if found:
                    break  # it is told again
                raise
            found.append(self._packet(size, told))
        return found, False

    def _packet(self, size: int, told: list[tuple[int, int, bytes]]) -> Packet:
        """As it was on the wire: the kernel keeps a VLAN's tag elsewhere."""
        when, tag = 0, b""
        for level, kind, data in told:
            if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                seconds, rest = struct.unpack("=qq", data[:16])
                when = seconds * 10**9 + rest
            elif (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                status, *_, tci, tpid = AUXDATA.unpack(data[: AUXDATA.size])
                if status & VLAN_VALID:
                    tag = struct.pack("!HH", tpid if status & TPID_VALID else TPID, tci)
        data = bytes(self._buffer[: min(size, LONGEST)])
        if tag:
            data, size = data[:12] + tag + data[12:], size + len(tag)
        return when or time.time_ns(), size, data[: self.snaplen]

    def _record(self, packet: Packet) -> bytes:
        when, size, data = packet
        return RECORD.pack(*divmod(when, 10**9), len(data), size) + data

    def _write(self, data: bytes) -> None:
        """Whole, unless the daemon wants an end before a slow reader has taken it."""
        rest = memoryview(data)
        poll = select.poll()
        poll.register(OUT, select.POLLOUT)
        poll.register(DAEMON, select.POLLIN)
        while rest:
            if self._file:
                rest = rest[os.write(OUT, rest) :]
                continue
            ready = dict(poll.poll())
            if ready.get(OUT, 0) & (select.POLLERR | select.POLLHUP):
                raise Ended("reader")
            if ready.get(OUT, 0) & select.POLLOUT:
                rest = rest[os.write(OUT, rest[:PIPE_BUF]) :]
            elif DAEMON in ready:
                raise Ended("asked")


def dropped(link: socket.socket) -> int:
    """Packets that found no room, since the socket was made."""
    _, drops = struct.unpack("=II", link.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    return int(drops)


if __name__ == "__main__":
    main()
