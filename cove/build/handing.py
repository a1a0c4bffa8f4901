"""``--cache-from`` and ``--cache-to``: how they are spelled, and what is handed on with the layers.
Pure.

A cache is an image: its layers are what steps made, and its config says by which keys they are
known. The keys are cove's own, and the field has a name of its own: BuildKit finds no cache in it,
nor cove one in what BuildKit wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from cove.errors import Unsupported, UsageError, printable
from cove.oci.reference import parse_reference
from cove.spec.mounts import split_csv
from cove.store.records import CacheRecord

FIELD = "cove.build.cache.v1"
RECORDS_MAX = 20_000
LAYERS_MAX = 500
"""As many as an image may have."""
LATEST = 4e9
"""Seconds: the year 2096."""
MODES = ("min", "max")
ELSEWHERE = ("gha", "s3", "azblob")
_KEY = re.compile(r"[0-9a-f]{64}")


# ---- what is typed ----


@dataclass(frozen=True, slots=True)
class Cache:
    typed: str
    kind: str
    """registry, local or inline."""
    place: str = ""
    """A reference or a directory."""
    mode: str = "min"
    ignore_error: bool = False


def parse_source(text: str) -> Cache:
    """``type=registry,ref=NAME``, ``type=local,src=DIR``, or a name alone."""
    if "=" not in text:
        return _at_registry(text, {"ref": text}, "--cache-from")
    words = _words(text, "--cache-from", {"ref", "src"})
    if words["type"] == "local":
        return Cache(text, "local", _needed(words, "src", text, "--cache-from"))
    if words["type"] == "inline":
        raise _bad(text, "--cache-from", "an inline cache is read from its image",
                   "type=registry,ref=NAME")  # fmt: skip
    return _at_registry(text, words, "--cache-from")


def parse_target(text: str) -> Cache:
    """``type=registry,ref=NAME``, ``type=local,dest=DIR`` or ``type=inline``."""
    flag = "--cache-to"
    if "=" not in text:
        found = _at_registry(text, {"ref": text}, flag)
        return Cache(text, found.kind, found.place)
    words = _words(text, flag, {"ref", "dest", "mode", "ignore-error"})
    mode = words.get("mode", "min")
    if mode not in MODES:
        raise _bad(text, flag, f'no mode is called "{printable(mode)}"', "mode=min or mode=max")
    quiet = words.get("ignore-error", "false")
    if quiet not in ("true", "false"):
        raise _bad(text, flag, "ignore-error is true or false")
    if words["type"] == "inline":
        if words.keys() - {"type"}:
            raise _bad(text, flag, "type=inline is alone: it goes with the image")
        return Cache(text, "inline")
    if words["type"] == "local":
        place = _needed(words, "dest", text, flag)
        return Cache(text, "local", place, mode, quiet == "true")
    found = _at_registry(text, words, flag)
    return Cache(text, found.kind, found.place, mode, quiet == "true")


def _words(text: str, flag: str, known: set[str]) -> dict[str, str]:
    words = {}
    for part in split_csv(text):
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise _bad(text, flag, f'"{printable(part)}" has no value')
        words[name.lower()] = value
    kind = words.setdefault("type", "registry")
    if kind in ELSEWHERE:
        raise Unsupported(
            f"cannot use a cache of type {kind}: not in this version of cove",
            origin=f"{flag} {text}",
            hint="the types are registry, local and inline",
            exit_code=1,
        )
    if kind not in ("registry", "local", "inline"):
        raise _bad(text, flag, f'no type is called "{printable(kind)}"',
                   "the types are registry, local and inline")  # fmt: skip
    for name in words.keys() - known - {"type"}:
        raise _bad(text, flag, f'"{printable(name)}" is not supported')
    return words


def _at_registry(text: str, words: Mapping[str, str], flag: str) -> Cache:
    reference = _needed(words, "ref", text, flag)
    return Cache(text, "registry", str(parse_reference(reference)))


def _needed(words: Mapping[str, str], name: str, text: str, flag: str) -> str:
    if name not in words:
        raise _bad(text, flag, f"{name}= is missing")
    return words[name]


def _bad(text: str, flag: str, why: str, hint: str = "") -> UsageError:
    return UsageError(
        f'cannot use cache "{printable(text)}": {why}', origin=f"{flag} {text}", hint=hint
    )


# ---- what is handed on ----


class _Handed(msgspec.Struct, frozen=True):
    key: str
    layer: int
    created: float
    title: str = ""


def field_of(records: Iterable[CacheRecord], layers: Sequence[str]) -> list[dict[str, object]]:
    """For the config of an image that has these layers."""
    place = {layer: number for number, layer in enumerate(layers)}
    found = [
        _Handed(one.key, place[one.diff_id], one.created, one.title)
        for one in records
        if one.diff_id in place
    ]
    found.sort(key=lambda one: one.key)
    return [msgspec.to_builtins(one) for one in found]


def records_of(config: Mapping[str, object], layers: Sequence[str]) -> dict[str, CacheRecord]:
    """What the config of somebody else's image says of its layers; empty: it is no cache. Nothing
    of it is believed but that a key means one of these layers, which were read and verified.
    """
    if FIELD not in config:
        return {}
    try:
        handed = msgspec.convert(config[FIELD], list[_Handed])
    except msgspec.ValidationError as error:
        raise UsageError(f"it makes no sense: {error}", exit_code=1) from None
    if len(handed) > RECORDS_MAX:
        raise UsageError(f"it has more than {RECORDS_MAX} steps", exit_code=1)
    found = {}
    for one in handed:
        if not _KEY.fullmatch(one.key) or not 0 <= one.layer < len(layers):
            raise UsageError("it makes no sense: a step without a key or a layer", exit_code=1)
        if not 0 <= one.created < LATEST:
            raise UsageError("it makes no sense: a step of no time", exit_code=1)
        title = printable(one.title)[:200]
        found[one.key] = CacheRecord(one.key, layers[one.layer], one.created, 0.0, title)
    return found
