"""Plain values as Docker writes them: sizes, numbers, times, names, signals, keys. Pure: text in,
value out.

Each parser raises UsageError that quotes what was typed and says what would be right.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from cove.errors import UsageError
from cove.spec.suggest import nearest

# ---- sizes ----

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kKmMgGtTpP]?)[iI]?[bB]?")
_POWERS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


def bad(kind: str, text: str, why: str, *, hint: str = "") -> UsageError:
    return UsageError(f'cannot read {kind} "{text}": {why}', hint=hint)


def parse_size(text: str) -> int:
    """``64m``, ``1.5g``, ``4096``: bytes; k, m, g, t and p are powers of 1024, as in Docker."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise bad("size", text, "not a number with a unit", hint="write 512k, 64m or 1.5g")
    unit: int = 1 << _POWERS[match[2].lower()]
    return int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit


def parse_swap(text: str) -> int:
    """A size, or -1 for unlimited."""
    return -1 if text == "-1" else parse_size(text)


def format_size(size: int) -> str:
    """As it could be typed: ``64m``; for messages."""
    for unit, power in (("g", 30), ("m", 20), ("k", 10)):
        if size and size % (1 << power) == 0:
            return f"{size >> power}{unit}"
    return str(size)


# ---- numbers ----


def parse_int(text: str) -> int:
    try:
        return int(text, 10)
    except ValueError:
        raise bad("number", text, "not a whole number") from None


def parse_bool(text: str) -> bool:
    """As Go reads a flag's value."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise bad("switch", text, "neither true nor false", hint="write true or false")


def parse_cpus(text: str) -> float:
    if not re.fullmatch(r"\d*\.?\d+|\d+\.", text) or 0 < float(text) < 0.01:
        raise bad(
            "CPU count",
            text,
            "not a number of at least 0.01",
            hint="write how many CPUs it may use: 0.5, 1 or 2.5",
        )
    return float(text)


def parse_cpuset(text: str) -> str:
    """``0-3,5``, as the kernel's cpuset takes it."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise bad("CPU list", text, "not a list of numbers and ranges", hint="write 0-3 or 0,2")
    for part in text.split(","):
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            raise bad("CPU list", text, f"the range {part} runs backwards")
    return text


def parse_oom_score(text: str) -> int:
    score = parse_int(text)
    if not -1000 <= score <= 1000:
        raise bad("score", text, "not between -1000 and 1000")
    return score


# ---- times ----

_UNITS = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0,
}  # fmt: skip
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def parse_duration(text: str) -> float:
    """``1h30m``, ``250ms``, or a plain number of seconds."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    total, end = 0.0, 0
    for match in _DURATION.finditer(text):
        if match.start() != end:
            break
        total += float(match[1]) * _UNITS[match[2]]
        end = match.end()
    if not text or end != len(text):
        raise bad("duration", text, "not a time with a unit", hint="write 90s, 5m or 1h30m")
    return total


_STAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:T(\d\d)(?::(\d\d))?(?::(\d\d)(\.\d{1,9})?)?)?(Z|[+-]\d\d:\d\d)?"
)


def parse_time(text: str, now: float, zone: tzinfo = UTC) -> float:
    """A moment as Unix seconds: ``10m`` (ago), a date (in ``zone`` unless it says its own), or Unix
    seconds."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    match = _STAMP.fullmatch(text)
    if not match:
        try:
            return now - parse_duration(text.removeprefix("-"))
        except UsageError:
            raise bad(
                "time", text, "not a moment", hint="write 10m, 2026-01-31T09:00:00Z or Unix seconds"
            ) from None
    if match[6] == "Z":
        zone = UTC
    elif match[6]:
        sign = -1 if match[6][0] == "-" else 1
        zone = timezone(sign * timedelta(hours=int(match[6][1:3]), minutes=int(match[6][4:])))
    try:
        day = datetime.fromisoformat(match[1])
        moment = day.replace(
            hour=int(match[2] or 0),
            minute=int(match[3] or 0),
            second=int(match[4] or 0),
            tzinfo=zone,
        )
    except ValueError:
        raise bad("time", text, "no such day or time") from None
    return moment.timestamp() + float(match[5] or 0)


# ---- names ----

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


def parse_name(text: str) -> str:
    """A name of a machine or volume."""
    name = text.removeprefix("/")
    if not _NAME.fullmatch(name):
        raise bad(
            "name",
            text,
            "only letters, digits, _ . and - are allowed, two at least, a letter or digit first",
        )
    if len(name) > 128:
        raise bad("name", text, "longer than 128 characters")
    return name


