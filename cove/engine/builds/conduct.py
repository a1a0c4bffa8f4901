"""A whole build: stages in threads of their own, each step when what it stands on is there.

A step that was done before, on the same files, is not done again: its layer is kept by the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from cove.build.files.select import digest_of
from cove.build.graph.data import (
    IMAGE,
    NAMED,
    SCRATCH,
    STAGE,
    Build,
    CopyStep,
    Origin,
    RunStep,
    StagePlan,
    Step,
    WorkdirStep,
)
from cove.build.graph.keys import key_of
from cove.build.graph.several import renamed_step
from cove.build.result import Past, past_of
from cove.engine.builds import copying, gathering, mounting, running
from cove.engine.builds.gathering import Sources
from cove.engine.builds.packs import Pack
from cove.engine.builds.running import Given
from cove.engine.builds.trees import Tree
from cove.engine.events import Cancel, Cancelled
from cove.engine.home import Home
from cove.errors import CoveError, StepFailed
from cove.store.records import CacheRecord, ImageRecord, LayerRecord

AT_ONCE = max(2, os.cpu_count() or 2)
"""Steps that run at the same time."""

LOOK = 0.2
"""Seconds between two looks whether the build has ended meanwhile."""
STAGES_AT_ONCE = 16
"""Most of them wait for others."""

Tell = Callable[..., None]
"""Of a step: event, number, and what ``BuildStep`` has besides."""
Images = dict[tuple[str, str], ImageRecord]
"""By name and platform."""


@dataclass(frozen=True, slots=True)
class Done:
    """A stage that is built."""

    tree: Tree
    pasts: tuple[Past, ...]
    base: ImageRecord
    """The image that it all stands on."""


@dataclass(slots=True)
class Site:
    """What all stages of a build share."""

    home: Home
    build: Build
    images: Images
    context: Pack
    named: dict[str, Pack]
    """Named contexts that are files."""
    given: Given
    secrets: dict[str, bytes]
    agents: dict[str, int]
    """Sockets of the caller's agents."""
    tell: Tell
    stopped: Cancel
    pins: contextlib.ExitStack
    now: float
    made: list[str]
    """Keys of what was not there before."""
    stale: list[str]
    """Diff IDs of layers that the cache had under those keys, or has: by the build's end another
    one may have put its own there.
    """
    used: dict[str, CacheRecord] = field(default_factory=dict)
    """What was made, or found, by its key."""
    received: dict[str, CacheRecord] = field(default_factory=dict)
    """What other caches say there is."""
    known_hosts: bytes = b""
    """The caller's, for git over ssh."""
    epoch: int | None = None
    """SOURCE_DATE_EPOCH."""
    no_cache: bool = False
    no_cache_stages: frozenset[str] = frozenset()
    written: Mapping[int, int] = field(default_factory=dict)
    """Of builds for several platforms: what the Dockerfile calls a stage."""
    stages: dict[int, Future[Done]] = field(default_factory=dict)
    turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(AT_ONCE))
    lock: threading.Lock = field(default_factory=threading.Lock)
    busy: dict[str, threading.Lock] = field(default_factory=dict)
    """By the keys of steps that were begun."""
    numbers: int = 0

    def gone(self) -> None:
        if self.stopped.is_set():
            raise Cancelled("interrupted")

    @property
    def clock_ns(self) -> int:
        """The time of what has none."""
        return int(self.now * 1e9) if self.epoch is None else self.epoch * 1_000_000_000

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Of stages that do the same the others take what the first one has made: whatever differs
        between two that were made (times) would have all above it done anew by the next build.
        """
        with self.lock:
            turn = self.busy.setdefault(key, threading.Lock())
        while not turn.acquire(timeout=LOOK):
            self.gone()
        try:
            yield
        finally:
            turn.release()

    def number_of(self, stage: StagePlan) -> int:
        """In the Dockerfile."""
        return self.written.get(stage.number, stage.number)

    def number(self) -> int:
        with self.lock:
            self.numbers += 1
            return self.numbers

    def keep(self, record: CacheRecord) -> None:
        """In the cache; the layer that it had there before may be nobody's any more, and this one
        once a build beside this one keeps its own.
        """
        store = self.home.store
        with store.transaction():
            before = store.cached(record.key)
            store.put_cached(record)
        self.stale += [record.diff_id] if before is None else [record.diff_id, before.diff_id]

    def tree_of(self, origin: Origin, stage: StagePlan) -> Tree | None:
        """Of a stage, once it is built, or an image; None: it is neither."""
        if origin.kind == STAGE:
            return self.stages[origin.stage].result().tree
        if origin.kind == IMAGE or (origin.kind == NAMED and origin.name not in self.named):
            return Tree(self.images[origin.name, str(stage.platform)])
        return Tree() if origin.kind == SCRATCH else None


def conduct(site: Site) -> Done:
    """The target, built with all that it needs. What fails first ends the rest."""
    stages = site.build.stages
    site.stages = {stage.number: Future() for stage in stages}
    # In their order: what a stage waits for has begun before it.
    workers = min(len(stages), STAGES_AT_ONCE)
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="stage") as pool:
        running_ones = [pool.submit(_work, site, stage) for stage in stages]
        wait(running_ones)
    errors = [one for stage in stages if (one := site.stages[stage.number].exception())]
    for error in errors:
        if not isinstance(error, Cancelled):
            raise error
    return site.stages[site.build.target].result()


def _work(site: Site, stage: StagePlan) -> None:
    future = site.stages[stage.number]
    try:
        future.set_result(_stage(site, stage))
    except BaseException as error:
        future.set_exception(error if isinstance(error, Exception) else Cancelled("interrupted"))
        site.stopped.set()


def _stage(site: Site, stage: StagePlan) -> Done:
    if stage.base.kind == STAGE:
        below = _result(site, stage.base.stage)
        tree, pasts, base = below.tree, list(below.pasts), below.base
    else:
        found = site.tree_of(stage.base, stage) or _of_files(site, stage.base.name)
        tree, pasts, base = found, [], found.image
    layers = [step for step in stage.steps if step.layer]
    total, at = len(layers) + 1, 1
    epoch = "" if site.epoch is None else stamp(site.epoch)
    _say_base(site, stage, total, base)
    for step in stage.steps:
        if not step.layer:
            pasts.append(past_of(step, "", epoch))
            continue
        at += 1
        site.gone()
        record, layer = _step(site, stage, step, tree, (at, total))
        tree = tree.above(layer.diff_id)
        pasts.append(past_of(step, stamp(record.created), epoch))
    return Done(tree, tuple(pasts), base)


def _of_files(site: Site, name: str) -> Tree:
    """A named context that a stage begins with: a layer, which is kept as a step's is."""
    store, what = site.home.store, f"copy the context {name}"
    found = copying.whole_of(site.named[name])
    key = hashlib.sha256(f"context {digest_of(found.placed)}".encode()).hexdigest()
    record = store.cached(key)
    layer = store.layer(record.diff_id) if record is not None else None
    if record is not None and layer is not None:
        with site.lock:
            site.pins.enter_context(store.pinned(record.diff_id))
        if (layer := store.layer(record.diff_id)) is not None and store.is_whole(layer):
            store.use_cached(record, site.now)
            return Tree().above(record.diff_id)
    layer = copying.whole(site.home, found, site.clock_ns, site.gone, what, site.pins)
    now = time.time()
    site.keep(CacheRecord(key, layer.diff_id, now, now, f"FROM {name}"[:200]))
    return Tree().above(layer.diff_id)


