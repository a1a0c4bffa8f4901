"""Sources of COPY and ADD: paths, URLs, git repositories, here-documents. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from cove.build.dockerfile import instructions as i
from cove.build.graph.data import GIT, HTTP, INLINE, Git, Origin, Source
from cove.build.source import Place, misfit
from cove.errors import UsageError
from cove.spec.suggest import did_you_mean
from cove.spec.values import parse_bool

_URL = re.compile(
    r"(https?|ssh|git)://[^/?#]*([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.IGNORECASE | re.DOTALL
)
_SCP = re.compile(r"[a-zA-Z0-9_-]+@[a-zA-Z0-9.-]+:([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_CHMOD = re.compile(
    r"[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+(?:,[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+)*"
)
_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-f]{32,}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_QUERY = ("ref", "tag", "branch", "commit", "checksum", "subdir", "submodules", "keep-git-dir")


def sources_of(step: i.Copy | i.Add, origin: Origin) -> tuple[Source, ...]:
    """All of them, with their words already expanded; ``origin`` is where plain paths come from."""
    _check(step)
    found = tuple(_sources(step, origin))
    if not found:
        raise misfit(step.place, f"{step.name} has no source")
    return found


def _sources(step: i.Copy | i.Add, origin: Origin) -> Iterator[Source]:
    add = step if isinstance(step, i.Add) else None
    for word in step.sources:
        git, url = read_git(word, step.place), is_url(word)
        if git is None and not url:
            unpack = add is not None and add.unpack is not False
            yield _plain(word, step, origin, unpack=unpack)
        elif add is None:
            kind = "a URL" if git is None else "a git repository"
            raise misfit(step.place, f"COPY has {kind} as a source", hint="write ADD")
        elif git is not None:
            git = _with_flags(git, add)
            yield Source(Origin(GIT, git.remote), "/", checksum=git.checksum, git=git)
        else:
            name = posixpath.basename(_path_of(word)) or "__unnamed__"
            unpack = bool(add.unpack)
            yield Source(Origin(HTTP, word), f"/{name}", unpack=unpack, checksum=add.checksum)
    for doc in step.documents:
        if "/" in doc.name or doc.name in (".", ".."):
            raise misfit(step.place, f'a file cannot be called "{doc.name}"')
        yield Source(Origin(INLINE, doc.name), f"/{doc.name}", content=doc.content)


def _plain(word: str, step: i.Copy | i.Add, origin: Origin, *, unpack: bool) -> Source:
    if not (isinstance(step, i.Copy) and step.parents):
        return Source(origin, absolute(word), unpack=unpack)
    front, pivot, back = word.partition("/./")
    if not pivot:
        front, back = "/", word
    return Source(origin, absolute(front), pattern=absolute(back).lstrip("/"), unpack=unpack)


def absolute(path: str) -> str:
    """From the root, with nothing that leads above it."""
    return "/" + posixpath.normpath(f"/{path}").lstrip("/")


def _path_of(url: str) -> str:
    match = _URL.match(url)
    return match[2] if match else ""


def is_url(word: str) -> bool:
    return word.startswith(("http://", "https://"))


def git_of(word: str) -> tuple[Git, str] | None:
    """``ssh://``, ``git://``, ``git@host:path``; of http and https only what ends with ``.git``;
    with what stands behind its ``?``."""
    if word.startswith(("./", "../")):
        return None
    match = _URL.fullmatch(word)
    if match is not None:
        path, query, fragment = match[2], match[3], match[4]
        if match[1].lower().startswith("http") and not path.endswith(".git"):
            return None
    elif (match := _SCP.fullmatch(word)) is not None:
        path, query, fragment = match[1], match[2], match[3]
    else:
        return None
    ref, _, folder = (fragment or "").partition(":")
    git = Git(re.split(r"[?#]", word, maxsplit=1)[0], ref, absolute(folder).lstrip("/"))
    return git, query or ""


def read_git(word: str, place: Place) -> Git | None:
    """None: it is no repository."""
    found = git_of(word)
    if found is None:
        return None
    git, query = found
    git = _with_query(git, query, place) if query else git
    if git.ref.startswith("-"):
        raise misfit(place, f'"{git.ref}" is no reference of a git repository')
    return git


def _with_query(git: Git, query: str, place: Place) -> Git:
    ref, folder, checksum = git.ref, git.folder, ""
    keep, submodules = False, True
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name not in _QUERY:
            raise misfit(
                place,
                f'"{name}" in the query of a git repository is not supported',
                hint=did_you_mean(name, _QUERY) or f"there are {', '.join(_QUERY)}",
            )
        if name in ("keep-git-dir", "submodules"):
            on = _truth(name, value, place)
            keep, submodules = (on, submodules) if name == "keep-git-dir" else (keep, on)
        elif not value:
            raise misfit(place, f'"{name}" in the query of a git repository has no value')
        elif name == "subdir":
            folder = absolute(value).lstrip("/")
        elif name in ("commit", "checksum"):
            checksum = value
        elif ref:
            raise misfit(place, f"a git repository is asked for {ref} and for {value}")
        else:
            prefix = {"tag": "refs/tags/", "branch": "refs/heads/"}.get(name, "")
            ref = prefix + value.removeprefix(prefix)
    return Git(git.remote, ref, folder, keep, checksum, submodules)


def _truth(name: str, value: str, place: Place) -> bool:
    try:
        return parse_bool(value) if value else True
    except UsageError:
        raise misfit(place, f'{name} is true or false, not "{value}"') from None


def _with_flags(git: Git, add: i.Add) -> Git:
    if add.checksum and git.checksum and add.checksum != git.checksum:
        raise misfit(add.place, f"two checksums: {add.checksum} and {git.checksum}")
    if git.keep_git_dir and add.keep_git_dir is False:
        raise misfit(add.place, "--keep-git-dir=false, and keep-git-dir in the repository's query")
    keep = git.keep_git_dir or bool(add.keep_git_dir)
    checksum = add.checksum or git.checksum
    if checksum and not _COMMIT.fullmatch(checksum):
        raise misfit(add.place, f'"{checksum}" is no commit', hint="write 40 hexadecimal digits")
    return Git(git.remote, git.ref, git.folder, keep, checksum, git.submodules)


def _check(step: i.Copy | i.Add) -> None:
    """Flags whose values were expanded."""
    if step.chmod:
        octal = re.fullmatch(r"0*[0-7]{1,4}", step.chmod)
        if not octal and not _CHMOD.fullmatch(step.chmod):
            raise misfit(
                step.place,
                f'--chmod "{step.chmod}" is no mode',
                hint="write 755, 0644 or u=rwX,go=rX",
            )
    if not isinstance(step, i.Add) or not step.checksum:
        return
    if len(step.sources) != 1 or step.documents:
        raise misfit(step.place, "--checksum is for one source")
    source = step.sources[0]
    if read_git(source, step.place) is None:
        if not is_url(source):
            raise misfit(step.place, "--checksum is for a URL or a git repository")
        if not _DIGEST.fullmatch(step.checksum):
            raise misfit(
                step.place, f'--checksum "{step.checksum}" is no digest', hint="write sha256:..."
            )
