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
    body = struct.pack("!HHHH", 4000, port, 8 + len(text), 0) + text
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 7, 0, 64, 17, 0,
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
        ethernet(victim_mac, mac, four, udp(own, victim, 4000, b"HONEST")),
    ]
