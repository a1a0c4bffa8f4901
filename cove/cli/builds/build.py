"""``build``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cove.cli.builds import cache, output, pushed
from cove.cli.builds.agents import agent_of
from cove.cli.builds.contexts import Contexts, contexts_of, parse_context
from cove.cli.builds.log import Rows, log_for
from cove.cli.builds.platforms import check_several, parse_platforms, platforms_of
from cove.cli.command import Command, Typed
from cove.cli.images.pull import fetch, tell_what_is_here
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.engine.calls.build import BuildStep, ImageBuild
from cove.errors import CoveError, NoSuchImage, UsageError, printable
from cove.linux.patience import Patience
from cove.oci.config import ImageConfig
from cove.oci.manifest import Platform, host_platform_of, parse_platform
from cove.oci.reference import parse_reference
from cove.spec import grants, values
from cove.spec.flags import Flag, parse_isolation

if TYPE_CHECKING:  # 30 ms to import, for one command
    from cove.build.graph.data import Origin
    from cove.build.graph.plan import Wanted
    from cove.build.lint.rules import Warning
    from cove.client.building import Context, Writer

SECRET_MAX = 500 << 10
"""As BuildKit has it."""
PROGRESS = ("auto", "plain", "tty", "json", "rawjson", "quiet")
EPOCH = "SOURCE_DATE_EPOCH"
"""Taken from the caller's environment, as buildx does."""
URLS = ("http://", "https://", "git://", "ssh://", "git@", "github.com/")


def parse_progress(text: str) -> str:
    if text not in PROGRESS:
        raise UsageError(f'no such progress: "{text}"', hint=f"one of {', '.join(PROGRESS)}")
    return text


def build(typed: Typed, terminal: Terminal, client: Client) -> int:
    path = typed.words[0]
    output.check_one(typed)
    check_several(typed)
    pushed.check_push(typed)
    with _context(typed, terminal, path) as context, contexts_of(typed, terminal, client) as named:
        finder = _Finder(typed, terminal, client, named)
        if typed.on("check"):
            return _check(typed, terminal, context, finder)
        return _build(typed, terminal, client, context, finder)


@contextlib.contextmanager
def _context(typed: Typed, terminal: Terminal, path: str) -> Iterator[Context]:
    from cove.client import building

    def gone() -> None:
        if terminal.cancelled.is_set():
            raise CoveError("interrupted", exit_code=130)

    file = typed.text("file")
    if path == "-":
        if terminal.is_terminal(0):
            raise UsageError(
                "cannot build from your terminal: it holds no Dockerfile",
                hint="pipe a Dockerfile or an archive in, or name a directory: cove build .",
                exit_code=1,
            )
        with building.from_stdin(terminal.fds[0], file, gone) as context:
            yield context
        return
    if path.startswith(URLS):
        from cove.build.contexts import FOLDER, kind_of
        from cove.client.remote import from_remote, full

        kind = kind_of(full(path))
        if kind != FOLDER:
            with from_remote(full(path), kind, file, terminal.cancelled, terminal.env) as context:
                yield context
            return
    absolute = file if file in ("", "-") else terminal.path(file)
    yield building.from_directory(terminal.path(path), absolute, path, terminal.fds[0], file)


def _wanted(
    typed: Typed, terminal: Terminal, context: Context, named: Contexts
) -> tuple[Wanted, ...]:
    """For each platform that is asked for; for none in particular, one."""
    known = platforms_of(typed) or ("",)
    return tuple(_wanted_for(one, typed, terminal, context, named) for one in known)


def _wanted_for(
    platform: str, typed: Typed, terminal: Terminal, context: Context, named: Contexts
) -> Wanted:
    from cove.build.graph.plan import Wanted

    return Wanted(
        host=host_platform_of(),
        platform=parse_platform(platform) if platform else None,
        target=typed.text("target"),
        arguments=_arguments(typed, terminal),
        labels=dict(typed.values.get("labels", ())),
        contexts=tuple(named.all),
        ignore=context.rules,
        patience=Patience(f"cannot build {context.name}", terminal.cancelled),
        check=typed.on("check"),
    )


