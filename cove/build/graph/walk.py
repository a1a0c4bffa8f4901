"""A stage, instruction by instruction: what is known grows, and steps come out. Pure.

Variables are those of the image, of ENV and of ARG, in one space, where the last one counts; the
image keeps only its own and those of ENV.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cove.build.dockerfile import instructions as i
from cove.build.expand.lexer import BadExpansion, expand_text, expand_words
from cove.build.graph.data import CopyStep, Origin, Step, WorkdirStep
from cove.build.graph.ports import exposed
from cove.build.graph.scope import Scope, expanded
from cove.build.graph.sources import absolute, sources_of
from cove.build.ignore import Ignore
from cove.build.lint.warnings import Warnings
from cove.build.source import misfit
from cove.errors import UsageError
from cove.oci.config import ImageConfig, healthcheck
from cove.oci.logins import redacted
from cove.spec.suggest import nearest_variable
from cove.spec.values import parse_signal

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VARIABLES_MAX = 2_000
ENVIRONMENT_MAX = 2 << 20
"""What Linux lets a program have of words and variables together."""
PORTS_SHOWN = 100
SHELL = ("/bin/sh", "-c")

Find = Callable[[str, i.Instruction], Origin]
"""The origin that ``--from`` or ``from=`` names; empty: the build context."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is the same for all stages."""

    scope: Scope
    escape: str
    warnings: Warnings
    ignore: Ignore | None
    patience: Callable[[], object] = bool


@dataclass(slots=True)
class State:
    """What is known after an instruction; a stage that is built on this one begins with a copy."""

    config: ImageConfig
    env: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str | None] = field(default_factory=dict)
    """Of ARG, in their order."""
    workdir_set: bool = False
    cmd_set: bool = False
    known: bool = True
    """False: on an image that is not here, whose variables may be any (``--check``)."""

    def copy(self) -> State:
        return replace(
            self,
            config=replace(self.config, onbuild=()),
            env=dict(self.env),
            arguments=dict(self.arguments),
            cmd_set=False,
        )


def state_of(config: ImageConfig, *, known: bool = True) -> State:
    """Of a base image; a program needs a PATH."""
    if not any(word.startswith("PATH=") for word in config.env):
        config = replace(config, env=(*config.env, PATH))
    config = replace(config, onbuild=())
    if config.workdir:
        config = replace(config, workdir=absolute(config.workdir))
    pairs = (word.partition("=") for word in config.env)
    return State(config, {name: value for name, _, value in pairs}, known=known)


