"""``RUN --mount=type=...``: what a step is given beside its root file system. Pure.

Values may hold variables, so a mount is read twice: for its form when the file is read
(``check_mount``), and wholly when the variables are known (``parse_mount``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cove.build.source import Place, fault
from cove.errors import UsageError
from cove.spec.mounts import split_csv
from cove.spec.suggest import did_you_mean
from cove.spec.values import parse_bool, parse_size

TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
SHARING = ("shared", "private", "locked")
KEYS = (
    "type", "from", "source", "src", "target", "dst", "destination", "readonly", "ro",
    "readwrite", "rw", "required", "size", "id", "sharing", "mode", "uid", "gid", "env",
)  # fmt: skip
_SAME = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_ALONE = ("readonly", "ro", "readwrite", "rw", "required")
_FITS = {"secret": {"required"}, "ssh": {"required"}, "tmpfs": {"size"}}
_OWNED = ("cache", "secret", "ssh")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of a step. ``mode``, ``uid`` and ``gid`` are None where nothing was written."""

    type: str = "bind"
    origin: str = ""
    """``from``: a stage, a named context or an image; empty: the build context."""
    source: str = ""
    target: str = ""
    """Empty: the working directory."""
    readonly: bool = True
    size: int = 0
    id: str = ""
    sharing: str = ""
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


def check_mount(text: str, place: Place) -> str:
    """The stage, context or image that it comes from; the rest is only checked for its form."""
    origin = ""
    for key, value in _fields(text, place):
        if key == "from":
            if "$" in (value or "")[:-1]:
                raise fault(
                    place,
                    "variables are not expanded in from= of --mount",
                    hint="name a stage: FROM image:$tag AS name, then from=name",
                )
            origin = value or ""
    return origin


def parse_mount(text: str, place: Place, expand: Callable[[str], str]) -> Mount:
    """A mount with its values expanded, and checked as a whole."""
    found: dict[str, object] = {}
    for key, value in _fields(text, place):
        name, parsed = _field(key, None if value is None else expand(value), text, place)
        found[name] = parsed
    kind = str(found.get("type", "bind"))
    for name in found.keys() & {"required", "size"} - _FITS.get(kind, set()):
        raise _bad(place, text, f"{name} is not for type {kind}")
    found.setdefault("readonly", kind not in ("cache", "tmpfs"))
    mount = Mount(**found)  # type: ignore[arg-type]
    _check_whole(mount, text, place)
    return mount


def _fields(text: str, place: Place) -> list[tuple[str, str | None]]:
    try:
        words = split_csv(text)
    except UsageError as error:
        raise _bad(place, text, error.message.rpartition(": ")[2]) from None
    found: list[tuple[str, str | None]] = []
    for word in words:
        key, equals, value = word.partition("=")
        low = key.lower()
        if low not in KEYS:
            raise _bad(place, text, f'no option is called "{key}"', did_you_mean(low, KEYS))
        if not equals and low not in _ALONE:
            raise _bad(place, text, f'"{word}" has no value', f"write {low}=...")
        found.append((low, value if equals else None))
    return found


def _field(key: str, value: str | None, text: str, place: Place) -> tuple[str, object]:
    """(field of Mount, its value)."""
    name = _SAME.get(key, key)
    try:
        if name == "readonly":
            return name, value is None or parse_bool(value)
        if name in ("readwrite", "rw"):
            return "readonly", not (value is None or parse_bool(value))
        if name == "required":
            return name, value is None or parse_bool(value)
        word = value or ""
        if name == "size":
            return name, parse_size(word)
    except UsageError as error:
        raise _bad(place, text, f"{key}: {error.message.rpartition(': ')[2]}") from None
    if name in ("type", "sharing"):
        known = TYPES if name == "type" else SHARING
        if word.lower() not in known:
            hint = did_you_mean(word, known) or f"{name} is {', '.join(known)}"
            raise _bad(place, text, f'no {name} is called "{word}"', hint)
        return name, word.lower()
    if name in ("mode", "uid", "gid"):
        return name, _number(name, word, text, place)
    return {"from": "origin"}.get(name, name), word


def _number(name: str, word: str, text: str, place: Place) -> int:
    base = 8 if name == "mode" else 10
    digits = "01234567" if base == 8 else "0123456789"
    if not word or word.strip(digits) or len(word) > 11 or int(word, base) >= 1 << 32:
        kind = "an octal number" if base == 8 else "a number"
        raise _bad(place, text, f'{name} "{word}" is not {kind} of 32 bits')
    return int(word, base)


def _check_whole(mount: Mount, text: str, place: Place) -> None:
    """What BuildKit refuses, in its order."""
    if mount.type not in _OWNED:
        for name in ("mode", "uid", "gid"):
            if getattr(mount, name) is not None:
                raise _bad(place, text, f"{name} is not for type {mount.type}")
    if mount.sharing and mount.type != "cache":
        raise _bad(place, text, f"sharing is for type cache, not {mount.type}")
    if mount.env is not None and mount.type != "secret":
        raise _bad(place, text, f"env is for type secret, not {mount.type}")
    if mount.type == "secret":
        if mount.origin:
            raise _bad(place, text, "a secret comes from the command line, not from a stage")
        if not (mount.source or mount.target or mount.id):
            raise _bad(place, text, "a secret needs an id", "write id=NAME")
        if mount.source and mount.id:
            raise _bad(place, text, "source and id both name the secret", "write id= alone")
    elif mount.type == "ssh" and mount.source:
        raise _bad(place, text, "source is not for type ssh", "write id=NAME")


def _bad(place: Place, text: str, why: str, hint: str = "") -> UsageError:
    return fault(place, f'in --mount="{text}" {why}', hint=hint)