def parse_hostname(text: str) -> str:
    if len(text) > 64:
        raise bad("host name", text, "longer than 64 characters, the most the kernel takes")
    if not re.fullmatch(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]*[a-zA-Z0-9_])?", text):
        raise bad("host name", text, "only letters, digits, _ . and - are allowed")
    return text


def parse_user(text: str) -> str:
    """``user``, ``user:group``, by name or number; looked up inside the machine."""
    user, colon, group = text.partition(":")
    if ":" in group or (colon and not group) or not all(c.isprintable() for c in text):
        raise bad(
            "user", text, "not a user or user:group", hint="write www-data, 1000 or 1000:1000"
        )
    for part in (user, group):
        if part.isdecimal() and int(part) > 65535:
            raise bad("user", text, f"{part} is not one of the machine's ids, which end at 65535")
    return text


def parse_group(text: str) -> str:
    if not text or ":" in text or not text.isprintable():
        raise bad("group", text, "not a group's name or number")
    return text


def parse_absolute(text: str) -> str:
    """A path in the machine."""
    if not text.startswith("/"):
        raise bad("path", text, "not absolute", hint=f"write /{text.lstrip('./')}")
    return clean_path(text)


def parse_workdir(text: str) -> str:
    """Empty: the image's own, as Docker has it."""
    return parse_absolute(text) if text else ""


def clean_path(path: str) -> str:
    """An absolute path without ``.``, ``..`` and double slashes, by words alone."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


# ---- signals ----

SIGNALS = {
    name: number
    for number, name in enumerate(
        [
            "HUP",
            "INT",
            "QUIT",
            "ILL",
            "TRAP",
            "ABRT",
            "BUS",
            "FPE",
            "KILL",
            "USR1",
            "SEGV",
            "USR2",
            "PIPE",
            "ALRM",
            "TERM",
            "STKFLT",
            "CHLD",
            "CONT",
            "STOP",
            "TSTP",
            "TTIN",
            "TTOU",
            "URG",
            "XCPU",
            "XFSZ",
            "VTALRM",
            "PROF",
            "WINCH",
            "IO",
            "PWR",
            "SYS",
        ],
        1,
    )
}
"""Linux on x86-64 and arm64; the same numbers on both."""

_ALIASES = {"IOT": 6, "CLD": 17, "POLL": 29, "UNUSED": 31}
RTMIN, RTMAX = 34, 64


def parse_signal(text: str) -> int:
    """``TERM``, ``SIGTERM``, ``15``, ``SIGRTMIN+3``."""
    word = text.upper().removeprefix("SIG")
    if word.isdecimal() and 0 < int(word) <= RTMAX:
        return int(word)
    number = SIGNALS.get(word) or _ALIASES.get(word) or _real_time(word)
    if number:
        return number
    near = nearest(word, SIGNALS)
    raise bad("signal", text, "no such signal", hint=f"did you mean SIG{near}?" if near else "")


def _real_time(word: str) -> int:
    match = re.fullmatch(r"RT(MIN|MAX)(?:([+-])(\d{1,2}))?", word)
    if not match:
        return 0
    number = RTMIN if match[1] == "MIN" else RTMAX
    if match[2]:
        number += int(match[3]) if match[2] == "+" else -int(match[3])
    return number if RTMIN <= number <= RTMAX else 0


def check_signal(text: str) -> str:
    """The signal as typed, known to exist."""
    parse_signal(text)
    return text


# ---- detach keys ----

_CONTROL = {f"ctrl-{chr(96 + n)}": n for n in range(1, 27)} | {
    "ctrl-@": 0, "ctrl-[": 27, "ctrl-\\": 28, "ctrl-]": 29, "ctrl-^": 30, "ctrl-_": 31, "del": 127,
}  # fmt: skip


def parse_detach_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q``: the bytes a terminal sends for them; empty: none."""
    keys = bytearray()
    for key in text.split(",") if text else ():
        low = key.lower()
        if low in _CONTROL:
            keys.append(_CONTROL[low])
        elif len(key) == 1 and key.isascii() and key.isprintable():
            keys += key.encode()
        else:
            raise bad(
                "detach keys",
                text,
                f'"{key}" is not a key',
                hint="write letters or ctrl-<letter>: ctrl-p,ctrl-q",
            )
    return bytes(keys)


def check_detach_keys(text: str) -> str:
    parse_detach_keys(text)
    return text


# ---- key=value ----


def parse_label(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not key:
        raise bad("label", text, "it has no name", hint="write name=value")
    return key, value