def _result(site: Site, number: int) -> Done:
    """What fails there is told there."""
    future = site.stages[number]
    wait([future])
    if future.exception() is not None:
        raise Cancelled("interrupted")
    return future.result()


def _prefix(site: Site, stage: StagePlan) -> str:
    where = f"[{stage.platform} " if site.written else "["
    if len({site.number_of(one) for one in site.build.stages}) == 1:
        return where
    return f"{where}{stage.name or f'stage-{site.number_of(stage)}'} "


def _say_base(site: Site, stage: StagePlan, total: int, base: ImageRecord) -> None:
    if stage.base.kind not in (STAGE, SCRATCH):
        number = site.number()
        title = f"{_prefix(site, stage)}1/{total}] FROM {stage.base.name}"
        if base.id:
            title += f"@{base.id}" if "@" not in title else ""
        site.tell("begin", number, title=title, stage=stage.number, place=1)
        site.tell("end", number)


def stamp(seconds: float) -> str:
    """As BuildKit writes times."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


# ---- one step ----


def _step(
    site: Site, stage: StagePlan, step: Step, tree: Tree, at: tuple[int, int]
) -> tuple[CacheRecord, LayerRecord]:
    sources = Sources(
        site.home, site.context, _origins(site, stage, step), site.gone, site.clock_ns,
        site.stopped,
        loopback=site.given.network == "host", named=site.named,
        agent=site.agents.get("default"), known_hosts=site.known_hosts,
    )  # fmt: skip
    number = site.number()
    title = f"{_prefix(site, stage)}{at[0]}/{at[1]}] {step.title}"
    site.tell("begin", number, title=title, stage=stage.number, place=at[0])
    doing = _Doing(site, stage, step, tree, sources, number)
    with site.turns:
        site.gone()
        try:
            record, layer = doing.do()
        except CoveError as error:
            if not isinstance(error, Cancelled):
                error.origin = error.origin or step.place.excerpt
                code = error.code if isinstance(error, StepFailed) else 0
                site.tell("failed", number, text=error.message.encode(), code=code)
            raise
    site.tell("end", number, cached=doing.cached)
    return record, layer


def _origins(site: Site, stage: StagePlan, step: Step) -> dict[str, Tree]:
    """Those of the step's origins that are trees; stages are waited for."""
    found = {}
    for origin in step.origins:
        if origin.kind == STAGE:
            _result(site, origin.stage)
        tree = site.tree_of(origin, stage)
        if tree is not None:
            found[str(origin)] = tree
    return found


