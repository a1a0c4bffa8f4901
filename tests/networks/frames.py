"""Frames as a hostile root forges them, for ``probe frames``, which sends them as they are."""

from __future__ import annotations

import socket
import struct

OTHER_MAC = "02:de:ad:be:ef:01"


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ethernet(target: str, sender: str, kind: int, body: bytes) -> str:
    return (_mac(target) + _mac(sender) + struct.pack("!H", kind) + body).hex()


def udp(sender: str, target: str, port: int, text: bytes) -> bytes:
    """An IPv4 packet; port 4000 to ``port``."""
    return _packet(sender, target, 17, struct.pack("!HHHH", 4000, port, 8 + len(text), 0) + text)


def _packet(sender: str, target: str, kind: int, body: bytes) -> bytes:
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 7, 0, 64, kind, 0,
        socket.inet_aton(sender), socket.inet_aton(target),
    )  # fmt: skip
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack("!H", total) + head[12:] + body


def arp(sender_mac: str, sender: str, target_mac: str, target: str) -> bytes:
    """An answer."""
    return struct.pack(
        "!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 2, _mac(sender_mac), socket.inet_aton(sender),
        _mac(target_mac), socket.inet_aton(target),
    )  # fmt: skip


def forged(mac: str, own: str, gateway: str, victim_mac: str, victim: str) -> list[str]:
    """From a machine with these addresses; an honest one is last."""
    four, six = 0x800, 0x86DD
    vlan = struct.pack("!HH", 5, four) + udp("203.0.113.9", victim, 4000, b"SPOOF vlan")
    tagged = struct.pack("!HH", 5, four) + udp(own, victim, 4000, b"SPOOF tagged")
    return [
        ethernet(victim_mac, mac, four, udp("203.0.113.9", victim, 4000, b"SPOOF address")),
        ethernet(victim_mac, mac, four, udp(gateway, victim, 4000, b"SPOOF gateway")),
        ethernet(victim_mac, OTHER_MAC, four, udp(own, victim, 4000, b"SPOOF mac")),
        ethernet(victim_mac, mac, 0x806, arp(mac, gateway, victim_mac, victim)),
        ethernet(victim_mac, mac, 0x806, arp(OTHER_MAC, own, victim_mac, victim)),
        ethernet(victim_mac, OTHER_MAC, 0x806, arp(mac, own, victim_mac, victim)),
        ethernet(victim_mac, mac, six, b"\x60" + bytes(5) + b"\x3a\xff" + bytes(32) + b"SPOOF six"),
        ethernet(victim_mac, mac, 0x88CC, b"SPOOF lldp"),
        ethernet(victim_mac, mac, 0x8100, vlan),
        ethernet(victim_mac, mac, 0x8100, tagged),
        ethernet(victim_mac, mac, four, udp(own, victim, 4000, b"HONEST")),
    ]


# ---- what a card is to finish, for ``probe giants`` ----


def unfinished(frame: str) -> str:
    """A frame of UDP in IPv4 whose checksum the card is to make."""
    return struct.pack("<BBHHHH", 1, 0, 0, 0, 34, 6).hex() + frame


def giant(target: str, mac: str, sender: str, victim: str, text: bytes) -> str:
    """A frame of TCP in IPv4, larger than any wire takes, that the card is to cut in pieces."""
    data = text + bytes(4000 - len(text))
    body = struct.pack("!HHIIBBHHH", 4000, 4001, 7, 7, 0x50, 0x10, 1024, 0, 0) + data
    beside = struct.pack("<BBHHHH", 1, 1, 54, 1400, 34, 16)
    return beside.hex() + ethernet(target, mac, 0x800, _packet(sender, victim, 6, body))


# ---- IPv6 ----


def _six(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, text)


def packet6(sender: str, target: str, kind: int, body: bytes, *, hops: int = 255) -> bytes:
    """With a good checksum, of ICMPv6 and UDP."""
    at = {58: 2, 17: 6}[kind]
    pseudo = _six(sender) + _six(target) + struct.pack("!II", len(body), kind)
    data = pseudo + body[:at] + b"\0\0" + body[at + 2 :]
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:at] + struct.pack("!H", ~total & 0xFFFF or 0xFFFF) + body[at + 2 :]
    head = struct.pack("!IHBB", 6 << 28, len(body), kind, hops)
    return head + _six(sender) + _six(target) + body


def udp6(sender: str, target: str, text: bytes, *, ports: tuple[int, int] = (4000, 4000)) -> bytes:
    body = struct.pack("!HHHH", *ports, 8 + len(text), 0) + text
    return packet6(sender, target, 17, body, hops=64)


