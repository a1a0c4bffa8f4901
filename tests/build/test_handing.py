"""``--cache-from`` and ``--cache-to``: what one state directory built another need not."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cove.build.handing import FIELD, Cache, field_of, parse_source, parse_target, records_of
from cove.engine.builds.handing import received
from cove.errors import CoveError, Unsupported
from cove.store.db import Store
from cove.store.records import CacheRecord
from tests.build.conftest import images_of, tidy
from tests.conftest import open_cove
from tests.driver import Cove
from tests.registry.registries import docker_registry

KEY = "ab" * 32


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("type=registry,ref=r.example/c:1", ("registry", "r.example/c:1")),
        ("r.example/c", ("registry", "r.example/c:latest")),
        ("type=local,src=/c", ("local", "/c")),
    ],
)
def test_sources(text: str, found: tuple[str, str]) -> None:
    cache = parse_source(text)
    assert (cache.kind, cache.place) == found


def test_targets() -> None:
    assert parse_target("type=local,dest=d,mode=max,ignore-error=true") == Cache(
        "type=local,dest=d,mode=max,ignore-error=true", "local", "d", "max", ignore_error=True
    )
    assert parse_target("type=inline").kind == "inline"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("type=gha,scope=x", "of type gha"),
        ("type=s3", "of type s3"),
        ("type=what", "no type is called"),
        ("type=local", "dest= is missing"),
        ("type=registry", "ref= is missing"),
        ("type=local,dest=d,mode=most", "no mode is called"),
        ("type=local,dest=d,compression=zstd", '"compression" is not supported'),
        ("type=inline,mode=max", "type=inline is alone"),
        ("type=local,dest", '"dest" has no value'),
    ],
)
def test_wrong_targets(text: str, why: str) -> None:
    with pytest.raises(CoveError) as caught:
        parse_target(text)
    assert why in caught.value.message and text in caught.value.origin
    assert isinstance(caught.value, Unsupported) == why.startswith("of type")


def test_what_is_handed_on_is_read_again() -> None:
    made = [CacheRecord(KEY, "l2", 5.0, 9.0, "RUN x"), CacheRecord("c" * 64, "gone", 5.0, 9.0)]
    config = json.loads(json.dumps({FIELD: field_of(made, ("l1", "l2"))}))
    assert records_of(config, ("l1", "l2")) == {KEY: CacheRecord(KEY, "l2", 5.0, 0.0, "RUN x")}
    assert records_of({}, ("l1",)) == {}


@pytest.mark.parametrize(
    "field",
    [
        None,
        "text",
        [1],
        [{"key": KEY}],
        [{"key": "x", "layer": 0, "created": 1}],
        [{"key": KEY, "layer": 1, "created": 1}],
        [{"key": KEY, "layer": -1, "created": 1}],
        [{"key": KEY, "layer": 0, "created": -1}],
        [{"key": KEY, "layer": 0, "created": 1e300}],
        [{"key": KEY, "layer": 0, "created": 1}] * 20_001,
    ],
)
def test_what_a_stranger_says_is_checked(field: object) -> None:
    with pytest.raises(CoveError, match=r"makes no sense|more than"):
        records_of({FIELD: field}, ("l1",))


def test_a_cache_that_somebody_else_forgot_meanwhile(tmp_path: Path) -> None:
    """Two builds had it from one place; who ended first took it away."""
    told: list[str] = []
    with Store.open(tmp_path / "s") as store:
        home: Any = SimpleNamespace(store=store)
        name = f"sha256:{KEY}"
        found = received(home, [name], lambda _, __, text: told.append(text.decode()))
    assert found == {} and len(told) == 1
    assert told[0].startswith(f"cannot use cache {name}: ") and "building without it" in told[0]


# ---- two state directories ----

TEXT = """\
FROM bb AS tool
RUN echo tool >/tool
FROM bb
RUN head -c 4096 /dev/urandom >/random
COPY f /f
COPY --from=tool /tool /tool
"""
"""Five layers, one of which is not in the result; what is in /random says who made it."""


@pytest.fixture(scope="module")
def pair(bb_tar: Path) -> Iterator[tuple[Cove, Cove]]:
    with open_cove(bb_tar) as one, open_cove(bb_tar) as two:
        yield one, two


@pytest.fixture
def both(pair: tuple[Cove, Cove], tmp_path: Path) -> Iterator[tuple[Cove, Cove]]:
    (tmp_path / "f").write_text("f")
    (tmp_path / "Dockerfile").write_text(TEXT)
    before = [images_of(cove) for cove in pair]
    yield pair
    for cove, had in zip(pair, before, strict=True):
        tidy(cove, had)


def said(cove: Cove, place: Path, *flags: str, code: int = 0) -> str:
    return cove("build", "--progress=plain", "-t", "out", *flags, str(place), code=code).err


def random_of(cove: Cove) -> str:
    return cove("run", "--rm", "out", "sha256sum", "/random").out


def layers_of(cove: Cove) -> str:
    return cove("image", "inspect", "--format", "{{json .RootFS.Layers}}", "out").out


def images(cove: Cove) -> list[str]:
    found = cove("images", "-a", "--format", "{{.Repository}}").out.split()
    return sorted(name for name in found if name != "host")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("caches")) as host:
        yield host


@pytest.mark.parametrize("kind", ["local", "registry"])
def test_what_is_handed_on_is_not_made_again(
    both: tuple[Cove, Cove], registry: str, tmp_path: Path, kind: str
) -> None:
    one, two = both
    context = tmp_path / "context"
    context.mkdir()
    for name in ("f", "Dockerfile"):
        os.rename(tmp_path / name, context / name)
    cache = f"{tmp_path}/cache"
    to = f"type=local,dest={cache}" if kind == "local" else f"type=registry,ref={registry}/c:1"
    source = to.replace("dest=", "src=")
    assert "CACHED" not in said(one, context, "--cache-to", f"{to},mode=max")
    assert images(one) == ["bb", "out"]
    done = said(two, context, "--cache-from", source)
    assert done.count("CACHED") == 4 and random_of(one) == random_of(two)
    assert images(two) == ["bb", "out"], "the cache itself is gone"
    assert layers_of(one) == layers_of(two)

    if kind == "registry":
        return
    two("rmi", "out")
    two("builder", "prune", "-af")
    (context / "Dockerfile").write_text(TEXT.replace("COPY f /f", "COPY f /other"))
    changed = said(two, context, "--cache-from", source)
    assert changed.count("CACHED") == 2, "the steps before are known, and the stage"
    # Again, over what is there; what only the stage made is no part of it now.
    said(two, context, "--cache-to", to)
    two("rmi", "out")
    two("builder", "prune", "-af")
    done = said(two, context, "--cache-from", source)
    assert done.count("CACHED") == 3
    assert sorted(os.listdir(tmp_path)) == ["cache", "context"]


def test_an_image_is_its_own_cache(both: tuple[Cove, Cove], registry: str, tmp_path: Path) -> None:
    one, two = both
    name = f"{registry}/inline:1"
    said(one, tmp_path, "--cache-to", "type=inline", "-t", name)
    one("push", name)
    done = said(two, tmp_path, "--cache-from", name, "--cache-to", "type=inline")
    assert done.count("CACHED") == 3 and random_of(one) == random_of(two)
    assert layers_of(one) == layers_of(two)
    one("rmi", name)


# ---- what is not as it should be ----


def test_a_cache_that_cannot_be_had_is_named(
    both: tuple[Cove, Cove], registry: str, tmp_path: Path
) -> None:
    one, _ = both
    empty = tmp_path / "empty"
    empty.mkdir()
    for cache in ("type=local,src=/no/such", f"type=local,src={empty}", f"{registry}/no/such"):
        done = said(one, tmp_path, "--cache-from", cache)
        assert f"cannot use cache {cache}: " in done and "building without it" in done
    said(one, tmp_path, "--cache-to", f"type=registry,ref={registry}/Bad:x", code=125)
    failed = said(one, tmp_path, "--cache-to", "type=registry,ref=127.0.0.1:1/c", code=1)
    assert "from: --cache-to type=registry" in failed and "127.0.0.1:1" in failed
    done = said(one, tmp_path, "--cache-to", "type=registry,ref=127.0.0.1:1/c,ignore-error=true")
    assert "going on" in done and images(one) == ["bb", "out"]


def test_no_cache_stays_where_a_build_ends_badly(both: tuple[Cove, Cove], tmp_path: Path) -> None:
    one, _ = both
    to = f"type=local,dest={tmp_path}/cache,mode=max"
    failed = said(one, tmp_path, "--cache-to", to, "--iidfile", "/no/such/file", code=1)
    assert "cannot write /no/such/file: no such file" in failed
    assert images(one) == ["bb", "out"], "no image without a name"
    assert not (tmp_path / "cache").exists()


def test_nothing_but_a_cache_is_replaced(both: tuple[Cove, Cove], tmp_path: Path) -> None:
    one, _ = both
    victim, work = tmp_path / "victim", tmp_path / "work"
    victim.mkdir()
    work.mkdir()
    (victim / "precious").write_text("p")
    (work / "link").symlink_to(victim)
    (work / "file").write_text("x")
    for name, path in (("link", work / "link"), ("file", work / "file"), ("victim", victim)):
        failed = said(one, tmp_path, "--cache-to", f"type=local,dest={path}", code=1)
        assert "there is something else" in failed, name
    assert sorted(os.listdir(work)) == ["file", "link"] and os.listdir(victim) == ["precious"]
    # One that says it is a layout: what its links lead to stays.
    cache = work / "cache"
    said(one, tmp_path, "--cache-to", f"type=local,dest={cache}")
    os.rename(cache / "blobs", work / "moved")
    (cache / "blobs").symlink_to(victim)
    said(one, tmp_path, "--cache-to", f"type=local,dest={cache}")
    assert os.listdir(victim) == ["precious"] and not (cache / "blobs").is_symlink()
    assert sorted(os.listdir(work)) == ["cache", "file", "link", "moved"]


def blob(cache: Path, digest: str) -> Path:
    return cache / "blobs" / digest.replace(":", "/")


def read(cache: Path, digest: str) -> Any:
    return json.loads(blob(cache, digest).read_bytes())


def put(cache: Path, data: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    blob(cache, digest).write_bytes(data)
    return {"digest": digest, "size": len(data)}


def test_a_cache_that_lies_or_is_cut(both: tuple[Cove, Cove], tmp_path: Path) -> None:
    one, two = both
    cache = tmp_path / "cache"
    to, source = f"type=local,dest={cache},mode=max", f"type=local,src={cache}"
    said(one, tmp_path, "--cache-to", to)
    index = json.loads((cache / "index.json").read_text())
    manifest = read(cache, index["manifests"][0]["digest"])
    config = read(cache, manifest["config"]["digest"])
    assert len(config[FIELD]) >= 4

    def told(change: Any) -> str:
        """What is said of a cache whose config is another."""
        wrong = json.loads(json.dumps(config))
        change(wrong)
        inner = manifest | {"config": manifest["config"] | put(cache, json.dumps(wrong).encode())}
        outer = index["manifests"][0] | put(cache, json.dumps(inner).encode())
        (cache / "index.json").write_text(json.dumps(index | {"manifests": [outer]}))
        two("builder", "prune", "-af")
        return said(two, tmp_path, "--cache-from", source)

    for change in (
        lambda wrong: wrong[FIELD][0].update(layer=4000),
        lambda wrong: wrong["rootfs"]["diff_ids"].reverse(),
    ):
        done = told(change)
        assert "cannot use cache" in done and "building without it" in done
        assert "CACHED" not in done and images(two) == ["bb", "out"]
        two("rmi", "out")
    largest = max((cache / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    (cache / "index.json").write_text(json.dumps(index))
    os.truncate(largest, largest.stat().st_size // 2)
    two("builder", "prune", "-af")
    done = said(two, tmp_path, "--cache-from", source)
    assert "cannot use cache" in done and "CACHED" not in done
    assert images(two) == ["bb", "out"]
