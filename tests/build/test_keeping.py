"""How much builds keep: limits, what goes first, and what never does."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cove.build.dockerfile.mounts import Mount
from cove.build.keeping import Kept, Limits, doomed
from cove.cli.system.disk import size_text
from cove.engine import calls
from cove.engine.builds import caches, collecting
from cove.engine.builds.caches import volume_of
from cove.engine.calls.build import BuildPrune
from cove.engine.engine import Engine
from cove.engine.home import Home
from cove.engine.reactor import Worker
from cove.image import catalog
from cove.linux import disk
from cove.linux.disk import tree_usage
from tests.build.test_builds import wait_for_line
from tests.driver import Cove, wait_until
from tests.images.tars import Tar
from tests.kernel.conftest import open_engine

A, B, C = (Kept(name, 10, used, used) for name, used in (("a", 3), ("b", 1), ("c", 2)))


@pytest.mark.parametrize(
    ("limits", "free", "names"),
    [
        (Limits(), 0, "bca"),
        (Limits(most=30), 0, ""),
        (Limits(most=29), 0, "b"),
        (Limits(most=11), 0, "bc"),
        (Limits(reserved=20), 100, ""),
        (Limits(free=50), 50, ""),
        (Limits(free=55), 50, "b"),
        (Limits(free=500), 0, "bca"),
        (Limits(free=500, reserved=15), 0, "bc"),
        (Limits(most=25, free=65), 50, "bc"),
        (Limits(most=1, reserved=20), 0, "b"),
        (Limits(older=8), 0, "bc"),
        (Limits(most=1, older=9), 0, "b"),
    ],
)
def test_what_goes(limits: Limits, free: int, names: str) -> None:
    assert "".join(one.name for one in doomed([A, B, C], limits, now=10, free=free)) == names


def test_what_a_build_holds_counts_and_stays() -> None:
    held = Kept("b", 10, 1, 1, held=True)
    assert doomed([A, held, C], Limits(most=11), now=10, free=0) == [C, A]
    assert doomed([held], Limits(), now=10, free=0) == []


def test_what_was_used_in_the_future_goes_where_no_age_is_asked_for() -> None:
    """A clock was set back."""
    ahead = Kept("a", 10, 50, 50)
    assert doomed([ahead], Limits(), now=10, free=0) == [ahead]
    assert doomed([ahead], Limits(most=1), now=10, free=0) == [ahead]
    assert doomed([ahead], Limits(older=1), now=10, free=0) == []


def test_of_one_build_the_last_step_goes_first() -> None:
    steps = [Kept(str(n), 1, 5, n) for n in range(3)]
    assert [one.name for one in doomed(steps, Limits(most=1), now=9, free=0)] == ["2", "1"]


def test_machines_do_not_wait_for_it(tmp_path: Path) -> None:
    """Who puts them away, and strikes those that do not stop, is another thread."""
    (tmp_path / "builder.json").write_text('{"gc": {"enabled": false}}')
    layout = SimpleNamespace(builder=str(tmp_path / "builder.json"))
    worker, collector, done = Worker("worker"), Worker("build cache"), threading.Event()
    home: Any = SimpleNamespace(
        closing=False, store=SimpleNamespace(layout=layout), worker=worker, collector=collector
    )
    worker.start()
    collector.start()
    try:
        with collecting._alone:  # a long one
            collecting.after_build(home)
            worker.do(done.set)
            assert done.wait(120)
    finally:
        collector.close()
        worker.close()


# ---- on the real disk ----


def empty(home: Home) -> str:
    """What a new cache begins with."""
    ready = tempfile.mkdtemp(dir=home.store.layout.tmp)
    os.mkdir(f"{ready}/_data")
    return ready


def test_a_second_collection_walks_what_is_new_alone(
    bb_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers never change, and a cache mount only while somebody has it. Image ``host`` may get a
    layer at any time, by itself: it is not asked for.
    """
    walked: list[str] = []
    mine: list[str] = []
    run = disk._run_du

    def spy(*words: str) -> bytes:
        walked.extend(os.path.relpath(word, home.root) for word in words[2:])
        return run(*words)

    def step(cache: str, size: int) -> str:
        """What a step with a cache mount does; the mount's place."""
        wish = Mount("cache", id=cache, target="/c")
        with caches.taken(home, [wish], lambda: None) as names:
            caches.made(home, names[cache], wish, lambda: empty(home))
            place = home.store.layout.volume_data(names[cache])
            Path(place, "f").write_bytes(bytes(size))
            name = os.path.relpath(place, home.root)
            mine.extend({name} - set(mine))
            assert name in seen() and seen() == [name], "it may change"
        return place

    def seen() -> list[str]:
        walked.clear()
        collecting.prune(home, BuildPrune(most=1 << 60))
        return [one for one in walked if one in mine]

    with open_engine(bb_tar) as engine:
        home = engine.home
        mine += layers_of(engine, "bb")
        seen()
        monkeypatch.setattr(disk, "_run_du", spy)
        places = [step(cache, 5000) for cache in "ab"]
        assert seen() == mine[2:] and seen() == []
        step("a", 1 << 20)
        assert seen() == mine[1:2] and seen() == []
        (tmp_path / "tar").write_bytes(Tar().file("new", os.urandom(9000)).data())
        with open(tmp_path / "tar", "rb") as file:
            list(engine.image_import(calls.ImageImport("new"), calls.Call(body=file.fileno())))
        mine += layers_of(engine, "new")
        assert seen() == mine[-1:] and seen() == []
        walked.clear()
        rows = collecting.usage(home, {}, frozenset())  # as ``system df`` has it
        assert {one.size for one in rows} == {tree_usage(place) for place in places}
        assert sorted(walked) == sorted(mine[1:3])
        assert len(collecting.prune(home, BuildPrune()).keys) == 2