def _arguments(typed: Typed, terminal: Terminal) -> dict[str, str]:
    """A name alone takes the caller's value, if he has one."""
    found = {}
    for text in typed.values.get("arguments", ()):
        name, equals, value = text.partition("=")
        if equals:
            found[name] = value
        elif name in terminal.env:
            found[name] = terminal.env[name]
    if EPOCH in terminal.env:
        found.setdefault(EPOCH, terminal.env[EPOCH])
    return found


# ---- base images ----


class _Finder:
    """Images that are here, or are fetched."""

    def __init__(self, typed: Typed, terminal: Terminal, client: Client, named: Contexts) -> None:
        self.typed, self.terminal, self.client, self.named = typed, terminal, client, named
        self.quiet = typed.on("quiet") or typed.text("progress", "auto") in ("json", "rawjson")
        self.platforms = platforms_of(typed)
        self.fetched: set[tuple[str, Platform]] = set()

    def __call__(self, origin: Origin, platform: Platform) -> tuple[str, ImageConfig] | None:
        name = self.named.image(origin, str(platform) if self.platforms else "")
        if not name:
            return None
        here: CoveError | None = None
        if not self.typed.on("pull") or (name, platform) in self.fetched:
            try:
                found = self._here(name, platform)
                if found is not None:
                    return found
            except NoSuchImage as missing:
                here = missing
        try:
            fetch(
                self.client, self.terminal, name, platform=str(platform), quiet=self.quiet,
                beside=len(self.platforms) > 1,
            )  # fmt: skip
        except CoveError as error:
            if error.exit_code != 130:
                error.exit_code = 1
            tell_what_is_here(error, here)
            raise
        self.fetched.add((name, platform))
        found = self._here(name, platform)
        if found is None:
            raise NoSuchImage(f"cannot build on {name}: it is no image for {platform}")
        return found

    def _here(self, name: str, platform: Platform) -> tuple[str, ImageConfig] | None:
        from cove.client.building import fitting

        known = name if name.startswith("sha256:") else parse_reference(name).familiar()
        platform_text = str(platform) if self.platforms else ""
        record = self.client.image(calls.ImageInspect(known, platform_text)).record
        return fitting(record, platform, asked=bool(self.platforms))


def _short(name: str) -> str:
    """As people write it; an id, or what no image can be called, as it is."""
    with contextlib.suppress(UsageError):
        return name if name.startswith("sha256:") else parse_reference(name).familiar()
    return name


# ---- the build ----


def _build(
    typed: Typed, terminal: Terminal, client: Client, context: Context, finder: _Finder
) -> int:
    from cove.client import building

    named = finder.named
    wanted = _wanted(typed, terminal, context, named)
    planned = building.plan_all(context.read(), wanted, finder)
    for unused in planned.build.unused:
        terminal.error(f"build argument {printable(unused)} is used nowhere\n")
    kinds = named.kinds(planned.build)
    params = _params(typed, terminal, context, planned.images, kinds)
    writers = [
        *named.writers(planned.build, kinds, terminal.cancelled),
        context.writer(planned.build.context_paths, terminal.cancelled),
    ]
    with cache.held(typed, client) as holder:
        known = cache.caches_of(typed, terminal, client, holder)
        params = cache.asked(params, typed, known, holder)
        done = _followed(typed, terminal, client, params, writers)
        sockets = (*context.sockets, *named.sockets)
        code = _end(typed, terminal, client, sockets, done)
        cache.hand_out(typed, terminal, client, done.caches)
    return code


