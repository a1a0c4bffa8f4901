"""Environment and labels, from flags and files, as Docker reads them. Pure: texts and variables are
arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cove.errors import UsageError
from cove.spec.values import bad, parse_label


def parse_env(text: str) -> str:
    """``KEY=value``, or ``KEY`` for the caller's own value."""
    name, _, _ = text.partition("=")
    if not name:
        raise bad(
            "variable", text, "it has no name", hint="write NAME=value, or NAME for your own value"
        )
    return text


def needs_caller(words: Iterable[str]) -> bool:
    """Some word takes its value from the caller's environment."""
    return any("=" not in word for word in words)


def parse_env_file(text: str, name: str) -> tuple[str, ...]:
    """The words of a file, one a line; nothing is unquoted, ``#`` lines are left out."""
    words = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = line.removesuffix("\r").lstrip()
        if not line or line.startswith("#"):
            continue
        place = f"{name}:{number}"
        if "\0" in line:
            raise UsageError(
                f"cannot read {place}: it contains a NUL character", origin=f"--env-file {name}"
            )
        if any("\udc80" <= char <= "\udcff" for char in line):
            raise UsageError(f"cannot read {place}: it is not UTF-8", origin=f"--env-file {name}")
        key, _, _ = line.partition("=")
        if not key.strip():
            raise UsageError(f"cannot read {place}: no variable name", origin=line)
        if any(char.isspace() for char in key):
            raise UsageError(
                f'cannot read {place}: the variable "{key}" contains white space',
                origin=line,
                hint="write NAME=value without spaces around =",
            )
        words.append(line)
    return tuple(words)


def resolve_env(words: Iterable[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """``KEY=value`` words; a bare ``KEY`` takes the caller's value, or stays bare where the caller
    has none: it takes the image's variable away. The last of a name wins."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, _ = word.partition("=")
        found[name] = word if equals or name not in environ else f"{name}={environ[name]}"
    return tuple(found.values())


def parse_label_file(text: str, name: str) -> tuple[tuple[str, str], ...]:
    labels = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = line.removesuffix("\r").lstrip()
        if line and not line.startswith("#"):
            try:
                labels.append(parse_label(line))
            except UsageError as error:
                raise UsageError(
                    f"cannot read {name}:{number}: a label without a name", origin=line
                ) from error
    return tuple(labels)