def layers_of(engine: Engine, image: str) -> list[str]:
    """Their directories, below the state directory."""
    store = engine.home.store
    found = [store.layer(diff_id) for diff_id in catalog.resolve(store, image).layers]
    return [f"roots/l{layer.key}" for layer in found if layer is not None]


def text_of(name: str) -> str:
    return f"FROM bb\nRUN head -c 2097152 /dev/urandom >/{name}\n"


def built(cove: Cove, text: str) -> str:
    """What was said; of its result only the cache is left."""
    done = cove("build", "--progress=plain", "-t", "kept", "-", stdin=text)
    cove("rmi", "kept")
    return done.err


def parts(cove: Cove) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cove("system", "df", "-v", "--format", "json").out)
    return found


def total(cove: Cove) -> str:
    rows = cove("system", "df", "--format", "{{.Type}}|{{.TotalCount}}|{{.Size}}").out.splitlines()
    return next(row for row in rows if row.startswith("Build Cache"))


def test_what_was_used_last_stays(fresh_cove: Cove) -> None:
    cove = fresh_cove
    for name in "abc":
        built(cove, text_of(name))
    assert "CACHED" in built(cove, text_of("a"))
    said = cove("builder", "prune", "-f", "--max-used-space", "5m").out
    assert (
        said.startswith("Deleted build cache objects:\n") and "Total reclaimed space: 2.1" in said
    )
    assert cove("builder", "prune", "-f", "--keep-storage", "5m").out.endswith(": 0B\n")
    assert [name for name in "acb" if "CACHED" in built(cove, text_of(name))] == ["a", "c"]
    assert cove("builder", "prune", "-f", "--filter", "until=1h").out.endswith(": 0B\n")
    failed = cove("builder", "prune", "-f", "--filter", "type=frontend", code=125)
    assert 'type "frontend"' in failed.err and "exec.cachemount" in failed.err
    assert "6.3" in cove("builder", "prune", "-f").out.rpartition("\n\n")[2]