def _followed(
    typed: Typed,
    terminal: Terminal,
    client: Client,
    params: ImageBuild,
    writers: list[Writer | None],
) -> BuildStep:
    """The last step, without an image if there is none."""
    from cove.client.packing import packed

    log = log_for(terminal, typed.text("progress", "auto"), quiet=typed.on("quiet"))
    done = BuildStep("done")
    with contextlib.ExitStack() as stack:
        body, finish = stack.enter_context(packed(params, writers))
        if isinstance(log, Rows):
            stack.enter_context(log.ticking())
        try:
            for step in client.image_build(calls.Call(body=body, cancelled=terminal.cancelled)):
                if step.event == "done":
                    done = step
                log.show(step)
        except CoveError as error:
            log.finish(well=False)
            if "ended in the middle" in error.message:
                finish()  # why the context is not whole
            raise
    log.finish(well=True)
    return done


def _end(
    typed: Typed,
    terminal: Terminal,
    client: Client,
    sockets: tuple[str, ...],
    done: BuildStep,
) -> int:
    if terminal.cancelled.is_set() or not done.image:
        return 130
    ids = "\n".join(done.images)
    for name in sockets:
        terminal.error(f"{printable(name)} is a socket, which no image holds\n")
    target = typed.values.get("output")
    to_store = target is None or target.to_store
    quiet = typed.on("quiet") or typed.text("progress", "auto") in ("json", "rawjson")
    if to_store and not quiet:
        lines = [f"writing image {image}\n" for image in done.images]
        lines += [f"naming to {tag}\n" for tag in done.tags]
        terminal.error("".join(lines))
    there = pushed.push(typed, terminal, client, done.tags, quiet=quiet)
    if there is None:
        return 130
    if typed.text("iidfile"):
        _write(terminal, typed.text("iidfile"), ids)
    if target is not None and not to_store:
        output.write(target, done, terminal, client)
    elif typed.on("quiet"):
        terminal.write(f"{ids}\n")
    if typed.text("metadata"):
        _write(terminal, typed.text("metadata"), pushed.metadata(typed, done, there))
    return 0


