"""What a command is: flags from the table, words, help, and the function that carries it out.

click keeps the tree of commands and lays out help; nothing here prints, since click's own echo
writes to the process's stdout, which no caller sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from cove.cli import parse
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.errors import UsageError
from cove.spec.flags import Flag


@dataclass(frozen=True, slots=True)
class Typed:
    """A command line, read."""

    values: Mapping[str, Any]
    """Field of a flag to its value."""
    words: tuple[str, ...]
    flags: parse.Typed = ()

    def on(self, field: str) -> bool:
        return bool(self.values.get(field))

    def text(self, field: str, default: str = "") -> str:
        return str(self.values.get(field, default))


Action = Callable[[Typed, Terminal, Client], int | None]
"""Carries a command out: its exit code, or None once the caller's session belongs to a monitor."""


class Command(click.Command):
    def __init__(
        self,
        name: str,
        action: Action,
        *,
        help: str,
        flags: Sequence[Flag] = (),
        words: str = "",
        least: int | None = None,
        most: int | None = None,
        interspersed: bool = True,
        group: str = "",
        about: str = "",
        refused: Mapping[str, tuple[str, bool]] | None = None,
        refused_short: Mapping[str, str] | None = None,
    ) -> None:
        """``words`` is the usage of what follows the flags, and says how many there are unless
        ``least`` and ``most`` do.
        """
        super().__init__(
            name,
            params=[_option(flag) for flag in flags],
            help=help,
            add_help_option=False,
            options_metavar="[OPTIONS]" if flags else "",
        )
        self.action, self.flags, self.words = action, tuple(flags), words
        fewest, greatest = _count(words)
        self.least = fewest if least is None else least
        self.most = greatest if most is None else most
        self.interspersed = interspersed
        self.heading, self.about = group, about
        self.spellings = parse.spellings(flags, refused or {}, refused_short or {})

    def read(self, path: str, args: Sequence[str]) -> Typed:
        """The typed flags and words, judged; ``path`` is how the command was called."""
        flags, words = self._scan(path, args)
        if not self.least <= len(words) <= (len(words) if self.most is None else self.most):
            raise self._wrong_words(path, words)
        return Typed(parse.read_values(flags), words, flags)

    def _scan(self, path: str, args: Sequence[str]) -> tuple[parse.Typed, tuple[str, ...]]:
        try:
            return parse.scan(args, self.spellings, interspersed=self.interspersed)
        except UsageError as error:
            error.hint = error.hint or f"{path} --help lists the flags"
            raise

    def _wrong_words(self, path: str, words: tuple[str, ...]) -> UsageError:
        usage = f"{path} {self.words}".rstrip()
        if len(words) < self.least:
            missing = self.words.split()[len(words)].strip("[].").partition("[")[0]
            return UsageError(f"cannot run {path}: {missing} is missing", hint=usage)
        return UsageError(
            f'cannot read "{words[self.most or 0]}": {path} takes no more words', hint=usage
        )

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(
            ctx.command_path, f"{self.options_metavar or ''} {self.words}".strip(), prefix="Usage: "
        )

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text(self.help or "")
        if self.about:
            formatter.write_paragraph()
            formatter.write_text(self.about)
        groups = dict.fromkeys(flag.group for flag in self.flags)
        for group in sorted(groups, key=lambda name: name != "General"):
            rows = [(_left(f), _right(f)) for f in self.flags if f.group == group]
            with formatter.section("Options" if group == "General" else group):
                formatter.write_dl(rows, col_max=34)


def _count(words: str) -> tuple[int, int | None]:
    """How many words a usage asks for and takes at most, None: any number. Brackets are what may be
    left out, a ``|`` that stands alone begins another form.
    """
    first = words.partition(" | ")[0].split()
    least = sum(not word.startswith("[") for word in first)
    return least, None if "..." in words else len(first)


def _left(flag: Flag) -> str:
    short = f"-{flag.short}, " if flag.short else "    "
    return f"{short}--{flag.name} {flag.metavar}".rstrip()


def _right(flag: Flag) -> str:
    if flag.default is None:
        return flag.help
    default = str(flag.default).lower() if isinstance(flag.default, bool) else flag.default
    return f"{flag.help} (default {default})"


def _option(flag: Flag) -> click.Option:
    """For help and completion; values are read by ``parse``."""
    return click.Option(
        [flag.name.replace("-", "_"), *flag.spellings],
        help=flag.help,
        is_flag=flag.switch,
        multiple=flag.repeat and not flag.switch,
        metavar=flag.metavar or None,
        type=click.UNPROCESSED,
    )


class Group(click.Group):
    """Commands under one word; ``later`` names those that are not here, with why, and ``instead``
    what does their work.
    """

    def __init__(
        self,
        name: str,
        commands: Mapping[str, click.Command],
        *,
        help: str,
        group: str = "",
        flags: Sequence[Flag] = (),
        later: Mapping[str, str] | None = None,
        instead: Mapping[str, str] | None = None,
        hidden: bool = False,
        about: str = "",
    ) -> None:
        super().__init__(
            name, commands=dict(commands), help=help, add_help_option=False, hidden=hidden
        )
        self.heading, self.about = group, about
        self.later, self.instead = later or {}, instead or {}
        self.flags = tuple(flags)
        self.spellings = parse.spellings(flags)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] COMMAND", prefix="Usage: ")
        formatter.write_paragraph()
        formatter.write_text(self.help or "")
        if self.about:
            formatter.write_paragraph()
            formatter.write_text(self.about)
        shown = {n: c for n, c in self.commands.items() if not c.hidden}
        for group in dict.fromkeys(getattr(c, "heading", "") for c in shown.values()):
            rows = [
                (name, command.help or "")
                for name, command in shown.items()
                if getattr(command, "heading", "") == group
            ]
            with formatter.section(group or "Commands"):
                formatter.write_dl(rows)
        if self.flags:
            with formatter.section("Options"):
                formatter.write_dl([(_left(f), _right(f)) for f in self.flags])


def help_text(command: click.Command, path: str, width: int) -> str:
    """The help page; ``width`` columns, never asked of the process's own terminal."""
    width = max(40, min(width or 80, 120))
    ctx = click.Context(command, info_name=path, terminal_width=width, max_content_width=width)
    return command.get_help(ctx) + "\n"
