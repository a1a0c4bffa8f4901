"""Docker's own command, asked to do the same with cove and with a dockerd beside it, line by line.

    make test-docker                  # python -m tests.clients.beside [--write] [WORD]…

The command lines are those of ``cases.json``: real terminals (tmux), attaching and detaching,
copying, networks, volumes, events, builds, formats, virtual machines (to dockerd the same is said
without ``--isolation vm``). WORD: only cases whose name has it. (The command lines of ``../cases``
are held to recorded answers.) What is new in every run (ids, times, addresses) is made equal. Exit
code and output must be the same; the lines that only one of the two says stand in
``differences.toml`` with their reason: one that is not there, or has gone from there, fails the
run. ``--write`` writes that file anew, keeping reasons.
"""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from contextlib import suppress
from pathlib import Path

from tests.clients import as_docker
from tests.clients.as_docker import Case
from tests.clients.beside.hosts import both, missing
from tests.driver import wait_until

HERE = Path(__file__).parent
DIFFERENCES = HERE / "differences.toml"
PATIENCE = 20.0
"""Seconds for what a case has begun to end."""

TERMINAL = r"""
screen() {
    tmux -S "$TERMINAL" -f /dev/null new-session -d -x 80 -y 24 "$1; echo code \$?; exec cat"
}
keys() { tmux -S "$TERMINAL" send-keys "$@"; }
seen() { until tmux -S "$TERMINAL" capture-pane -p | grep -q "$1"; do sleep 0.05; done; }
shown() { tmux -S "$TERMINAL" capture-pane -p | sed '/^ *$/d'; tmux -S "$TERMINAL" kill-server; }
until_() { until "$@" >/dev/null 2>&1; do sleep 0.05; done; }
"""
"""tmux keeps a terminal, behind a socket of its own."""

SETTLE = (
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| ?[+-]\d\d:?\d\d( [A-Z]+)?)?", "TIME"),
    (r"\b(Less than a second|(About )?(a|an|\d+) (second|minute)s?)( ago)?", "AGO"),
    (r"\b172\.\d+\.\d+\.\d+(/\d+)?", "ADDRESS"),
    (r"\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b", "MAC"),
    (r"-> [0-9a-f]{12}\b", "-> ID12"),
    (r" {2,}", "  "),
)


def cases(words: list[str]) -> list[Case]:
    found = json.loads((HERE / "cases.json").read_text())
    made = [Case("beside", each["case"], "\n".join(each["do"]), {}, {}, "") for each in found]
    assert len({case.name for case in made}) == len(made)
    return [case for case in made if not words or any(word in case.name for word in words)]


def settle(text: str) -> list[str]:
    for pattern, name in SETTLE:
        text = re.sub(pattern, name, text)
    return [line.rstrip() for line in text.splitlines()]


def asked(case: Case, env: dict[str, str]) -> list[str]:
    """What came out, and the exit code as the last line."""
    case = Case(case.topic, case.name, TERMINAL.strip() + "\n" + case.do, {}, {}, "")
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        terminal = f"{scratch}/t"
        try:
            given = as_docker.answer(case, "docker", env | {"TERMINAL": terminal})
        except subprocess.TimeoutExpired:
            given = {"code": "waited in vain", "out": ""}
        finally:
            end = ["tmux", "-S", terminal, "kill-server"]
            subprocess.run(end, capture_output=True, check=False)
    return [*settle(given["out"]), f"exit code {given['code']}", *left(env)]


def left(env: dict[str, str]) -> list[str]:
    """Containers that a case leaves to the next one; what ``--rm`` removes may take its time."""
    with suppress(AssertionError):
        wait_until(lambda: not _docker(env, "ps", "-aq"), "their end", seconds=PATIENCE)
    ids = _docker(env, "ps", "-aq")
    if ids:
        _docker(env, "rm", "-f", *ids)
    return [f"{len(ids)} left behind"] if ids else []


def _docker(env: dict[str, str], *words: str) -> list[str]:
    done = subprocess.run(["docker", *words], env=env, capture_output=True, text=True, check=False)
    return done.stdout.split()


Difference = dict[str, list[str]]


def apart(docker: list[str], cove: list[str]) -> Difference:
    """The lines that only one of the two says."""
    found: Difference = {"docker": [], "cove": []}
    for _, a, b, c, d in difflib.SequenceMatcher(a=docker, b=cove, autojunk=False).get_opcodes():
        if docker[a:b] != cove[c:d]:
            found["docker"] += docker[a:b]
            found["cove"] += cove[c:d]
    return found


def compare(every: list[Case]) -> dict[str, Difference]:
    found: dict[str, Difference] = {}
    lines = 0
    with both() as envs:
        for case in every:
            docker, cove = (asked(case, envs[name]) for name in ("docker", "cove"))
            lines += len(docker)
            if docker != cove:
                found[case.name] = apart(docker, cove)
            print(f"{'differs' if docker != cove else 'same   '}  {case.name}", flush=True)
    same = len(every) - len(found)
    print(f"{len(every)} cases, {lines} lines; {same} cases with the same answer, line by line")
    return found


# ---- what is known ----


def read_known() -> dict[str, dict[str, object]]:
    return tomllib.loads(DIFFERENCES.read_text())


def write_known(found: dict[str, Difference], known: dict[str, dict[str, object]]) -> None:
    def quoted(text: object) -> str:
        return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

    out = "# Lines that only dockerd or only cove says: `python -m tests.clients.beside --write`\n"
    for name, each in found.items():
        out += f"\n[{quoted(name)}]\nwhy = {quoted(known.get(name, {}).get('why', ''))}\n"
        for who, lines in each.items():
            out += f"{who} = [{''.join(f'{chr(10)}  {quoted(line)},' for line in lines)}"
            out += "\n]\n" if lines else "]\n"
    DIFFERENCES.write_text(out)


def judge(found: dict[str, Difference], names: set[str]) -> int:
    """How many are not as they are listed."""
    known = {name: each for name, each in read_known().items() if name in names}
    wrong = 0
    for name in sorted(set(found) | set(known)):
        listed = known.get(name, {})
        if name not in found:
            print(f"FAILED  {name}: listed as different, and the same")
        elif {who: listed.get(who) for who in found[name]} != found[name]:
            shown = [f"  {who}: {line}" for who in found[name] for line in found[name][who]]
            print(f"FAILED  {name}: not as listed", *shown, sep="\n")
        elif not listed.get("why"):
            print(f"FAILED  {name}: no reason is given")
        else:
            continue
        wrong += 1
    return wrong


def main(words: list[str]) -> int:
    if absent := missing():
        print(f"not installed: {', '.join(absent)} (Debian: docker.io, containerd, runc, tmux)")
        return 1
    write = "--write" in words
    every = cases([word for word in words if word != "--write"])
    names = {case.name for case in every}
    found = compare(every)
    known = read_known()
    if stale := sorted(set(known) - {case.name for case in cases([])}):
        print(f"FAILED  listed, and no such case: {', '.join(stale)}")
    if write:
        kept = {n: {k: v for k, v in each.items() if k != "why"} for n, each in known.items()
                if n not in names}  # fmt: skip
        write_known(kept | found, known)  # type: ignore[arg-type]
        return 0
    return 1 if judge(found, names) or stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
