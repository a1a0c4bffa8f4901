"""``build``: an image of a Dockerfile, step by step, while somebody watches."""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from cove.build.dockerfile.file import read_dockerfile
from cove.build.entitlements import check_allowed
from cove.build.graph.data import IMAGE, NAMED, Build, Origin
from cove.build.graph.plan import Wanted, plan_build
from cove.build.graph.several import Joined, joined
from cove.build.ignore import read_ignore
from cove.build.result import image_config
from cove.engine.builds import agents, collecting, guests, handing
from cove.engine.builds.conduct import Done, Images, Site, conduct
from cove.engine.builds.packs import HEAD, nameless
from cove.engine.builds.receiving import received
from cove.engine.builds.running import Given
from cove.engine.calls import Call
from cove.engine.calls.build import BuildStep, ImageBuild
from cove.engine.events import Cancel, Cancelled
from cove.engine.home import Home
from cove.errors import NOT_JSON, BadArchive, NoSuchImage, UsageError
from cove.image import catalog, holding, several
from cove.image.history import moment
from cove.image.importing import parse_name
from cove.image.layers import drop_unused
from cove.linux.patience import Patience
from cove.oci.config import ImageConfig
from cove.oci.digest import digest_of
from cove.oci.manifest import Platform, host_platform_of, parse_platform
from cove.oci.reference import Reference, familiar
from cove.spec.machine import Limits
from cove.store.blobs import Blobs
from cove.store.records import ImageRecord

LOOK = 0.2
"""Seconds between two looks whether the caller is still there."""
ASKED_MAX = 64 << 20
WAITING = 64
"""Steps, and pieces of what programs say, that a slow reader may leave unread: then the build waits
for it, and the program for the build."""

# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
_decode_asked = msgspec.msgpack.Decoder(ImageBuild).decode


def image_build(home: Home, call: Call) -> Iterator[BuildStep]:
    """Steps as they happen, from a thread of the build's own."""
    steps: queue.Queue[BuildStep | BaseException | None] = queue.Queue(WAITING)
    stopped, left, began = Cancel(), threading.Event(), time.monotonic()

    def put(step: BuildStep | BaseException | None) -> None:
        while not left.is_set():
            with contextlib.suppress(queue.Full):
                steps.put(step, timeout=LOOK)
                return

    def tell(event: str, number: int, **more: Any) -> None:
        put(BuildStep(event, number, time=time.monotonic() - began, **more))

    def work() -> None:
        try:
            put(_build(home, _asked(call.body), call, tell, stopped))
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="build", daemon=True)
    thread.start()
    try:
        yield from _steps(steps, call)
    finally:
        left.set()
        stopped.set()
        thread.join()


def _steps(steps: queue.Queue[BuildStep | BaseException | None], call: Call) -> Iterator[BuildStep]:
    while True:
        if call.cancelled is not None and call.cancelled.is_set():
            raise Cancelled("interrupted")
        try:
            step = steps.get(timeout=LOOK)
        except queue.Empty:
            continue
        if step is None:
            return
        if isinstance(step, BaseException):
            raise step
        yield step


def _asked(body: int) -> ImageBuild:
    """What stands in front of the context: it may be longer than any header."""
    data = b""
    want = HEAD.size
    while len(data) < want:
        piece = os.read(body, want - len(data))
        if not piece:
            raise BadArchive("cannot build: what was sent ended in the middle")
        data += piece
        if len(data) == HEAD.size and want == HEAD.size:
            want += HEAD.unpack(data)[0]
            if want > ASKED_MAX:
                raise BadArchive(f"cannot build: what is asked for has over {ASKED_MAX >> 20} MiB")
    try:
        return _decode_asked(data[HEAD.size :])
    except NOT_JSON as error:
        raise BadArchive(f"cannot build: what is asked for makes no sense: {error}") from None


def _build(
    home: Home, params: ImageBuild, call: Call, tell: Callable[..., None], stopped: Cancel
) -> BuildStep:
    names = tuple(parse_name(tag) for tag in params.tags)
    collecting.settings(home)  # somebody hears what is wrong with them
    images = _Images(home, params.images, params.contexts)
    what = _plans(params, images.lookup, stopped)
    build = what.build
    guests.check(build, params)
    check_allowed(build, params.allow, params.network)
    for warning in build.warnings:
        tell("warning", 0, text=str(warning).encode())

    def gone() -> None:
        if stopped.is_set() or (call.cancelled is not None and call.cancelled.is_set()):
            raise Cancelled("interrupted")

    made: list[str] = []
    stale: list[str] = []
    with contextlib.ExitStack() as pins, nameless(home.store) as fd:
        pins.callback(lambda: drop_unused(home.store, stale))  # last, when nothing is pinned
        pins.callback(lambda: collecting.after_build(home) if made else None)
        for record in images.found.values():
            pins.enter_context(home.store.pinned(*record.layers))
        context, named = received(home, params, call.body, fd, pins, gone)
        now = time.time()
        site = Site(
            home=home,
            build=build,
            images=images.found,
            context=context,
            named=named,
            given=_given(params),
            secrets=params.secrets,
            agents=pins.enter_context(agents.opened(params.ssh)),
            tell=tell,
            stopped=stopped,
            pins=pins,
            now=now,
            made=made,
            stale=stale,
            received=handing.received(home, params.cache_from, tell),
            known_hosts=params.known_hosts,
            epoch=_epoch(params),
            no_cache=params.no_cache,
            no_cache_stages=frozenset(name.lower() for name in params.no_cache_stages),
            written=what.numbers,
        )
        conduct(site)
        results = {number: site.stages[number].result() for number in what.targets}
        made_now = [_image(site, *one, inline=params.cache_inline) for one in results.items()]
        image = _record(home, made_now, names, params.holder if params.passing else "")
        caches = {
            mode: handing.made(site, results.values(), mode, params.holder)
            for mode in params.cache_to
        }
    tags = _told(home, image, made_now, names)
    ids = tuple(one.id for one in made_now)
    return BuildStep("done", image=image.id, images=ids, tags=tags, caches=caches)


