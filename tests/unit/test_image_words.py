"""``--change`` instructions and compressions: the pure parts of the image room."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable

import pytest
import zstandard

from cove.errors import UsageError
from cove.image import compress
from cove.image.changes import apply_changes

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def test_changes_are_applied_in_turn() -> None:
    changes = (
        'CMD ["sh", "-c", "x"]',
        "ENTRYPOINT run it",
        "env A=b C='d e'",
        "ENV A new value",
        "EXPOSE 80 90-91/udp",
        "LABEL k=v",
        "USER 1000:1000",
        "VOLUME /a /b",
        'VOLUME ["/c d"]',
        "WORKDIR /a",
        "WORKDIR b",
        "STOPSIGNAL SIGINT",
        "HEALTHCHECK CMD curl x",
        "ONBUILD RUN x",
    )
    assert apply_changes({}, changes) == {
        "Cmd": ["sh", "-c", "x"],
        "Entrypoint": ["/bin/sh", "-c", "run it"],
        "Env": ["C=d e", "A=new value"],
        "ExposedPorts": {"80/tcp": {}, "90/udp": {}, "91/udp": {}},
        "Labels": {"k": "v"},
        "User": "1000:1000",
        "Volumes": {"/a": {}, "/b": {}, "/c d": {}},
        "WorkingDir": "/a/b",
        "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["CMD-SHELL", "curl x"]},
        "OnBuild": ["RUN x"],
    }


def test_a_given_config_is_not_changed() -> None:
    start = {"Env": ["A=b"]}
    assert apply_changes(start, ("ENV A=c",))["Env"] == ["A=c"]
    assert start == {"Env": ["A=b"]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("RUN x", "'RUN' is not one of CMD"),
        ("", "is not one of"),
        ("CMD", "CMD needs an argument"),
        ("ENV A", "must be NAME=VALUE"),
        ("ENV A='b", "no closing quotation"),
        ("EXPOSE x", "is not PORT"),
        ("EXPOSE 0", "is no range of ports"),
        ("EXPOSE 70000", "is no range of ports"),
        ("EXPOSE 9-8", "is no range of ports"),
        ("SHELL sh", "must be written as"),
        ("HEALTHCHECK x", "must be HEALTHCHECK NONE"),
    ],
)
def test_a_wrong_change_is_named(change: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        apply_changes({}, (change,))
    assert caught.value.origin == f"--change {change}"


@pytest.mark.parametrize("kind", PACKERS)
def test_each_compression_is_seen_and_undone(kind: str) -> None:
    data = b"hello " * 500_000
    packed = PACKERS[kind](data)
    assert compress.detect(packed[: compress.MAGIC_LENGTH]) == kind
    pieces = list(compress.decode(kind, io.BytesIO(packed)))
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= compress.CHUNK


@pytest.mark.parametrize("kind", [kind for kind in PACKERS if kind != "none"])
def test_members_one_after_the_other(kind: str) -> None:
    packed = PACKERS[kind](b"one") + PACKERS[kind](b"two")
    assert b"".join(compress.decode(kind, io.BytesIO(packed))) == b"onetwo"


def test_zeros_may_follow_and_nothing_else() -> None:
    packed = gzip.compress(b"one")
    assert b"".join(compress.decode("gzip", io.BytesIO(packed + bytes(5000)))) == b"one"
    with pytest.raises(compress.Damaged, match="damaged"):
        list(compress.decode("gzip", io.BytesIO(packed + b"rubbish" * 10)))


@pytest.mark.parametrize("kind", [kind for kind in PACKERS if kind != "none"])
def test_a_bomb_comes_in_small_pieces(kind: str) -> None:
    packed = PACKERS[kind](bytes(64 << 20))
    assert max(len(p) for p in compress.decode(kind, io.BytesIO(packed))) <= compress.CHUNK