def _write(terminal: Terminal, name: str, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY
    try:
        fd = os.open(terminal.path(name), flags, 0o666 & ~terminal.umask)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise UsageError(f"cannot write {name}: {reason}", origin=name, exit_code=1) from error


def _params(
    typed: Typed,
    terminal: Terminal,
    context: Context,
    images: dict[str, str],
    contexts: dict[str, str],
) -> ImageBuild:
    network = typed.text("network")
    return ImageBuild(
        dockerfile=context.dockerfile,
        name=context.name,
        context=context.kind,
        ignore=context.ignore,
        ignore_name=context.ignore_name,
        contexts=contexts,
        images=images,
        tags=pushed.tags_of(typed),
        arguments=_arguments(typed, terminal),
        labels=dict(typed.values.get("labels", ())),
        target=typed.text("target"),
        platforms=platforms_of(typed),
        no_cache=typed.on("no_cache"),
        no_cache_stages=_listed(typed.values.get("no_cache_stages", ())),
        network="" if network == "default" else network,
        allow=tuple(dict.fromkeys(typed.values.get("allow", ()))),
        hosts=tuple(typed.values.get("hosts", ())),
        ulimits=tuple(typed.values.get("ulimits", ())),
        shm=int(typed.values.get("shm", 0)),
        memory=int(typed.values.get("memory", 0)),
        isolation="vm" if typed.text("isolation") == "vm" else "container",
        ssh=dict(agent_of(text, terminal) for text in typed.values.get("agents", ())),
        known_hosts=_known_hosts(terminal) if typed.values.get("agents") else b"",
        secrets=dict(_secret(text, terminal) for text in typed.values.get("secrets", ())),
    )


def _known_hosts(terminal: Terminal) -> bytes:
    from cove.client.ssh import known_hosts

    return known_hosts(terminal.env)


def _listed(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for text in texts for name in text.split(",") if name)


def _secret(text: str, terminal: Terminal) -> tuple[str, bytes]:
    """``id=NAME[,src=FILE|,env=NAME]``; a name alone is a file's or, if it is set, a variable's."""
    known = {"id", "src", "source", "env", "type"}
    words = dict(part.partition("=")[::2] for part in text.split(","))
    name = words.get("id", "")
    if not name or not set(words) <= known:
        raise UsageError(
            f'cannot use secret "{text}": it is id=NAME,src=FILE or id=NAME,env=NAME',
            origin=f"--secret {text}",
        )
    file = words.get("src") or words.get("source") or ""
    variable = words.get("env") or (name if not file and name in terminal.env else "")
    if words.get("type") == "env" and file:
        variable, file = file, ""
    if variable and not file:
        if variable not in terminal.env:
            raise UsageError(f"cannot use secret {name}: no variable is called {variable}",
                             origin=f"--secret {text}")  # fmt: skip
        return name, terminal.env[variable].encode("utf-8", "surrogateescape")
    try:
        data = terminal.read_text(file or name, limit=SECRET_MAX)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise UsageError(f"cannot use secret {name}: {file or name}: {reason}",
                         origin=f"--secret {text}") from error  # fmt: skip
    return name, data.encode("utf-8", "surrogateescape")


# ---- check ----


def _check(typed: Typed, terminal: Terminal, context: Context, finder: _Finder) -> int:
    """Nothing is built, and no image fetched: of one that is not here ONBUILD and variables are not
    known."""
    from cove.build.graph.plan import check_build

    away: dict[str, None] = {}

    def lookup(origin: Origin, platform: Platform) -> ImageConfig | None:
        name = origin.name
        with contextlib.suppress(CoveError):
            name = finder.named.image(origin, str(platform) if finder.platforms else "")
            found = finder._here(name, platform) if name else None
            if found or not name:
                return found[1] if found else None
        away[_short(name)] = None
        raise NoSuchImage(f"{name} is not here")

    warnings: dict[Warning, None] = {}  # each once, whatever the platforms
    for wanted in _wanted(typed, terminal, context, finder.named):
        found, error = check_build(context.read(), wanted, lookup)
        warnings |= dict.fromkeys(found)
        if error is not None:
            break
    for warning in warnings:
        terminal.write(f"{printable(str(warning))}\n  {printable(warning.place.excerpt)}\n")
    for name in away:
        terminal.error(f"{printable(name)} is not here: its ONBUILD and variables are not known\n")
    if error is not None:
        raise error
    if warnings:
        count = len(warnings)
        terminal.error(f"{count} warning{'s' * (count > 1)} found\n")
        return 1
    terminal.write("Check complete, no warnings found.\n")
    return 0


_LATER = "it comes with a later version of cove"
REFUSED = dict.fromkeys(
    (
        "annotation", "cgroup-parent", "cpu-period", "cpu-quota", "cpu-shares", "cpuset-cpus",
        "cpuset-mems", "memory-swap", "policy", "security-opt", "squash",
    ),
    (_LATER, True),
)  # fmt: skip

BUILD = Command(
    "build",
    build,
    help="Make an image of a Dockerfile",
    flags=(
        Flag("add-host", "hosts", "A line for /etc/hosts of every RUN", "", "NAME:ADDRESS",
             grants.parse_host, repeat=True),
        Flag("allow", "allow", "What single steps may ask for: network.host (RUN --network=host), "
             "security.insecure (RUN --security=insecure: root on the host)", "", "ENTITLEMENT",
             grants.parse_entitlement, repeat=True),
        Flag("attest", "attest", "Accepted as disabled=true: there are no attestations", "",
             "type=KIND,disabled=true", output.parse_attestations, repeat=True),
        Flag("build-arg", "arguments", "A value for an ARG; a name alone takes your own variable's",
             "", "NAME[=VALUE]", repeat=True),
        Flag("build-context", "contexts", "What a name in FROM or --from means: a directory, "
             "docker-image://IMAGE, oci-layout://DIR, the URL of an archive or of a git "
             "repository", "", "NAME=PATH", parse_context, repeat=True),
        Flag("builder", "builder", "Accepted as default: cove has one builder", "", "default",
             pushed.parse_builder),
        Flag("cache-from", "cache_from", "Steps made elsewhere: type=registry,ref=NAME or "
             "type=local,src=DIR", "", "CACHE", cache.parse_source, repeat=True),
        Flag("cache-to", "cache_to", "Bring what steps made there, too: type=registry,ref=NAME, "
             "type=local,dest=DIR or type=inline; mode=min|max", "", "CACHE",
             cache.parse_target, repeat=True),
        Flag("call", "", "build, or check: as --check", "", "KIND", output.parse_call),
        Flag("check", "check", "Only say what there is to warn of"),
        Flag("compress", "compress", "Accepted: what is sent stays on this host"),
        Flag("file", "file", "The Dockerfile, if not PATH/Dockerfile; - is standard input", "f",
             "FILE"),
        Flag("force-rm", "force_rm", "Accepted: machines of steps are always removed"),
        Flag("iidfile", "iidfile", "Write the image's id to a file", "", "FILE"),
        Flag("isolation", "isolation", "Of the machines of RUN: container or vm", "", "KIND",
             parse_isolation, default="container"),
        Flag("label", "labels", "Attach a label", "", "NAME[=VALUE]", values.parse_label,
             repeat=True),
        Flag("load", "load", "Accepted: the image goes into the store anyway"),
        Flag("memory", "memory", "Most memory of each RUN", "m", "SIZE", values.parse_size),
        Flag("metadata-file", "metadata", "Write the result's ids and digests to a file, as JSON",
             "", "FILE"),
        Flag("network", "network", "Of RUN: default, none, host, or a network's name", "",
             "NETWORK"),
        Flag("no-cache", "no_cache", "Do every step anew"),
        Flag("no-cache-filter", "no_cache_stages", "Do the steps of these stages anew", "",
             "STAGE[,STAGE...]", repeat=True),
        Flag("output", "output", "As files: type=tar|local|oci|docker,dest=FILE, a directory, or "
             "-; to registries: type=registry", "o", "DEST", output.parse_output),
        Flag("platform", "platforms", "Another than this host's, or several: "
             "linux/amd64,linux/arm64", "", "PLATFORM[,PLATFORM...]", parse_platforms,
             repeat=True),
        Flag("progress", "progress", "auto, plain, tty, json or quiet", "", "KIND", parse_progress,
             default="auto"),
        Flag("provenance", "provenance", "Accepted as false: there are no attestations", "",
             "false", output.parse_attestation),
        Flag("pull", "pull", "Look for newer base images"),
        Flag("push", "push", "Send the image to the registries of its names, too"),
        Flag("quiet", "quiet", "Show nothing but the image's id", "q"),
        Flag("rm", "rm", "Accepted: machines of steps are always removed", default=True),
        Flag("sbom", "sbom", "Accepted as false: there are no attestations", "", "false",
             output.parse_attestation),
        Flag("secret", "secrets", "A file or variable for RUN --mount=type=secret", "",
             "id=NAME[,src=FILE]", repeat=True),
        Flag("shm-size", "shm", "Size of /dev/shm of each RUN", "", "SIZE", values.parse_size),
        Flag("ssh", "agents", "An agent for RUN --mount=type=ssh, and for ADD of git over ssh: "
             "default is yours", "", "default|ID[=SOCKET]", repeat=True),
        Flag("tag", "tags", "A name for the image", "t", "NAME[:TAG]", repeat=True),
        Flag("target", "target", "Build this stage, not the last one", "", "STAGE"),
        Flag("ulimit", "ulimits", "A limit of each process", "", "NAME=SOFT[:HARD]",
             grants.parse_ulimit, repeat=True),
    ),
    words="PATH|URL|-",
    least=1,
    most=1,
    group="Images",
    refused=REFUSED,
    about="PATH is the build context: what COPY can take. URL is that of an archive, of a "
    "Dockerfile or of a git repository (#REF:FOLDER). - reads an archive, or a Dockerfile alone, "
    "from standard input. Steps run as machines; what they made is kept, and taken again where "
    "nothing changed: cove builder prune forgets it.",
)  # fmt: skip
