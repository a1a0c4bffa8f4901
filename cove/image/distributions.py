"""Which distributions ``cove image bootstrap`` makes, from which package sources, by which command.

The sources are the host's own where it is of the same distribution, or what ``--mirror`` names.
Nothing is run here, and nothing read but the host's apt sources.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from cove.errors import CoveError, NotFound, Unsupported, UsageError
from cove.image.host import PATH
from cove.oci.manifest import Platform, host_platform_of, parse_platform
from cove.oci.reference import Reference, parse_reference
from cove.spec.suggest import did_you_mean

VARIANTS = ("essential", "apt", "minbase", "buildd", "important", "standard")
FOLLOWING = ("", "-updates", "-security")
"""Suites that belong to one release."""

PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]+(:[a-z0-9-]+)?(/[a-z0-9.-]+|=[A-Za-z0-9.+~:-]+)?")
TOOLS = ("mmdebstrap", "debootstrap")
"""The first one that is here."""
ROOT = "/var/tmp/root"
"""Where debootstrap makes the tree, in the machine."""
MIRROR = re.compile(r"(https?|ftp)://[^\s\[\]]+")


@dataclass(frozen=True, slots=True)
class Distribution:
    name: str
    suites: tuple[str, ...]
    keyring: str
    keys_from: str
    """The package that has the keyring."""


DISTRIBUTIONS = {
    found.name: found
    for found in (
        Distribution(
            "debian",
            ("bullseye", "bookworm", "trixie", "sid", "oldstable", "stable", "testing", "unstable"),
            "/usr/share/keyrings/debian-archive-keyring.gpg",
            "debian-archive-keyring",
        ),
        Distribution(
            "ubuntu",
            ("focal", "jammy", "noble", "plucky", "questing"),
            "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
            "ubuntu-keyring",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Source:
    """One line of a sources.list."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""

    def line(self) -> str:
        options = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {options}{self.uri} {self.suite} {' '.join(self.components)}"


@dataclass(frozen=True, slots=True)
class Wish:
    """A bootstrap that makes sense."""

    reference: Reference
    distribution: Distribution
    suite: str
    variant: str
    include: tuple[str, ...]
    mirror: str
    platform: Platform | None = None
    """None: this host's."""

    def __str__(self) -> str:
        return f"{self.distribution.name}:{self.suite}"


def read_wish(
    text: str, variant: str, include: tuple[str, ...], mirror: str, platform: str = ""
) -> Wish:
    """What was typed, judged; errors say what there is."""
    distribution, reference = _distribution(text)
    if variant and variant not in VARIANTS:
        raise UsageError(
            f'cannot bootstrap {text}: there is no variant "{variant}"',
            origin=f"--variant {variant}",
            hint=did_you_mean(variant, VARIANTS) or f"the variants are {', '.join(VARIANTS)}",
        )
    packages = tuple(name for words in include for name in words.split(",") if name)
    for name in packages:
        if not PACKAGE.fullmatch(name):
            raise UsageError(
                f'cannot bootstrap {text}: "{name}" is no name of a package',
                origin=f"--include {name}",
            )
    if mirror and not MIRROR.fullmatch(mirror):
        raise UsageError(
            f'cannot bootstrap {text}: "{mirror}" is no address of package sources',
            origin=f"--mirror {mirror}",
            hint="it begins with http:// or https://",
        )
    wanted = _platform(text, platform)
    variant = variant or "minbase"
    return Wish(reference, distribution, reference.tag, variant, packages, mirror, wanted)


def hint_for(text: str, platform: str) -> str:
    """How an image of this name could be made for a platform; empty: not by a bootstrap."""
    try:
        read_wish(text, "", (), "", platform)
    except CoveError:
        return ""
    return f"cove image bootstrap --platform {platform} {text}"


DEBIAN_ARCH = {
    "amd64": "amd64", "arm64": "arm64", "arm": "armhf", "386": "i386", "riscv64": "riscv64",
    "ppc64le": "ppc64el", "s390x": "s390x",
}  # fmt: skip
"""As its packages are called, by the architecture of an image."""


