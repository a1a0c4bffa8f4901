"""Command lines with the answers Docker gave to them, and where cove's answer is meant to differ.

``cases/<topic>.json`` holds the command lines in the shell's words; ``box`` stands for ``docker``
or ``cove``. ``code``, ``out`` and ``err`` (whether anything was said) are Docker's; a case that has
a ``why`` holds cove's own beside them, and its reason stands in ``cases/reasons.json``.
``python -m tests.clients.as_docker docs`` writes docs/docker.md anew; ``record`` asks the dockerd
of DOCKER_HOST again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.driver import ROOT, busybox_tar, front_path

CASES = Path(__file__).parent / "cases"
DOCUMENT = ROOT / "docs/docker.md"
TOPICS = (
    "process", "inside", "mounts", "life", "change", "look", "images", "disk", "watch", "files",
)  # fmt: skip

PRELUDE = """
box() {
    case $1 in
    run|create) local verb=$1; shift; "$BOX" $verb --network none "$@" ;;
    *) "$BOX" "$@" ;;
    esac
}
front() {
    local children=/proc/$1/task/$1/children
    until test "$(cat $children)"; do sleep 0.01; done
    cat $children
}
says() { until box logs $1 2>&1 | grep -q "$2"; do sleep 0.05; done; }
"""

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/sh
ada:x:1000:1000:Ada:/home/ada:/bin/sh
bob:x:1001:100:Bob:/home/bob:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""
GROUP = """\
root:x:0:
daemon:x:1:
ada:x:1000:
users:x:100:ada
wheel:x:10:ada,bob
audio:x:29:ada
nogroup:x:65534:
"""
RICH = (
    'ENTRYPOINT ["/bin/tool","entry"]',
    'CMD ["one","two"]',
    "ENV A=image B=two",
    "WORKDIR /srv/data",
    "USER ada",
    "LABEL kind=rich",
    "EXPOSE 80/tcp 53/udp",
)


@dataclass(frozen=True)
class Case:
    topic: str
    name: str
    do: str
    docker: dict[str, Any]
    cove: dict[str, Any]
    why: str


def cases(topic: str) -> list[Case]:
    found = json.loads((CASES / f"{topic}.json").read_text())
    return [
        Case(
            topic,
            case["case"],
            "\n".join(case["do"]),
            case["docker"],
            case.get("cove", case["docker"]),
            case.get("why", ""),
        )
        for case in found
    ]


def reasons() -> dict[str, str]:
    found: dict[str, str] = json.loads((CASES / "reasons.json").read_text())
    return found


def root_tar(scratch: Path) -> Path:
    """The root file system of both images: busybox and a few users."""
    files = {
        "etc/passwd": PASSWD,
        "etc/group": GROUP,
        "bin/tool": '#!/bin/sh\necho "tool: $0 $*"\n',
        "srv/data/old": "not a program\n",
    }
    extra = {}
    for name, text in files.items():
        extra[name] = scratch / name.replace("/", "-")
        extra[name].write_text(text)
    return busybox_tar(scratch / "box.tar", extra=extra)


def images(program: str, tar: Path, env: dict[str, str]) -> None:
    changes = [word for change in RICH for word in ("-c", change)]
    for words in (("-c", 'CMD ["sh"]', "-", "box:1"), (*changes, "-", "rich:2")):
        with tar.open("rb") as file:
            subprocess.run(
                [program, "import", *words], env=env, check=True, capture_output=True, stdin=file
            )


def settled(text: str, place: str) -> str:
    """Without what is new in every run: ids and the scratch directory."""
    text = text.replace(place, "PWD")
    text = re.sub(r"\b[0-9a-f]{64}\b", "ID64", text)
    return re.sub(r"\b(?=\w*\d)[0-9a-f]{12}\b", "ID12", text)


def answer(case: Case, program: str, env: dict[str, str]) -> dict[str, Any]:
    """What the program says to the case; it leaves no machine behind."""
    place = tempfile.mkdtemp(prefix="as-", dir="/tmp")
    try:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            code = subprocess.run(
                ["bash", "-c", PRELUDE + case.do],
                env=env | {"BOX": program, "TERM": "xterm-256color"},
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                timeout=180,
            ).returncode
            out.seek(0)
            err.seek(0)
            said = settled(err.read().decode("utf-8", "replace"), place)
            text = settled(out.read().decode("utf-8", "replace"), place)
        return {"code": code, "out": text, "err": bool(said.strip()), "said": said}
    finally:
        subprocess.run(["umount", "-q", f"{place}/d/sub"], stderr=subprocess.DEVNULL)
        named = r"name=^/?(t[0-9]+|xt1)$"
        left = subprocess.run(
            [program, "ps", "-aq", "--filter", named], env=env, capture_output=True, text=True
        ).stdout.split()
        if left:
            subprocess.run([program, "rm", "-f", *left], env=env, capture_output=True)
        shutil.rmtree(place, ignore_errors=True)


# ---- the document ----

HEAD = """\
# Differences from Docker in the verbs so far

Written by `python -m tests.clients.as_docker docs` from `tests/clients/cases`, which the tests hold
cove to: {count} command lines with the answers dockerd 20.10 and the docker command 28 gave to
them. {same} of them get the same exit code, the same output and something or nothing on stderr from
cove. The others differ for the reasons below, each with the command lines that show it.
"""


def document() -> str:
    every = [case for topic in TOPICS for case in cases(topic)]
    differ = [case for case in every if case.why]
    text = HEAD.format(count=len(every), same=len(every) - len(differ))
    for key, reason in reasons().items():
        mine = [case for case in differ if case.why == key]
        text += f"\n## {key[0].upper()}{key[1:]}\n\n{reason}\n\n"
        text += "".join(f"- {case.name}: {_change(case)}\n" for case in mine)
    return text


def _change(case: Case) -> str:
    if case.docker["code"] != case.cove["code"]:
        return f"{case.docker['code']} in Docker, {case.cove['code']} in cove"
    if case.docker["out"] != case.cove["out"]:
        return "another output"
    return "said on stderr" if case.cove["err"] else "nothing is said on stderr"


def record() -> None:
    program = shutil.which("docker") or "docker"
    env = dict(os.environ)
    for topic in TOPICS:
        path = CASES / f"{topic}.json"
        found = json.loads(path.read_text())
        for case, raw in zip(cases(topic), found, strict=True):
            given = answer(case, program, env)
            raw["docker"] = {name: given[name] for name in ("code", "out", "err")}
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["record"]:
        with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
            images(shutil.which("docker") or "docker", root_tar(Path(scratch)), dict(os.environ))
        record()
    elif sys.argv[1:] == ["docs"]:
        DOCUMENT.write_text(document())
    else:
        sys.exit(f"usage: python -m tests.clients.as_docker docs|record (cove: {front_path()})")
