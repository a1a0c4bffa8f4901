"""``POST /build``: an archive with a Dockerfile becomes an image, as the classic builder tells."""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import msgspec

from cove.build.contexts import FOLDER, GIT, kind_of
from cove.build.files.tars import Gone
from cove.build.graph.data import Origin
from cove.build.graph.plan import Wanted
from cove.build.graph.sources import git_of
from cove.client import building
from cove.client.packing import packed
from cove.daemon.docker.ask import Answer, Ask, Stream, to_json
from cove.daemon.docker.bodies import Ulimit as DockerUlimit
from cove.daemon.docker.images import Auth, failed, keyed, pulled
from cove.daemon.docker.steps import Classic
from cove.engine import calls
from cove.engine.calls.build import BuildAsked, BuildPrune, ImageBuild
from cove.errors import (
    NOT_JSON,
    CoveError,
    NoSuchImage,
    NotFound,
    StepFailed,
    Unsupported,
    UsageError,
    printable,
)
from cove.git.settings import read_address
from cove.linux.patience import Patience
from cove.oci.config import ImageConfig
from cove.oci.manifest import Platform, host_platform_of, parse_platform
from cove.oci.reference import parse_reference
from cove.spec import flags, grants
from cove.spec.machine import Isolation, Ulimit
from cove.spec.values import parse_label, parse_time

CALL = calls.Call()
T = TypeVar("T")

NOT_HERE = {
    "squash": "cove keeps the layers of steps apart",
    "cgroupparent": "every machine has its own control group",
    "securityopt": "steps run with cove's own walls",
    "outputs": "the image goes into the store",
}
"""Parameters that ask for what cove has not."""
NUMBERS = ("memswap", "cpushares", "cpuperiod", "cpuquota")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
ISOLATIONS = ("", "default", "container", "vm")

# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
ULIMITS = msgspec.json.Decoder(list[DockerUlimit] | None)
STRINGS = msgspec.json.Decoder(list[str] | None)
MAP = msgspec.json.Decoder(dict[str, str | None] | None)
AUTHS = msgspec.json.Decoder(dict[str, Auth] | None)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the parameters say."""

    file: str = "Dockerfile"
    tags: tuple[str, ...] = ()
    arguments: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    target: str = ""
    platform: str = ""
    pull: bool = False
    no_cache: bool = False
    quiet: bool = False
    cache_from: tuple[str, ...] = ()
    network: str = ""
    hosts: tuple[str, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    shm: int = 0
    memory: int = 0
    isolation: Isolation = "container"
    logins: Mapping[str, calls.Login] = field(default_factory=dict)

    def wanted(self, context: building.Context, cancelled: threading.Event) -> Wanted:
        return Wanted(
            host=host_platform_of(),
            platform=parse_platform(self.platform) if self.platform else None,
            target=self.target,
            arguments=self.arguments,
            labels=self.labels,
            ignore=context.rules,
            patience=Patience(f"cannot build {context.name}", cancelled),
        )


def asked_of(ask: Ask) -> Asked:
    """Raises for what cannot be had, by its name."""
    _refuse(ask)
    platform, network = ask.text("platform"), ask.text("networkmode")
    return Asked(
        file=ask.text("dockerfile") or "Dockerfile",
        tags=tuple(filter(None, ask.texts("t"))),
        arguments=_given(_map(ask, "buildargs")),
        labels=dict(
            parse_label(f"{name}={value or ''}") for name, value in _map(ask, "labels").items()
        ),
        target=ask.text("target"),
        platform=flags.parse_platform(platform) if platform else "",
        pull=ask.on("pull"),
        no_cache=ask.on("nocache"),
        quiet=ask.on("q"),
        cache_from=tuple(_read(ask, "cachefrom", STRINGS) or ()),
        network="" if network == "default" else network,
        hosts=tuple(map(grants.parse_host, filter(None, ask.texts("extrahosts")))),
        ulimits=tuple(
            grants.parse_ulimit(f"{one.name}={one.soft}:{one.hard}")
            for one in _read(ask, "ulimits", ULIMITS) or ()
        ),
        shm=ask.number("shmsize") or 0,
        memory=ask.number("memory") or 0,
        isolation="vm" if ask.text("isolation") == "vm" else "container",
        logins=_logins(ask),
    )


def _refuse(ask: Ask) -> None:
    if ask.text("version") == "2" or ask.text("session"):
        raise Unsupported(
            "cannot build with BuildKit's protocol: cove builds Dockerfiles itself",
            hint="let the client use the classic builder: DOCKER_BUILDKIT=0",
        )
    for name, why in NOT_HERE.items():
        if ask.on(name) and ask.text(name) not in ("[]", "null"):
            raise Unsupported(f"cannot build with {name}: {why}")
    for name in NUMBERS:
        if ask.number(name):
            raise Unsupported(f"cannot build with {name}: steps have a limit of memory alone")
    for name in ("cpusetcpus", "cpusetmems"):
        if ask.text(name):
            raise Unsupported(f"cannot build with {name}: steps have a limit of memory alone")
    if ask.text("isolation") not in ISOLATIONS:
        raise Unsupported(
            f"cannot build with isolation {ask.text('isolation')}: steps are containers or, with "
            "vm, virtual machines"
        )


def _read(ask: Ask, name: str, decoder: msgspec.json.Decoder[T]) -> T | None:
    text = ask.text(name)
    if not text:
        return None
    try:
        return decoder.decode(text)
    except NOT_JSON as error:
        raise UsageError(f"cannot read {name}: {error}") from error


def _map(ask: Ask, name: str) -> dict[str, str | None]:
    return _read(ask, name, MAP) or {}


def _given(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _logins(ask: Ask) -> dict[str, calls.Login]:
    text = ask.headers.get("X-Registry-Config", "")
    if not text:
        return {}
    try:
        found = AUTHS.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except NOT_JSON as error:
        raise UsageError(f"cannot read X-Registry-Config: {error}") from error
    return dict(keyed(found or {}))


# ---- the build ----


class _Missing(Exception):
    """An image that has to be pulled first."""

    def __init__(self, name: str, platform: Platform) -> None:
        self.name, self.platform = name, platform


def build(ask: Ask) -> Stream:
    """The context is read before anything is answered: docker-py sends all of it first."""
    asked = asked_of(ask)

    def gone() -> None:
        if ask.cancel.is_set():
            raise CoveError("interrupted")

    with ExitStack() as stack:
        try:
            context = stack.enter_context(_context(ask, asked, gone))
        except NotFound:
            raise UsageError(f"Cannot locate specified Dockerfile: {asked.file}") from None
        lines = _lines(ask, asked, context, stack.pop_all())
        next(lines)  # from here on it has something to close
        return Stream(lines)


def _context(ask: Ask, asked: Asked, gone: Gone) -> AbstractContextManager[building.Context]:
    """The request's body; with ``remote`` what this host fetches, by the rules of ``cove build
    URL``, and the body is not looked at.
    """
    typed = ask.text("remote")
    if not typed:
        return building.from_stdin(ask.fd, asked.file, gone)
    from cove.client.remote import from_remote, full  # brings the web along
    from cove.engine.builds.cloning import limited

    url = full(typed)
    kind = kind_of(url)
    if kind == FOLDER:
        raise UsageError(f"cannot build {printable(typed)}: it is no URL and no git repository")
    if kind == GIT and _over_ssh(url):
        raise Unsupported(
            f"cannot build {printable(typed)}: ssh needs an agent, and none comes by this API",
            hint="give its address with https://, or build with the cove command",
        )
    # Of the daemon's own: its proxies. Nobody's agent, and nobody's hosts.
    env = {"COVE_ROOT": ask.engine.home.store.layout.root}
    env |= {name: os.environ[name] for name in PROXIES if name in os.environ}
    groups = partial(limited, ask.engine.home.groups)
    return from_remote(url, kind, asked.file, ask.cancel, env, limited=groups)


def _over_ssh(url: str) -> bool:
    git = git_of(url)
    address = read_address(git[0].remote) if git else None
    return address is not None and address.scheme == "ssh"


def _lines(ask: Ask, asked: Asked, context: building.Context, stack: ExitStack) -> Iterator[bytes]:
    with stack:
        yield b""
        fetched: set[tuple[str, Platform]] = set()
        while True:
            try:
                planned = _planned(ask, asked, context, fetched)
                break
            except _Missing as missing:
                yield from _pull(ask, asked, missing)
                fetched.add((missing.name, missing.platform))
        yield from _steps(ask, asked, context, planned)


def _planned(
    ask: Ask, asked: Asked, context: building.Context, fetched: set[tuple[str, Platform]]
) -> building.Planned:
    def find(origin: Origin, platform: Platform) -> tuple[str, ImageConfig]:
        name = origin.name
        again = asked.pull and (name, platform) not in fetched
        found = None if again else _here(ask, asked, name, platform)
        if found is not None:
            return found
        if (name, platform) in fetched:
            raise NoSuchImage(f"cannot build on {name}: it is no image for {platform}")
        raise _Missing(name, platform)

    return building.plan(context.read(), asked.wanted(context, ask.cancel), find)


def _here(ask: Ask, asked: Asked, name: str, platform: Platform) -> tuple[str, ImageConfig] | None:
    try:
        known = parse_reference(name).familiar()
        params = calls.ImageInspect(known, str(platform) if asked.platform else "")
        record = ask.engine.image_inspect(params, CALL).record
    except NoSuchImage:
        return None
    return building.fitting(record, platform, asked=bool(asked.platform))


def _pull(ask: Ask, asked: Asked, missing: _Missing) -> Iterator[bytes]:
    login = asked.logins.get(parse_reference(missing.name).domain)
    for line in pulled(ask, calls.ImagePull(missing.name, str(missing.platform), login)):
        if not asked.quiet:
            yield line


def _steps(
    ask: Ask, asked: Asked, context: building.Context, planned: building.Planned
) -> Iterator[bytes]:
    no_cache = asked.no_cache or not _cache_is_here(ask, asked)
    params = ImageBuild(
        dockerfile=context.dockerfile,
        name=context.name,
        context=context.kind,
        ignore=context.ignore,
        ignore_name=context.ignore_name,
        images=planned.images,
        tags=asked.tags,
        arguments=asked.arguments,
        labels=asked.labels,
        target=asked.target,
        platforms=(asked.platform,) if asked.platform else (),
        no_cache=no_cache,
        network=asked.network,
        hosts=asked.hosts,
        ulimits=asked.ulimits,
        shm=asked.shm,
        memory=asked.memory,
        apart=True,
        isolation=asked.isolation,
    )
    classic = Classic(planned.build, planned.images)
    writer = context.writer(planned.build.context_paths, ask.cancel)
    for unused in planned.build.unused:
        yield to_json({"stream": f"[Warning] build argument {unused} is used nowhere\n"})
    begun = False
    try:
        with packed(params, [writer]) as (body, _):
            call = calls.Call(body=body, cancelled=ask.cancel)
            for step in ask.engine.image_build(BuildAsked(), call):
                begun = True
                for line in classic.lines(step):
                    if not asked.quiet:
                        yield to_json(line)
                if asked.quiet and step.event == "done":
                    yield to_json({"stream": f"{step.image}\n"})
    except CoveError as error:
        if not begun:
            raise
        known = classic.failed if isinstance(error, StepFailed) else None
        yield to_json(known) if known else failed(error)


def _cache_is_here(ask: Ask, asked: Asked) -> bool:
    """``cachefrom`` names images whose steps are known: where none is here, nothing is known."""
    for name in asked.cache_from:
        try:
            ask.engine.image_inspect(calls.ImageInspect(name), CALL)
        except CoveError:
            continue
        return True
    return not asked.cache_from


def prune(ask: Ask) -> Answer:
    until, now = ask.gathered(("until",)).get("until", ()), time.time()
    if len(until) > 1:
        raise UsageError("cannot use more than one until filter")
    older = max(0.0, now - parse_time(until[0], now)) if until else 0.0
    params = BuildPrune(
        older,
        reserved=ask.number("reserved-space") or ask.number("keep-storage") or 0,
        most=ask.number("max-used-space") or 0,
        free=ask.number("min-free-space") or 0,
    )
    gone = ask.engine.build_prune(params, CALL)
    return Answer({"CachesDeleted": list(gone.keys) or None, "SpaceReclaimed": gone.reclaimed})