def _told(
    home: Home, image: ImageRecord, images: list[ImageRecord], names: tuple[Reference, ...]
) -> tuple[str, ...]:
    """Who listens learns of the images; their names."""
    tags = tuple(name.familiar() for name in names)
    for tag in tags:
        home.publish_image("tag", image, tag)
    for one in images:
        home.publish_image("build", one)
    return tags


class _Images:
    """What the names in a Dockerfile mean; all of them were chosen by who asks for the build."""

    def __init__(self, home: Home, meant: dict[str, str], contexts: dict[str, str]) -> None:
        self.home, self.meant, self.contexts = home, meant, contexts
        self.found: Images = {}

    def lookup(self, origin: Origin, platform: Platform) -> ImageConfig | None:
        if origin.kind == NAMED and self.contexts.get(origin.name) != "image":
            return None
        return catalog.image_config(self.find(origin, platform))

    def find(self, origin: Origin, platform: Platform) -> ImageRecord:
        key = (origin.name, str(platform))
        record = self.found.get(key)
        if record is None:
            meant = self.meant.get(f"{origin.name} {platform}", origin.name)
            try:
                record = catalog.resolve(self.home.store, meant)
            except NoSuchImage as error:
                name = familiar(origin.name)
                raise NoSuchImage(
                    f"cannot build on {name}: {error.message.partition(': ')[2]}",
                    hint=f"get it first: cove pull {name}",
                ) from error
            self.found[key] = record
        return record


def _plans(
    params: ImageBuild,
    lookup: Callable[[Origin, Platform], ImageConfig | None],
    stopped: threading.Event,
) -> Joined:
    """For each platform that is asked for, as one build."""
    plans = [_plan(params, lookup, stopped, one) for one in params.platforms or ("",)]
    if len(plans) > 1:
        return joined(plans)
    return Joined(plans[0], (plans[0].target,), {})


def _plan(
    params: ImageBuild,
    lookup: Callable[[Origin, Platform], ImageConfig | None],
    stopped: threading.Event,
    platform: str,
) -> Build:
    ignore = read_ignore(params.ignore, params.ignore_name) if params.ignore else None
    build = plan_build(
        read_dockerfile(params.dockerfile, params.name),
        Wanted(
            host=host_platform_of(),
            platform=parse_platform(platform) if platform else None,
            target=params.target,
            arguments=params.arguments,
            labels=params.labels,
            contexts=tuple(params.contexts),
            ignore=ignore,
            patience=Patience(f"cannot build {params.name}", stopped),
        ),
        lookup,
    )
    for stage in build.stages:  # images that files are taken from have configs, too
        for origin in stage.origins:
            if origin.kind in (IMAGE, NAMED):
                lookup(origin, stage.platform)
    return build


def _epoch(params: ImageBuild) -> int | None:
    text = params.arguments.get("SOURCE_DATE_EPOCH", "")
    if text and not (text.isascii() and text.isdigit() and len(text) < 12):
        raise UsageError(f'cannot use SOURCE_DATE_EPOCH "{text[:40]}": it is seconds since 1970')
    return int(text) if text else None


def _given(params: ImageBuild) -> Given:
    limits = Limits(memory=params.memory, shm=params.shm, ulimits=params.ulimits)
    build, isolation = secrets.token_hex(16), params.isolation
    return Given(build, params.network, params.hosts, limits, params.apart, isolation)


def _image(site: Site, number: int, done: Done, *, inline: bool) -> ImageRecord:
    """Of a stage; its config is kept, and pinned: it is no image yet."""
    store, chain = site.home.store, done.tree.chain
    more = handing.kept_in(site, chain) if inline else {}
    stage = site.build.stage(number)
    data = msgspec.json.encode(image_config(stage, done.base.config, done.pasts, chain) | more)
    image_id = digest_of(data)
    site.pins.enter_context(store.pinned(image_id))
    Blobs(store.layout).put(data, image_id)
    config = msgspec.json.decode(data, type=dict[str, object])
    layers = [store.layer(diff_id) for diff_id in chain]
    size = sum(layer.size for layer in layers if layer is not None)
    created = moment(config.get("created")) or site.now
    return store.image(image_id) or ImageRecord(image_id, config, chain, size, created)


def _record(
    home: Home, records: list[ImageRecord], names: tuple[Reference, ...], holder: str
) -> ImageRecord:
    """All of them under all names, or none: the one that fits this host."""
    store = home.store
    with store.transaction():
        for record in records:
            holding.put(store, record, holder)
        for name in names:
            several.name(store, str(name), records)
    home.bases.clear()
    return several.fitting(records, host_platform_of()) or records[0]
