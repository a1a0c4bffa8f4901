"""One parser for each instruction: from its words to its data. Pure.

``PARSERS`` is the table of all of them. What BuildKit refuses is refused here, and what it drops
without a word (flags of ARG and STOPSIGNAL, an ``ONBUILD`` whose instruction is wrong) as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from cove.build.dockerfile import instructions as i
from cove.build.dockerfile import words
from cove.build.dockerfile.flags import Flags
from cove.build.dockerfile.heredoc import Heredoc, opening
from cove.build.dockerfile.mounts import check_mount
from cove.build.source import Place, fault
from cove.spec.suggest import did_you_mean

_STAGE = re.compile(r"[a-z][a-z0-9\-_.]*")
_NANOSECONDS = {
    "ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6,
    "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip
_DURATION = re.compile(r"(\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})(ns|us|µs|μs|ms|s|m|h)")
NETWORKS = ("default", "none", "host")
SECURITY = ("sandbox", "insecure")


@dataclass(frozen=True, slots=True)
class Request:
    """A line that has been cut: what a parser is given."""

    place: Place
    keyword: str
    code: str
    comments: tuple[str, ...]
    flags: Flags
    args: str
    heredocs: tuple[Heredoc, ...]
    escape: str

    @property
    def name(self) -> str:
        return self.keyword.upper()

    @property
    def base(self) -> tuple[Place, str, str, tuple[str, ...]]:
        """The fields that all instructions have."""
        return self.place, self.keyword, self.code, self.comments

    def fault(self, reason: str, hint: str = "") -> Exception:
        return fault(self.place, reason, hint=hint)

    def json(self) -> tuple[str, ...] | None:
        try:
            found = words.json_words(self.args)
        except words.NotStrings:
            raise self.fault(
                f"the list of {self.name} holds something else than strings",
                'write every word in double quotes: ["make", "-j", "4"]',
            ) from None
        if found and any("\0" in word for word in found):
            raise self.fault("it contains a NUL character")
        return found

    def listed(self) -> list[str]:
        """A JSON list, or words at blanks."""
        found = self.json()
        return words.split_blanks(self.args) if found is None else list(found)

    def command(self) -> i.Command:
        found = self.json()
        return i.Command((self.args,), True) if found is None else i.Command(found, False)

    def single(self) -> str:
        if not self.args:
            raise self.fault(f"{self.name} needs exactly one argument")
        return self.args

    def some(self) -> None:
        if not self.args:
            raise self.fault(f"{self.name} needs at least one argument")


# ---- stages and variables ----


def parse_from(request: Request) -> i.From:
    found = words.split_blanks(request.args)
    if len(found) not in (1, 3) or (len(found) == 3 and found[1].lower() != "as"):
        raise request.fault(
            "FROM has one argument, or three", "write FROM image, or FROM image AS name"
        )
    image, *named = found
    stage = named[1].lower() if named else ""
    if stage and not _STAGE.fullmatch(stage):
        raise request.fault(
            f'a stage cannot be called "{named[1]}"',
            "a stage's name begins with a letter and has letters, digits, - _ and . in it",
        )
    typed = (named[0], named[1]) if named else ("", "")
    return i.From(*request.base, image, stage, request.flags.text("platform"), typed)


def parse_arg(request: Request) -> i.Arg:
    request.some()
    found = []
    for word in words.split_quoted(request.args, request.escape):
        name, equals, value = word.partition("=")
        if not name:
            raise request.fault(f"{word} has no name in front of =", "write ARG name=default")
        found.append(i.Argument(name, value if equals else None))
    return i.Arg(*request.base, tuple(found))


def _pairs(request: Request) -> tuple[i.Pair, ...]:
    """``name=value ...``, or the old ``name value``, told apart by the first word."""
    request.some()
    found = words.split_quoted(request.args, request.escape)
    if found and "=" not in found[0]:
        name, value = words.split_first(request.args)
        if value is None:
            raise request.fault(
                f"{request.name} {name} has no value", f"write {request.name} {name}=value"
            )
        return (i.Pair(name, value, legacy=True),)
    pairs = []
    for word in found:
        name, equals, value = word.partition("=")
        if not equals:
            raise request.fault(
                f'"{word}" has no =', "write name=value, and quotes around a value with blanks"
            )
        if not name:
            raise request.fault(f"{word} has no name in front of =")
        pairs.append(i.Pair(name, value))
    return tuple(pairs)


def parse_env(request: Request) -> i.Env:
    return i.Env(*request.base, _pairs(request))


def parse_label(request: Request) -> i.Label:
    return i.Label(*request.base, _pairs(request))


# ---- commands ----


def parse_run(request: Request) -> i.Run:
    flags = request.flags
    if flags.many("device"):
        raise request.fault(
            "--device of RUN is not supported", "devices of a build step are not here yet"
        )
    network, security = flags.text("network", "default"), flags.text("security", "sandbox")
    for kind, value, known in (("network", network, NETWORKS), ("security", security, SECURITY)):
        if value not in known:
            hint = did_you_mean(value, known) or f"it is {' or '.join(known)}"
            raise request.fault(f'--{kind} of RUN cannot be "{value}"', hint)
    for mount in flags.many("mount"):
        check_mount(mount, request.place)
    command = request.command()
    if not command.words:
        raise request.fault("RUN has no command")
    return i.Run(*request.base, command, request.heredocs, flags.many("mount"), network, security)


def parse_cmd(request: Request) -> i.Cmd:
    return i.Cmd(*request.base, request.command())


def parse_entrypoint(request: Request) -> i.Entrypoint:
    return i.Entrypoint(*request.base, request.command())


def parse_shell(request: Request) -> i.Shell:
    request.some()
    found = request.json()
    if found is None:
        raise request.fault(
            "SHELL takes its JSON form only", 'write SHELL ["/bin/bash", "-o", "pipefail", "-c"]'
        )
    if not found:
        raise request.fault("SHELL needs at least one argument")
    return i.Shell(*request.base, found)


def parse_healthcheck(request: Request) -> i.Healthcheck:
    request.some()
    kind, rest = words.split_first(request.args)
    if kind.upper() == "NONE":
        if rest:
            raise request.fault("HEALTHCHECK NONE takes no arguments")
        return i.Healthcheck(*request.base, ("NONE",))
    if kind.upper() != "CMD":
        raise request.fault(
            f'HEALTHCHECK cannot be "{kind}"', "write HEALTHCHECK CMD command, or HEALTHCHECK NONE"
        )
    inner = Request(*request.base, request.flags, rest or "", (), request.escape)
    command = inner.command()
    if not any(command.words):
        raise request.fault("HEALTHCHECK CMD has no command")
    test = ("CMD-SHELL" if command.shell else "CMD", *command.words)
    return i.Healthcheck(
        *request.base,
        test,
        _interval(request, "interval"),
        _interval(request, "timeout"),
        _interval(request, "start-period"),
        _interval(request, "start-interval"),
        _retries(request),
    )


def _interval(request: Request, name: str) -> int:
    """Nanoseconds, as Go reads a time."""
    text = request.flags.text(name)
    if text in ("", "0", "+0", "-0"):
        return 0
    negative, body = text.startswith("-"), text[1:] if text[0] in "+-" else text
    total, end = 0, 0
    for match in _DURATION.finditer(body):
        if match.start() != end:
            break
        whole, _, part = match[1].partition(".")
        unit = _NANOSECONDS[match[2]]
        total += int(whole or 0) * unit + int(part or 0) * unit // 10 ** len(part)
        end = match.end()
    if not body or end != len(body) or total >= 1 << 63:
        raise request.fault(
            f'--{name} "{text}" is not a time with a unit', "write 90s, 5m or 1h30m"
        )
    if total and (negative or total < 10**6):
        raise request.fault(f"--{name} cannot be less than 1ms")
    return total


def _retries(request: Request) -> int:
    text = request.flags.text("retries")
    if not text:
        return 0
    if not re.fullmatch(r"\+?[0-9]{1,10}", text) or int(text) >= 1 << 31:
        raise request.fault(f'--retries "{text}" is not a whole number from 0 on')
    return int(text)


# ---- files ----


def parse_copy(request: Request) -> i.Copy:
    flags = request.flags
    return i.Copy(*_transfer(request), flags.text("from"), bool(flags.switch("parents")))


def parse_add(request: Request) -> i.Add:
    flags = request.flags
    checksum, keep = flags.text("checksum"), flags.switch("keep-git-dir")
    return i.Add(*_transfer(request), checksum, keep, flags.switch("unpack"))


_Transfer = tuple[
    Place, str, str, tuple[str, ...], tuple[str, ...], tuple[i.Document, ...],
    str, str, str, bool, tuple[str, ...],
]  # fmt: skip
"""The fields of ``instructions.Transfer``, in their order."""


def _transfer(request: Request) -> _Transfer:
    found = request.listed()
    if len(found) < 2:
        raise request.fault(
            f"{request.name} needs a source and a target", f"write {request.name} source target"
        )
    *sources, target = found
    if opening(target):
        raise request.fault(f"a here-document cannot be the target of {request.name}")
    bodies = {doc.name: doc for doc in request.heredocs}
    documents, files = [], []
    for source in sources:
        doc = opening(source)
        if doc is None:
            files.append(source)
        elif body := bodies.get(doc.name):
            documents.append(i.Document(doc.name, body.body, body.expand))
    if len(documents) != len(request.heredocs):
        raise request.fault(
            f"a here-document of {request.name} is called by one word",
            "write <<NAME without blanks",
        )
    flags = request.flags
    chown, chmod, link = flags.text("chown"), flags.text("chmod"), bool(flags.switch("link"))
    own = (tuple(files), tuple(documents), target, chown, chmod, link, flags.many("exclude"))
    return (*request.base, *own)


def parse_volume(request: Request) -> i.Volume:
    request.some()
    paths = tuple(path.strip(words.SPACES) for path in request.listed())
    if not paths or not all(paths):
        raise request.fault("a path of VOLUME is empty")
    return i.Volume(*request.base, paths)


# ---- plain settings ----


def parse_expose(request: Request) -> i.Expose:
    request.some()
    return i.Expose(*request.base, tuple(words.split_blanks(request.args)))


def parse_workdir(request: Request) -> i.Workdir:
    return i.Workdir(*request.base, request.single())


def parse_user(request: Request) -> i.User:
    return i.User(*request.base, request.single())


def parse_stopsignal(request: Request) -> i.StopSignal:
    return i.StopSignal(*request.base, request.single())


def parse_maintainer(request: Request) -> i.Maintainer:
    return i.Maintainer(*request.base, request.single())


PARSERS: dict[str, Callable[[Request], i.Instruction]] = {
    "ADD": parse_add,
    "ARG": parse_arg,
    "CMD": parse_cmd,
    "COPY": parse_copy,
    "ENTRYPOINT": parse_entrypoint,
    "ENV": parse_env,
    "EXPOSE": parse_expose,
    "FROM": parse_from,
    "HEALTHCHECK": parse_healthcheck,
    "LABEL": parse_label,
    "MAINTAINER": parse_maintainer,
    "RUN": parse_run,
    "SHELL": parse_shell,
    "STOPSIGNAL": parse_stopsignal,
    "USER": parse_user,
    "VOLUME": parse_volume,
    "WORKDIR": parse_workdir,
}
"""ONBUILD is not here: it holds another instruction (``file.parse_instruction``)."""