class Walk:
    """One stage; ``step`` takes the next instruction. RUN is in ``runs``."""

    def __init__(self, rules: Rules, state: State, find: Find) -> None:
        self.rules, self.state, self.find = rules, state, find
        self.guessed = False
        """The instruction has a variable that only an image knows which is not here."""

    # ---- variables ----

    def expand(self, text: str, by: i.Instruction) -> str:
        """With the variables as they are before ``by``."""
        found = expanded(text, self.state.env, by.place, self.rules.escape)
        self.missed(found.missing, by)
        return found.text

    def missed(self, names: frozenset[str], by: i.Instruction) -> None:
        undefined = sorted(names - self.state.arguments.keys())
        if undefined and not self.state.known:
            self.guessed = True
            return
        for name in undefined:
            near = nearest_variable(name, self.state.env)
            meant = f" (did you mean ${near}?)" if near else ""
            self.rules.warnings.add("UndefinedVar", by.place, name, meant, comments=by.comments)

    def _pairs(self, by: i.Env | i.Label) -> list[tuple[str, str]]:
        """None sees the others of its line."""
        pairs = [(self.expand(p.name, by), self.expand(p.value, by)) for p in by.pairs]
        if not all(name for name, _ in pairs):
            raise misfit(by.place, f"a name of {by.name} is empty")
        return pairs

    # ---- instructions ----

    def step(self, by: i.Instruction) -> Step | None:
        """What ``by`` does; None: it leaves no trace (ONBUILD)."""
        self.rules.patience()
        match by:
            case i.Copy() | i.Add():
                return self._transfer(by)
            case i.Workdir():
                return self._workdir(by)
            case i.Onbuild():
                self._set(onbuild=(*self.state.config.onbuild, by.trigger))
                return None
            case i.Env():
                return self._env(by)
            case i.Arg():
                return self._arg(by)
            case _:
                return self._plain(by, f"{by.name} {self._setting(by)}".rstrip())

    def _plain(self, by: i.Instruction, created_by: str) -> Step:
        return Step(by.place, title_of(by), created_by)

    def _set(self, **fields: object) -> None:
        self.state.config = replace(self.state.config, **fields)  # type: ignore[arg-type]

    def _env(self, by: i.Env) -> Step:
        pairs = self._pairs(by)
        kept = dict(word.partition("=")[::2] for word in self.state.config.env)
        for name, value in pairs:
            kept[name] = self.state.env[name] = value
        self._set(env=tuple(f"{name}={value}" for name, value in kept.items()))
        self._check_size(by)
        return self._plain(by, " ".join(["ENV", *(f"{name}={value}" for name, value in pairs)]))

    def _arg(self, by: i.Arg) -> Step:
        shown = []
        for argument in by.arguments:
            name, value = argument.name, argument.value
            scope = self.rules.scope
            if name in scope.given:
                value = scope.given[name]
            elif value is not None:
                value = self.expand(value, by)
            else:
                value = scope.values.get(name)
            if value is not None:
                self.state.env[name] = value
            self.state.arguments.pop(name, None)
            self.state.arguments[name] = value
            shown.append(name if value is None else f"{name}={value}")
        self._check_size(by)
        return self._plain(by, " ".join(["ARG", *shown]))

    def _check_size(self, by: i.Instruction) -> None:
        env = self.state.env
        if len(env) > VARIABLES_MAX or len(self.state.arguments) > VARIABLES_MAX:
            raise misfit(by.place, f"there are more than {VARIABLES_MAX} variables")
        if sum(map(len, env.values())) > ENVIRONMENT_MAX:
            raise misfit(by.place, f"all variables together are over {ENVIRONMENT_MAX >> 20} MiB")

    def _setting(self, by: i.Instruction) -> str:
        """What only changes the config; the text is for the history."""
        match by:
            case i.Label():
                pairs = self._pairs(by)
                self._set(labels={**self.state.config.labels, **dict(pairs)})
                return " ".join(f"{name}={value}" for name, value in pairs)
            case i.Cmd():
                words = self._command(by)
                self._set(cmd=words)
                self.state.cmd_set = True
                return _listed(words)
            case i.Entrypoint():
                words = self._command(by)
                self._set(entrypoint=words)
                if not self.state.cmd_set:
                    self._set(cmd=())
                return _listed(words)
            case i.Shell():
                self._set(shell=by.words)
                return _listed(by.words)
            case i.Healthcheck():
                self._set(healthcheck=_health(by))
                return _listed(by.test)
            case i.Expose():
                ports = exposed(self._words(by), by, self.rules.warnings)
                known = dict.fromkeys((*self.state.config.exposed_ports, *ports))
                self._set(exposed_ports=tuple(known))
                return f"[{' '.join(ports if len(ports) <= PORTS_SHOWN else by.ports)}]"
            case i.Volume():
                paths = tuple(self.expand(path, by) for path in by.paths)
                if not all(paths):
                    raise misfit(by.place, "a path of VOLUME is empty")
                self._set(volumes=tuple(dict.fromkeys((*self.state.config.volumes, *paths))))
                return f"[{' '.join(paths)}]"
            case i.User():
                self._set(user=self.expand(by.user, by))
                return self.state.config.user
            case i.StopSignal():
                self._set(stop_signal=self._signal(by))
                return self.state.config.stop_signal
            case i.Maintainer():
                self._set(author=by.author)
                return by.author
        raise AssertionError(by.name)

    def _command(self, by: i.Cmd | i.Entrypoint) -> tuple[str, ...]:
        if not by.command.shell:
            return by.command.words
        if not self.state.config.shell:
            self.rules.warnings.add("JSONArgsRecommended", by.place, by.name, comments=by.comments)
        return self.with_shell(by.command.words)

    def with_shell(self, words: tuple[str, ...]) -> tuple[str, ...]:
        return (*(self.state.config.shell or SHELL), " ".join(words))

    def _words(self, by: i.Expose) -> tuple[str, ...]:
        found: list[str] = []
        for word in by.ports:
            self.expand(word, by)
            try:
                found += expand_words(word, self.state.env, escape=self.rules.escape)
            except BadExpansion as error:
                raise misfit(by.place, str(error), hint=error.hint) from None
        return tuple(found)

    def _signal(self, by: i.StopSignal) -> str:
        signal = self.expand(by.signal, by)
        try:
            parse_signal(signal)
        except UsageError as error:
            raise misfit(by.place, f'no signal is called "{signal}"', hint=error.hint) from None
        return signal

    # ---- files ----

    def _workdir(self, by: i.Workdir) -> Step:
        path = self.expand(by.path, by)
        if not (self.state.workdir_set or path.startswith("/") or self.guessed):
            self.rules.warnings.add("WorkdirRelativePath", by.place, path, comments=by.comments)
        self.state.workdir_set = True
        workdir = absolute(posixpath.join(self.state.config.workdir or "/", path))
        self._set(workdir=workdir)
        made = f"WORKDIR {workdir}"
        if workdir == "/":
            return self._plain(by, made)
        user = self.state.config.user
        return WorkdirStep(by.place, title_of(by), made, path=workdir, user=user)

    def _transfer(self, by: i.Copy | i.Add) -> Step:
        documents = tuple(self._document(doc, by) for doc in by.documents)
        by = replace(
            by,
            sources=tuple(self.expand(source, by) for source in by.sources),
            documents=documents,
            target=self.expand(by.target, by),
            chown=self.expand(by.chown, by),
            chmod=self.expand(by.chmod, by),
        )
        if isinstance(by, i.Add):
            by = replace(by, checksum=self.expand(by.checksum, by))
        origin = self.find(by.origin if isinstance(by, i.Copy) else "", by)
        sources = sources_of(by, origin)
        self._check_ignored(by)
        flags = [f"--chown={by.chown}"] * bool(by.chown) + [f"--chmod={by.chmod}"] * bool(by.chmod)
        words = [*flags, *by.sources, *(f"<<{doc.name}" for doc in documents), by.target]
        return CopyStep(
            by.place,
            title_of(by),
            redacted(" ".join([by.name, *words])),
            sources=sources,
            target=self.place(by.target),
            chown=by.chown,
            chmod=by.chmod,
            link=by.link,
            exclude=by.exclude,
        )

    def _document(self, doc: i.Document, by: i.Instruction) -> i.Document:
        if not doc.expand:
            return doc
        try:
            found = expand_text(doc.content, self.state.env)
        except BadExpansion as error:
            raise misfit(by.place, f"in {doc.name} {error}", hint=error.hint) from None
        self.missed(found.missing, by)
        return replace(doc, content=found.text)

    def place(self, target: str) -> str:
        """Absolute; a slash at the end stays, and ``.`` is a folder."""
        path = absolute(posixpath.join(self.state.config.workdir or "/", target))
        folder = target in ("", ".") or target.endswith(("/", "/."))
        return path if path == "/" or not folder else f"{path}/"

    def _check_ignored(self, by: i.Copy | i.Add) -> None:
        """Only without ``!``: a folder may be ignored, and something in it be kept."""
        ignore = self.rules.ignore
        if ignore is None or ignore.exceptions or (isinstance(by, i.Copy) and by.origin):
            return
        if self.guessed:
            return
        for word in by.sources:
            path = posixpath.normpath(word)
            if path in (".", "/"):
                ignored = any(one.text in ("*", "**", "**/*") for one in ignore.patterns)
            else:
                ignored = not ignore.kept(path.lstrip("/"))
            if ignored and "://" not in word:
                self.rules.warnings.add(
                    "CopyIgnoredFile", by.place, by.name.title(), path, comments=by.comments
                )


def title_of(by: i.Instruction) -> str:
    """One line, for progress."""
    code = redacted(by.code) if isinstance(by, i.Add) else by.code
    first, *more = code.split("\n", 1)
    return first if not more and len(first) <= 200 else f"{first[:200]}…"


def _listed(words: tuple[str, ...]) -> str:
    shown = ('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words)
    return f"[{' '.join(shown)}]"


def _health(by: i.Healthcheck) -> dict[str, object]:
    times = {
        "interval": by.interval,
        "timeout": by.timeout,
        "start_period": by.start_period,
        "start_interval": by.start_interval,
    }
    return healthcheck(by.test, times, by.retries)