def test_what_df_says_is_on_the_disk(fresh_cove: Cove) -> None:
    cove = fresh_cove
    run = "RUN --mount=type=cache,id=df,target=/c head -c 1048576 /dev/urandom >/c/f"
    cove("build", "-t", "both", "-", stdin=f"{text_of('x')}{run} && cp /c/f /f\n")
    layers = {name for name in os.listdir(cove.root / "roots") if name.startswith("l")}
    rows = {row["CacheType"] + row["Shared"]: row["Size"] for row in parts(cove)["BuildCache"]}
    mount = tree_usage(str(cove.root / "volumes" / volume_of("df") / "_data"))
    assert mount > 1 << 20 and rows["exec.cachemountfalse"] == size_text(mount)
    assert total(cove) == f"Build Cache|3|{size_text(mount)}", "an image has the layers"
    volumes = cove("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Size}}").out
    assert "Local Volumes 0 0B" in volumes and parts(cove)["Volumes"] == []
    cove("rmi", "both")
    sizes = [row["Size"] for row in parts(cove)["BuildCache"]]
    assert "Build cache usage: 0B" not in cove("system", "df", "-v").out
    cove("builder", "prune", "-f", "--filter", "type=exec.cachemount")
    kept = {row["CacheType"] for row in parts(cove)["BuildCache"]}
    assert kept == {"regular"} and not cove("volume", "ls", "-q").out and len(sizes) == 3
    cove("builder", "prune", "-f")
    left = {name for name in os.listdir(cove.root / "roots") if name.startswith("l")}
    assert len(layers - left) == 2 and total(cove) == "Build Cache|0|0B"


def test_what_a_build_that_runs_has_stays(fresh_cove: Cove, tmp_path: Path) -> None:
    cove = fresh_cove
    go = cove.root / "volumes" / volume_of("held") / "_data/go"
    mount = "--mount=type=cache,id=held,target=/c"
    (tmp_path / "Dockerfile").write_text(
        f"{text_of('x')}RUN {mount} mkfifo /c/go && echo ready && cat /c/go >/got\n"
    )
    caller = cove.spawn("build", "--progress=plain", "-t", "held", str(tmp_path))
    wait_for_line(caller, b" ready")
    in_use = [row for row in parts(cove)["BuildCache"] if row["CacheType"] == "exec.cachemount"]
    assert len(in_use) == 1 and go.exists()
    for flags in ((), ("--max-used-space", "1"), ("--min-free-space", "1000t")):
        assert cove("builder", "prune", "-af", *flags).out == "Total reclaimed space: 0B\n"
    assert not cove("system", "prune", "-f").out.startswith("Deleted build")
    go.write_text("went")
    assert caller.communicate(timeout=180) and caller.returncode == 0
    assert cove("run", "--rm", "held", "sh", "-c", "cat /got; stat -c %s /x").out == "went2097152\n"
    cove("rmi", "held")
    assert "3.1" not in cove("builder", "prune", "-af").out and total(cove) == "Build Cache|0|0B"


def test_the_limit_is_kept_without_a_word(fresh_cove: Cove) -> None:
    cove, settings = fresh_cove, fresh_cove.root / "builder.json"
    settings.write_text('{"gc": {"enabled": false, "defaultMaxUsedSpace": "1"}}')
    for name in "abc":
        built(cove, text_of(name))
    assert total(cove).startswith("Build Cache|3|6.3")
    settings.write_text('{"gc": {"defaultMaxUsedSpace": "5m"}}')
    cove("build", "-t", "d", "-", stdin=text_of("d"))
    wait_until(lambda: total(cove).startswith("Build Cache|3|4.2"), "two, and that of an image")
    assert [name for name in "bc" if "CACHED" in built(cove, text_of(name))] == ["b", "c"]
    for wrong in ('{"gc": {"defaultMaxUsedSpace": "much"}}', '{"gc": 1}', '{"GC": {}}', "{"):
        settings.write_text(wrong)
        failed = cove("build", "-", stdin=text_of("a"), code=1)
        assert f"cannot read {settings.resolve()}" in failed.err and "hint: write" in failed.err