@dataclass(slots=True)
class _Doing:
    site: Site
    stage: StagePlan
    step: Step
    tree: Tree
    sources: Sources
    number: int
    cached: bool = False

    def do(self) -> tuple[CacheRecord, LayerRecord]:
        match self.step:
            case RunStep():
                return self._run(self.step)
            case CopyStep():
                return self._copy(self.step)
            case WorkdirStep():
                return self._workdir(self.step)
        raise AssertionError(self.step.title)

    def _run(self, step: RunStep) -> tuple[CacheRecord, LayerRecord]:
        site = self.site
        key = self._key(mounting.digest(self.sources, step))

        def log(data: bytes, stream: int) -> None:
            site.tell("log", self.number, text=data, code=stream if stream > 1 else 0)

        given = replace(site.given, platform=self.stage.platform)
        with site.alone(key):
            if (known := self._known(key)) is not None:
                return known
            with mounting.mounted(
                self.sources, step, site.secrets, site.agents, isolation=given.isolation
            ) as mounted:
                layer = running.run(
                    site.home, step, self.tree, given, mounted, log, site.stopped, site.pins
                )
            return self._made((key,), layer)

    def _copy(self, step: CopyStep) -> tuple[CacheRecord, LayerRecord]:
        """By what it is made of and, where that is a whole tree, also by the files themselves."""
        site, quick = self.site, ""
        if self.sources.trees and len(self.sources.trees) == len(step.origins):
            quick = self._key([f"tree:{tree.key}" for tree in self.sources.trees.values()])
            if (known := self._known(quick)) is not None:
                return known
        with contextlib.ExitStack() as stack:
            parts = gathering.gather(self.sources, step, stack)
            key = self._key([digest_of(gathering.known_by(parts, step))])
            stack.enter_context(site.alone(key))
            known = self._known(key)
            if known is not None:
                if quick:
                    self._made((quick,), known[1], created=known[0].created)
                return known
            layer = copying.copy(self.sources, step, parts, self.tree, site.pins)
            return self._made(tuple(filter(None, (key, quick))), layer)

    def _workdir(self, step: WorkdirStep) -> tuple[CacheRecord, LayerRecord]:
        site, key = self.site, self._key([])
        with site.alone(key):
            if (known := self._known(key)) is not None:
                return known
            layer = copying.workdir(site.home, step, self.tree, site.clock_ns, site.pins)
            return self._made((key,), layer)

    # ---- the cache ----

    def _key(self, contents: list[str]) -> str:
        step = renamed_step(self.step, self.site.written)  # one platform more makes nothing new
        return key_of(self.tree.key, step, contents)

    def _known(self, key: str) -> tuple[CacheRecord, LayerRecord] | None:
        site = self.site
        store, number = site.home.store, str(site.number_of(self.stage))
        if site.no_cache or {self.stage.name, number} & site.no_cache_stages:
            record = site.used[key] if key in site.made else None  # by a stage beside this one
        else:
            record = store.cached(key) or site.received.get(key)
        layer = store.layer(record.diff_id) if record is not None else None
        if record is None or layer is None:
            return None
        with site.lock:
            site.pins.enter_context(store.pinned(record.diff_id))
        if store.layer(record.diff_id) is None or not store.is_whole(layer):
            return None
        self.cached = True
        store.use_cached(record, site.now)
        site.used[key] = record
        return record, layer

    def _made(
        self, keys: tuple[str, ...], layer: LayerRecord, *, created: float = 0.0
    ) -> tuple[CacheRecord, LayerRecord]:
        now, used = created or time.time(), self.site.now
        records = [
            CacheRecord(key, layer.diff_id, now, used, self.step.title[:200]) for key in keys
        ]
        for record in records:
            self.site.used[record.key] = record
            self.site.keep(record)
        self.site.made += keys  # last: who finds a key there takes its record
        return records[0], layer