def _platform(text: str, platform: str) -> Platform | None:
    if not platform:
        return None
    wanted, here = parse_platform(platform), host_platform_of()
    if wanted.os != "linux" or wanted.architecture not in DEBIAN_ARCH:
        raise UsageError(
            f"cannot bootstrap {text}: it is not made for {wanted}",
            origin=f"--platform {platform}",
            hint=f"it is made for {', '.join(f'linux/{name}' for name in DEBIAN_ARCH)}",
        )
    return None if wanted.architecture == here.architecture else wanted


def _distribution(text: str) -> tuple[Distribution, Reference]:
    known = ", ".join(DISTRIBUTIONS)
    reference = parse_reference(text, default_tag=False)
    distribution = DISTRIBUTIONS.get(reference.familiar_name)
    if distribution is None or reference.digest:
        raise UsageError(
            f"cannot bootstrap {text}: no such distribution",
            origin=text,
            hint=did_you_mean(reference.familiar_name, DISTRIBUTIONS)
            or f"there are {known}: cove image bootstrap debian:bookworm",
        )
    if reference.tag in distribution.suites:
        return distribution, reference
    what = f"{distribution.name} has no suite {reference.tag}" if reference.tag else "which suite?"
    raise UsageError(
        f"cannot bootstrap {text}: {what}",
        origin=text,
        hint=f"the suites of {distribution.name} are {', '.join(distribution.suites)}",
    )


# ---- the host ----


def tool_for(wish: Wish) -> str:
    """The program of this host that makes it, if the keys are here as well."""
    known = TOOLS if wish.platform is None else TOOLS[:1]
    tools = [tool for tool in known if shutil.which(tool, path=PATH)]
    if not tools and wish.platform is not None:
        raise Unsupported(
            f"cannot bootstrap {wish} for {wish.platform}: mmdebstrap is not installed",
            hint="apt-get install mmdebstrap",
        )
    if not tools:
        raise Unsupported(
            f"cannot bootstrap {wish}: neither mmdebstrap nor debootstrap is installed",
            hint="apt-get install mmdebstrap",
        )
    if tools[0] == "debootstrap" and wish.variant not in FLAGS:
        raise Unsupported(
            f"cannot bootstrap {wish}: debootstrap has no variant {wish.variant}",
            origin=f"--variant {wish.variant}",
            hint=f"apt-get install mmdebstrap, or choose one of {', '.join(FLAGS)}",
        )
    if not os.path.exists(wish.distribution.keyring):
        raise Unsupported(
            f"cannot bootstrap {wish}: the keys of {wish.distribution.name} are not installed",
            host=f"{wish.distribution.keyring} is missing",
            hint=f"apt-get install {wish.distribution.keys_from}",
        )
    return tools[0]


def sources_for(wish: Wish, *, root: str = "/") -> tuple[Source, ...]:
    """``--mirror``, or what the host takes its own packages from, with the wanted suite."""
    if wish.mirror:
        return (Source(wish.mirror, wish.suite, ("main",), wish.distribution.keyring),)
    every = [source for source in host_sources(root) if _official(source, wish.distribution)]
    release = next((s.suite for s in every if s.suite == wish.suite), "") or next(
        (s.suite for s in every if s.suite in wish.distribution.suites), ""
    )
    rolling = wish.suite in ("sid", "unstable")
    found = []
    for source in every:
        for more in FOLLOWING[:1] if rolling else FOLLOWING:
            if release and source.suite == release + more:
                signed_by = source.signed_by or wish.distribution.keyring
                parts = ("main",) if wish.distribution.name == "debian" else source.components
                found.append(Source(source.uri, wish.suite + more, parts, signed_by))
    if not found:
        raise NotFound(
            f"cannot bootstrap {wish}: this host has no package sources of "
            f"{wish.distribution.name}",
            host="/etc/apt/sources.list and sources.list.d",
            hint="name some: --mirror URL",
            exit_code=125,
        )
    return tuple(dict.fromkeys(found))


def _official(source: Source, distribution: Distribution) -> bool:
    """Whether it is the distribution's own: third parties use the names of its suites too."""
    suites = [suite + more for suite in distribution.suites for more in FOLLOWING]
    keys = os.path.basename(source.signed_by)
    ours = not keys or keys.startswith(f"{distribution.name}-archive")
    return "main" in source.components and source.suite in suites and ours


