"""Ports of EXPOSE: ``80``, ``80/udp``, ``8000-8010/tcp``, and forms to be warned of. Pure."""

from __future__ import annotations

import ipaddress

from cove.build.dockerfile.instructions import Expose
from cove.build.lint.warnings import Warnings
from cove.build.source import misfit
from cove.errors import UsageError
from cove.spec.suggest import did_you_mean

PROTOCOLS = ("tcp", "udp", "sctp")
PORT_MAX = 65535
PORTS_MAX = 4 * (PORT_MAX + 1)
"""Of one instruction."""


def exposed(words: tuple[str, ...], step: Expose, warnings: Warnings) -> tuple[str, ...]:
    """``80/tcp`` for every port of every word."""
    found: dict[str, None] = {}
    total = 0
    for word in sorted(words):
        front, _, protocol = word.partition("/")
        *above, port = front.split(":")
        if protocol != protocol.lower():
            warnings.add("ExposeProtoCasing", step.place, word, comments=step.comments)
        if above:
            warnings.add("ExposeInvalidFormat", step.place, word, comments=step.comments)
            _check_address(above, step, word)
        if protocol.lower() not in ("", *PROTOCOLS):
            hint = did_you_mean(protocol, PROTOCOLS) or f"it is {', '.join(PROTOCOLS)}"
            raise _bad(step, word, f'no protocol is called "{protocol}"', hint)
        first, last = _range(port, step, word)
        total += last + 1 - first
        if total > PORTS_MAX:
            raise _bad(step, word, f"these are more than {PORTS_MAX} ports")
        for number in range(first, last + 1):
            found[f"{number}/{protocol.lower() or 'tcp'}"] = None
    return tuple(found)


def _range(text: str, step: Expose, word: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    low = _port(first, step, word)
    high = _port(last, step, word) if dash else low
    if high < low:
        raise _bad(step, word, "the range runs backwards")
    return low, high


def _port(text: str, step: Expose, word: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or int(text) > PORT_MAX:
        raise _bad(step, word, f'"{text}" is no port', "write 80, 80/udp or 8000-8010")
    return int(text)


def _check_address(above: list[str], step: Expose, word: str) -> None:
    """``host:port`` and ``address:host:port``: taken, and of no effect."""
    *address, host = above
    text = ":".join(address).removeprefix("[").removesuffix("]")
    if text:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise _bad(step, word, f'"{text}" is no address') from None
    if host:
        _range(host, step, word)


def _bad(step: Expose, word: str, why: str, hint: str = "") -> UsageError:
    return misfit(step.place, f"cannot expose {word}: {why}", hint=hint)