def neighbour(
    kind: int, sender: str, target: str, about: str, mac: str, *, first: bytes = b""
) -> bytes:
    """A solicitation (135) or advertisement (136) of this address and MAC address."""
    option = struct.pack("!BB", kind - 134, 1) + _mac(mac)
    flags = 0x60000000 if kind == 136 else 0
    body = struct.pack("!BBHI", kind, 0, 0, flags) + _six(about) + first + option
    return packet6(sender, target, 58, body)


def icmp6(kind: int, sender: str, target: str) -> bytes:
    return packet6(sender, target, 58, struct.pack("!BBHI", kind, 0, 0, 0) + bytes(40))


def fragment6(sender: str, target: str, kind: int, body: bytes) -> bytes:
    """The first of several."""
    head = struct.pack("!IHBB", 6 << 28, 8 + len(body), 44, 64) + _six(sender) + _six(target)
    return head + struct.pack("!BBHI", kind, 0, 1, 7) + body


def forged6(
    mac: str, own: str, local: str, gateway: str, victim_mac: str, victim: str
) -> list[str]:
    """As ``forged``. A frame for all neighbours goes to the victim's address, too."""
    everybody, nonce = "ff02::1", b"\x0e\x01" + bytes(6)
    at_options = struct.pack("!BBBB", 58, 0, 1, 4) + bytes(4)
    hidden = neighbour(136, own, victim, gateway, mac)
    hidden = hidden[:4] + struct.pack("!HB", 32 + 8, 60) + hidden[7:40] + at_options + hidden[40:]
    packets = [
        udp6("2001:db8::9", victim, b"SPOOF address"),
        udp6(gateway, victim, b"SPOOF gateway"),
        udp6("fe80::9", victim, b"SPOOF local"),
        udp6("::", victim, b"SPOOF nobody"),
        neighbour(136, own, victim, gateway, mac),
        neighbour(136, local, victim, gateway, mac),
        neighbour(136, own, victim, own, OTHER_MAC),
        neighbour(136, own, victim, own, mac, first=nonce),
        hidden,
        neighbour(135, own, victim, victim, OTHER_MAC),
        neighbour(135, "::", "ff02::1:ff00:1", gateway, mac),
        fragment6(own, victim, 58, b""),
        fragment6(own, victim, 60, struct.pack("!BBBB", 58, 0, 1, 4) + bytes(4)),
        fragment6(own, victim, 6, bytes(4)),
        icmp6(133, local, "ff02::2"),
        icmp6(134, local, everybody),
        icmp6(134, own, victim),
        icmp6(137, local, victim),
        icmp6(130, local, everybody),
        udp6(local, victim, b"SPOOF dhcp", ports=(547, 546)),
        b"\x60" + bytes(5) + b"\x3a\xff" + _six(own) + _six(victim) + b"SPOOF short",
    ]
    other = ethernet(victim_mac, OTHER_MAC, 0x86DD, udp6(own, victim, b"SPOOF mac"))
    frames = [other, *(ethernet(victim_mac, mac, 0x86DD, packet) for packet in packets)]
    return [*frames, ethernet(victim_mac, mac, 0x86DD, udp6(own, victim, b"HONEST"))]


SNIFF6 = """
import socket, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
raw.bind(("eth0", 3))
print("ready", flush=True)
own = [socket.inet_pton(socket.AF_INET6, word) for word in sys.argv[2:]]
NAMES = {130: "query", 133: "solicit", 134: "router", 137: "redirect"}
while True:
    data, (_, _, kind, _, sender) = raw.recvfrom(2000)
    if kind == socket.PACKET_OUTGOING or data[12:14] != b"\\x86\\xdd":
        continue
    if b"SPOOF" in data:
        print(data[data.index(b"SPOOF"):].decode("latin-1"), flush=True)
    elif b"HONEST" in data:
        break
    elif data[20] == 60:
        print("SPOOF hidden", flush=True)
    elif data[20] == 44:
        print("SPOOF fragment", flush=True)
    elif data[20] == 58 and data[54] in NAMES:
        print("SPOOF", NAMES[data[54]], flush=True)
    elif data[20] == 58 and data[54] == 135 and data[22:38] == bytes(16):
        print("SPOOF taken", flush=True)
    elif data[6:12] != bytes.fromhex(sys.argv[1].replace(":", "")):
        continue  # the host's own questions and answers
    elif data[20] == 58 and data[54] == 136:
        if data[62:78] not in own or data[80:86] != data[6:12] or len(data) > 86:
            print("SPOOF neighbour", flush=True)
    elif data[20] == 58 and data[54] == 135 and data[80:86] != data[6:12]:
        print("SPOOF question", flush=True)
"""
"""For the victim: what of the forgeries arrives; words are the attacker's MAC address and
its own addresses."""
