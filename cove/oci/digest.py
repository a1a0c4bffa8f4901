"""Digests: ``sha256:`` and hexadecimal digits. A digest comes from archives and is checked before
anything is done with it.
"""

from __future__ import annotations

import hashlib
import re

from cove.errors import BadArchive, UsageError

LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
"""The algorithms that OCI registers, with their hexadecimal digits."""

_HEX = re.compile(r"[a-f0-9]+")


def parse_digest(text: str) -> tuple[str, str]:
    """Algorithm and hexadecimal digits."""
    algorithm, colon, digits = text.partition(":")
    reason = ""
    if not colon:
        reason = "it is not ALGORITHM:HEX"
    elif algorithm not in LENGTHS:
        reason = f"digest algorithm {algorithm!r} is not one of {', '.join(LENGTHS)}"
    elif len(digits) != LENGTHS[algorithm]:
        reason = f"a {algorithm} digest has {LENGTHS[algorithm]} digits, not {len(digits)}"
    elif not _HEX.fullmatch(digits):
        reason = "a digest is written in lower case hexadecimal digits"
    if reason:
        raise UsageError(f'cannot use digest "{text}": {reason}')
    return algorithm, digits


def of_archive(text: str) -> str:
    """A digest that an archive claims: the same text, or the archive is bad."""
    try:
        parse_digest(text)
    except UsageError as error:
        raise BadArchive(error.message) from None
    return text


def digest_of(data: bytes, *, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def check(data: bytes, expected: str, what: str) -> None:
    """``data`` is what the digest says, or the archive is bad."""
    algorithm, _ = parse_digest(of_archive(expected))
    actual = digest_of(data, algorithm=algorithm)
    if actual != expected:
        raise BadArchive(f"cannot read {what}: wrong digest: {actual}, not {expected}")
