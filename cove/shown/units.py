"""Sizes and times for people, in Docker's words. Pure: the moment is an argument."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo

FIRST, LAST = -62_135_424_000.0, 253_402_128_000.0
"""A day within the years 1 and 9999."""

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def human_size(size: float, *, digits: int = 3) -> str:
    """``1.24MB``: powers of 1000, three digits."""
    return _scaled(size, 1000.0, _DECIMAL, digits)


def binary_size(size: float) -> str:
    """``64MiB``: powers of 1024, four digits."""
    return _scaled(size, 1024.0, _BINARY, 4)


def _scaled(size: float, base: float, units: tuple[str, ...], digits: int) -> str:
    place = 0
    while float(f"{size:.{digits}g}") >= base and place < len(units) - 1:
        size /= base
        place += 1
    text = f"{size:.{digits}g}"
    return f"{float(text):.0f}{units[place]}" if "e" in text else text + units[place]


def human_duration(seconds: float) -> str:
    """``2 minutes``, ``About an hour``."""
    whole, minutes, hours = int(seconds), int(seconds / 60), int(seconds / 3600 + 0.5)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    steps = ((48, 1, "hours"), (336, 24, "days"), (1440, 168, "weeks"), (17520, 720, "months"))
    for limit, unit, name in steps:
        if hours < limit:
            return f"{hours // unit} {name}"
    return f"{int(seconds / 3600) // 24 // 365} years"


def time_zone(environ: Mapping[str, str]) -> tzinfo | None:
    """The caller's; None: the host's own."""
    name = environ.get("TZ", "").removeprefix(":")
    if not name:
        return None
    try:
        from zoneinfo import ZoneInfo

        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        return UTC


def moment_of(seconds: float) -> float:
    """One that every calendar has in every zone: images say of themselves when they were made."""
    return min(max(seconds, FIRST), LAST)


def clock_text(moment: float, zone: tzinfo | None) -> str:
    """``2026-01-31 09:00:00 +0000 UTC``."""
    local = datetime.fromtimestamp(moment_of(moment), zone or UTC)
    local = local if zone else local.astimezone()
    return local.strftime("%Y-%m-%d %H:%M:%S %z %Z")


def stamp(moment: float) -> str:
    """RFC 3339 with nanoseconds, UTC; Docker's zero time for never."""
    if not moment:
        return "0001-01-01T00:00:00Z"
    return stamp_ns(int(moment_of(moment) * 1e9))


def stamp_ns(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    text = datetime.fromtimestamp(moment_of(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest:09d}Z"
