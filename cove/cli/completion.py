"""``completion``: a script for bash, zsh or fish that asks ``cove __complete`` what may follow.

Where ``docker`` is a link to ``cove`` it is completed, too.

What is offered has only characters that no shell gives a meaning to, and the scripts evaluate
nothing: a machine or image with a hostile name is not offered at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import click

from cove.cli.command import Command, Group, Typed
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.engine.calls.networks import NetworkList
from cove.engine.calls.snapshots import SnapshotList
from cove.errors import CoveError, UsageError, one_line
from cove.shown import filters
from cove.shown.events import KEYS
from cove.spec.flags import Flag
from cove.spec.suggest import did_you_mean

WORDS, FILES, OPEN = ":words", ":files", ":open"
"""The first line of an answer: what follows is all; files may follow too; the word goes on."""
_HARMLESS = re.compile(r"[A-Za-z0-9_.,:/@%+=-]+")

BASH = r"""# bash completion for cove
_cove() {
    local line=${COMP_LINE:0:COMP_POINT} kind= answer current cut
    local -a words
    line=${COMP_WORDS[0]}${line#*"${COMP_WORDS[0]}"}
    IFS=$' \t\n' read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current=${words[${#words[@]} - 1]}
    # readline has cut the word at these already, and puts what we answer behind the last one
    cut=${current%"${current##*[:=]}"}
    COMPREPLY=()
    while IFS= read -r answer; do
        answer=${answer%%$'\t'*}
        if [[ -z $kind ]]; then
            kind=$answer
        elif [[ $COMP_WORDBREAKS == *:* ]]; then
            COMPREPLY+=("${answer#"$cut"}")
        else
            COMPREPLY+=("$answer")
        fi
    done < <("${words[0]}" __complete -- "${words[@]:1}" 2> /dev/null)
    case $kind in
    :files) compopt -o default 2> /dev/null ;;
    :open) compopt -o nospace 2> /dev/null ;;
    esac
    return 0
}
complete -F _cove cove
if [[ $(readlink -f -- "$(type -P docker)") == */cove ]]; then complete -F _cove docker; fi
"""

ZSH = r"""#compdef cove
# zsh completion for cove
_cove() {
    local -a answers values shown
    local answer kind
    answers=("${(@f)$("${words[1]}" __complete -- "${(@)words[2,CURRENT-1]}" "$PREFIX" \
        2> /dev/null)}")
    kind=$answers[1]
    for answer in "${(@)answers[2,-1]}"; do
        [[ -n $answer ]] || continue
        values+=("${answer%%$'\t'*}")
        shown+=("${answer/$'\t'/  -- }")
    done
    (( $#values )) && case $kind in
    :open) compadd -S '' -l -d shown -- "${(@)values}" ;;
    *) compadd -l -d shown -- "${(@)values}" ;;
    esac
    [[ $kind == :files ]] && _files
}
if [[ $funcstack[1] == _cove ]]; then
    _cove "$@"
else
    compdef _cove cove
    if [[ ${${commands[docker]-}:A:t} == cove ]]; then compdef _cove docker; fi
fi
"""

FISH = r"""# fish completion for cove
function __cove_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l answers (command $words[1] __complete -- $words[2..-1] "$current" 2> /dev/null)
    for answer in $answers[2..-1]
        printf '%s\n' $answer
    end
    if test "$answers[1]" = :files
        __fish_complete_path "$current"
    end
end
complete -c cove -f -a '(__cove_complete)'
if string match -q '*/cove' (realpath (command -s docker; or echo /))
    complete -c docker -f -a '(__cove_complete)'
end
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completion(typed: Typed, terminal: Terminal, client: Client) -> int:
    shell = typed.words[0]
    if shell not in SCRIPTS:
        raise UsageError(
            f'cannot complete in "{shell}": no such shell',
            hint=did_you_mean(shell, SCRIPTS) or f"the shells are {', '.join(sorted(SCRIPTS))}",
        )
    terminal.write(SCRIPTS[shell])
    return 0


# ---- what may follow ----


Tree = Callable[[], Group]


@dataclass(frozen=True, slots=True)
class Answer:
    words: tuple[tuple[str, str], ...] = ()
    """Each with what it means."""
    kind: str = WORDS


def complete(tree: Tree, typed: Typed, terminal: Terminal, client: Client) -> int:
    *before, current = typed.words or ("",)
    answer = follow(tree(), before, current, client)
    offered = {
        word: meaning
        for word, meaning in answer.words
        if word.startswith(current) and _HARMLESS.fullmatch(word)
    }
    lines = (f"{word}\t{one_line(meaning)}".rstrip() for word, meaning in offered.items())
    terminal.write("".join(f"{line}\n" for line in (answer.kind, *lines)))
    return 0


def follow(group: Group, before: Sequence[str], current: str, client: Client) -> Answer:
    """What may stand in the place of ``current``, after these words of a command line."""
    found: click.Command = group
    words, path = list(before), ""
    while isinstance(found, Group):
        _, words, pending = _past_flags(found.flags, words, interspersed=False)
        if pending is not None:
            return _value(pending, "", current)
        if not words:
            if current.startswith("-"):
                return Answer(tuple(_flags(found.flags)))
            shown = sorted((n, c) for n, c in found.commands.items() if not c.hidden)
            return Answer(tuple((name, command.help or "") for name, command in shown))
        if words[0] not in found.commands:
            return Answer()
        path = words[0]
        found = found.commands[words.pop(0)]
    return (
        _arguments(found, path, words, current, client) if isinstance(found, Command) else Answer()
    )


def _past_flags(
    flags: Iterable[Flag], words: list[str], *, interspersed: bool
) -> tuple[bool, list[str], Flag | None]:
    """Whether flags may still follow, the words that are none, and the flag that wants a value."""
    by_spelling = {spelling: flag for flag in flags for spelling in flag.spellings}
    rest: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            return False, [*rest, *words[at:]], None
        if len(word) < 2 or word[0] != "-":
            rest.append(word)
            if not interspersed:
                return False, [*rest, *words[at:]], None
            continue
        flag = by_spelling.get(word) or by_spelling.get(f"-{word[-1]}" if word[1] != "-" else "")
        if flag is None or flag.switch or "=" in word:
            continue
        if at == len(words):
            return False, rest, flag
        at += 1
    return True, rest, None


def _arguments(
    command: Command, name: str, words: list[str], current: str, client: Client
) -> Answer:
    more, rest, pending = _past_flags(command.flags, words, interspersed=command.interspersed)
    if pending is not None:
        return _value(pending, name, current)
    if more and current.startswith("--") and "=" in current:
        spelled, _, value = current.partition("=")
        flag = next((f for f in command.flags if spelled in f.spellings), None)
        answer = _value(flag, name, value) if flag else Answer()
        return Answer(tuple((f"{spelled}={w}", text) for w, text in answer.words), answer.kind)
    if more and current.startswith("-"):
        return Answer((*_flags(command.flags), ("--help", "Show help")))
    return _word(_usage(command.words, len(rest)), name, set(rest), client)


def _flags(flags: Iterable[Flag]) -> Iterator[tuple[str, str]]:
    for flag in sorted(flags, key=lambda flag: flag.name):
        yield f"--{flag.name}", flag.help
    for flag in flags:
        if flag.short:
            yield f"-{flag.short}", flag.help


def _usage(usage: str, place: int) -> str:
    """What the usage line has at this place: ``IMAGE``, ``MACHINE``; the last may repeat."""
    parts = usage.split()
    if not parts or (place >= len(parts) and "..." not in parts[-1]):
        return ""
    return parts[min(place, len(parts) - 1)].strip("[].")


RUNNING = frozenset(
    ("attach", "exec", "kill", "pause", "port", "stats", "stop", "top", "unpause")
)  # fmt: skip
"""Commands for machines that run."""


def _word(usage: str, name: str, said: set[str], client: Client) -> Answer:
    try:
        if usage.startswith("MACHINE"):
            listed = client.list(calls.List(all=name not in RUNNING)).machines
            ends = ":" if usage.startswith("MACHINE:") else ""
            found = tuple(
                (m.name + ends, m.spec.image) for m in listed if m.name + ends not in said
            )
            return Answer(found, OPEN if ends else WORDS)
        if usage.startswith("SNAPSHOT"):
            kept = client.snapshot_list(SnapshotList(sizes=False)).snapshots
            return Answer(tuple((s.record.name, s.record.machine_name) for s in kept))
        if usage.startswith("NETWORK"):
            networks = client.network_list(NetworkList()).networks
            return Answer(tuple((n.record.name, n.record.subnet) for n in networks))
        if usage.startswith("IMAGE"):
            images = client.images(calls.ImageList()).images
            return Answer(tuple((tag, "") for image in images for tag in image.tags))
    except CoveError:
        return Answer()  # no daemon, or none of ours: what needs it is left out
    if usage == "SHELL":
        return Answer(tuple((shell, "") for shell in SCRIPTS))
    return Answer((), FILES) if re.search("FILE|DIR|PATH|SOURCE|TARGET", usage) else Answer()


def _named(*words: str) -> Callable[[], tuple[tuple[str, str], ...]]:
    return lambda: tuple((word, "") for word in words)


def _signals() -> tuple[tuple[str, str], ...]:
    import signal

    return tuple((s.name.removeprefix("SIG"), "") for s in signal.Signals)


def _capabilities() -> tuple[tuple[str, str], ...]:
    from cove.planner.capabilities import NAMES

    return tuple((name.removeprefix("CAP_"), "") for name in ("ALL", *NAMES))


VALUES: dict[str, Callable[[], tuple[tuple[str, str], ...]]] = {
    "isolation": _named("container", "vm"),
    "pull": _named("always", "missing", "never"),
    "network": _named("none", "host", "bridge"),
    "net": _named("none", "host", "bridge"),
    "format": _named("json", "table"),
    "type": _named("image", "container"),
    "attach": _named("stdin", "stdout", "stderr"),
    "signal": _signals,
    "stop-signal": _signals,
    "restart": _named("no", "always", "on-failure", "unless-stopped"),
    "cap-add": _capabilities,
    "cap-drop": _capabilities,
    "security-opt": _named(
        "no-new-privileges=false", "seccomp=unconfined", "systempaths=unconfined"
    ),
}
FILTERS: dict[str, tuple[str, ...]] = {
    "ps": filters.MACHINE_KEYS,
    "ls": filters.MACHINE_KEYS,
    "images": filters.IMAGE_KEYS,
    "events": KEYS,
}


def _value(flag: Flag, name: str, current: str) -> Answer:
    """What a flag may be given."""
    if flag.name == "filter":
        return Answer(tuple((f"{key}=", "") for key in FILTERS.get(name, ())), OPEN)
    if flag.name in VALUES:
        return Answer(VALUES[flag.name]())
    return Answer((), FILES if re.search("FILE|DIR|PATH|VOLUME|MOUNT", flag.metavar) else WORDS)


def _hidden(command: Command) -> Command:
    command.hidden = True
    return command


def commands(tree: Tree) -> dict[str, Command]:
    """``tree``: all commands, these included."""
    return {
        "completion": Command(
            "completion",
            completion,
            help="Print a script that completes commands, flags, machines and images",
            words="bash|zsh|fish",
            group="cove",
            about="Shells: bash, zsh, fish. For bash: source <(cove completion bash)",
        ),
        "__complete": _hidden(
            Command(
                "__complete",
                partial(complete, tree),
                help="What may follow",
                words="[WORD...]",
                interspersed=False,
            )
        ),
    }