def host_sources(root: str = "/") -> Iterator[Source]:
    """All of the host's, of both forms."""
    apt = os.path.join(root, "etc/apt")
    listed = sorted(glob.glob(f"{apt}/sources.list.d/*"))
    for path in (f"{apt}/sources.list", *listed):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read(1 << 20)
        except OSError:
            continue
        if path.endswith(".sources"):
            yield from _stanzas(text)
        elif path.endswith(".list"):
            yield from _lines(text)


def _lines(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s+([^#]*)", line.strip())
        if match:
            options = dict(word.partition("=")[::2] for word in (match[1] or "").split())
            components = tuple(match[4].split())
            yield Source(match[2], match[3], components, options.get("signed-by", ""))


def _stanzas(text: str) -> Iterator[Source]:
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", lines):
        fields = {
            key.lower(): value.split()
            for key, value in re.findall(r"^([\w-]+):((?:.*(?:\n[ \t].*)*))", stanza, re.M)
        }
        if "deb" not in fields.get("types", ()) or fields.get("enabled", ["yes"])[0] == "no":
            continue
        signed = fields.get("signed-by", [])
        keys = signed[0] if len(signed) == 1 and signed[0].startswith("/") else ""
        for uri in fields.get("uris", ()):
            for suite in fields.get("suites", ()):
                yield Source(uri, suite, tuple(fields.get("components", ())), keys)


def command(wish: Wish, sources: tuple[Source, ...], tool: str = "mmdebstrap") -> tuple[str, ...]:
    """What runs in the machine: the tar on stdout, what it does on stderr. The names of the
    machine it runs in do not stay in the image.
    """
    if tool == "debootstrap":
        return _debootstrap(wish, sources)
    include = (f"--include={','.join(wish.include)}",) if wish.include else ()
    foreign: tuple[str, ...] = ()
    if wish.platform is not None:
        # Its own check looks for the host's handlers; the machine's are not to be seen.
        name = DEBIAN_ARCH[wish.platform.architecture]
        foreign = (f"--architectures={name}", "--skip=check/qemu")
    return (
        "mmdebstrap",
        "--mode=root",
        *foreign,
        "--verbose",
        "--format=tar",
        f"--variant={wish.variant}",
        *include,
        '--customize-hook=rm -f "$1/etc/resolv.conf" "$1/etc/hostname"',
        wish.suite,
        "-",
        *(source.line() for source in sources),
    )


FLAGS = {"minbase": ("--variant=minbase",), "buildd": ("--variant=buildd",), "important": ()}
"""debootstrap's words for the variants that it has."""

DEBOOTSTRAP = """\
set -e
lines=$1
shift
container=lxc debootstrap "$@" >&2
eval "root=\\${$(($# - 1))}"
rm -rf "$root/etc/resolv.conf" "$root/etc/hostname" "$root/var/cache/apt/archives"/*.deb \\
    "$root/var/lib/apt/lists"/*_* "$root/var/log/bootstrap.log"
printf '%s\\n' "$lines" >"$root/etc/apt/sources.list"
echo 'I: creating tarball...' >&2
exec tar -C "$root" --numeric-owner --one-file-system --xattrs --xattrs-include='*' -cf - .
"""
"""A user namespace makes no device nodes: ``container=lxc`` has it bind those of the machine. It
knows one source; the others are written down for later.
"""


def _debootstrap(wish: Wish, sources: tuple[Source, ...]) -> tuple[str, ...]:
    include = (f"--include={','.join(wish.include)}",) if wish.include else ()
    first = next((s for s in sources if s.suite == wish.suite), sources[0])
    return (
        "sh",
        "-c",
        DEBOOTSTRAP,
        "debootstrap",
        "\n".join(source.line() for source in sources),
        *FLAGS[wish.variant],
        *include,
        f"--components={','.join(first.components)}",
        f"--keyring={first.signed_by or wish.distribution.keyring}",
        wish.suite,
        ROOT,
        first.uri,
    )
