"""Completion: what may follow is offered by name, and no name can do more than be read."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cove.cli.completion import SCRIPTS
from tests.driver import Cove, front_path


def offered(cove: Cove, *words: str) -> list[str]:
    lines = cove("__complete", "--", *words).out.splitlines()
    return [line.partition("\t")[0] for line in lines[1:]]


def kind(cove: Cove, *words: str) -> str:
    return cove("__complete", "--", *words).out.splitlines()[0]


def test_commands_and_flags(cove: Cove) -> None:
    assert {"run", "ps", "stats", "events", "completion"} <= set(offered(cove, ""))
    assert "__complete" not in offered(cove, "")
    assert offered(cove, "sta") == ["start", "stats"]
    assert "ls" in offered(cove, "image", "")
    assert "--memory" in offered(cove, "run", "--me") and "-it" not in offered(cove, "run", "-")
    assert "--no-stream" in offered(cove, "stats", "aa", "--")
    assert "--root" in offered(cove, "--")
    assert offered(cove, "nosuch", "") == [] == offered(cove, "version", "", "")


def test_values_of_flags(cove: Cove) -> None:
    assert offered(cove, "run", "--isolation", "") == ["container", "vm"]
    assert offered(cove, "run", "--isolation=v") == ["--isolation=vm"]
    assert "name=" in offered(cove, "ps", "-a", "--filter", "")
    assert kind(cove, "ps", "--filter", "") == ":open"
    assert kind(cove, "run", "--env-file", "") == ":files"
    assert "TERM" in offered(cove, "kill", "-s", "T")


def test_machines_and_images(cove: Cove) -> None:
    cove("create", "--name", "done-1", "bb", "true")
    cove("run", "-d", "--name", "done-2", "bb", "sleep", "1000")
    try:
        assert offered(cove, "rm", "done") == ["done-2", "done-1"]
        assert offered(cove, "rm", "done-1", "done") == ["done-2"]
        assert offered(cove, "stop", "done") == ["done-2"]
        assert offered(cove, "run", "--rm", "-e", "A=B", "b") == ["bb:latest"]
        assert offered(cove, "run", "bb", "d") == []  # from here on it is the machine's
        assert offered(cove, "exec", "-it", "done") == ["done-2"]
    finally:
        cove("rm", "-f", "done-1", "done-2")


def bash(cove: Cove, line: str, cwd: Path, *, words: tuple[str, ...] = ()) -> list[str]:
    """What bash itself would offer for ``line``: its function, called as readline calls it."""
    script = """
        source <(cove completion bash)
        COMP_LINE=$1 COMP_POINT=${#1}; shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _cove
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    path = f"{front_path().parent}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", line, *(words or line.split(" "))],
        env=cove.env | {"PATH": path},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ran.returncode == 0 and not ran.stderr, ran.stderr
    return ran.stdout.split()


def test_bash(cove: Cove, tmp_path: Path) -> None:
    assert bash(cove, "cove sta", tmp_path) == ["start", "stats"]
    assert bash(cove, "cove run --isol", tmp_path) == ["--isolation"]
    # readline cuts words at colons and equals signs, and keeps what stands before the last
    cut = ("cove", "run", "bb", ":", "la")
    assert bash(cove, "cove run bb:la", tmp_path, words=cut) == ["latest"]
    cut = ("cove", "run", "--isolation", "=", "v")
    assert bash(cove, "cove run --isolation=v", tmp_path, words=cut) == ["vm"]
    listed = subprocess.run(
        ["bash", "--norc", "-c", "source <(cove completion bash); complete -p cove"],
        env=cove.env | {"PATH": f"{front_path().parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout == "complete -F _cove cove\n"


def test_a_link_named_docker_is_completed(cove: Cove, tmp_path: Path) -> None:
    """Docker's own command is left alone."""
    script = "source <(cove completion bash); complete -p docker"
    command = ["bash", "--norc", "-c", script]
    env = cove.env | {"PATH": f"{tmp_path}:{front_path().parent}:{os.environ['PATH']}"}
    docker = tmp_path / "docker"
    docker.symlink_to(front_path())
    listed = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert listed.stdout == "complete -F _cove docker\n" and not listed.stderr
    assert bash(cove, f"{docker} sta", tmp_path) == ["start", "stats"]
    docker.unlink()
    docker.write_text("#!/bin/sh\n")
    docker.chmod(0o755)
    assert subprocess.run(command, env=env, capture_output=True).returncode == 1


@pytest.mark.parametrize(
    "line", ["cove rm $(touch owned)", "cove rm `touch owned`", "cove rm *; touch owned", "cove \\"]
)
def test_what_was_typed_is_not_carried_out(cove: Cove, tmp_path: Path, line: str) -> None:
    bash(cove, line, tmp_path)
    assert os.listdir(tmp_path) == []


def test_hostile_names_are_not_offered(cove: Cove, monkeypatch: pytest.MonkeyPatch) -> None:
    from cove.cli import completion
    from cove.cli.command import Typed
    from cove.cli.main import root
    from cove.cli.terminal import Terminal

    names = ("good-1", "$(touch owned)", "a b", "x\ny", "`id`", "\x1b[2J", "*", "'", 'a"b', "~", "")
    answer = completion.Answer(tuple((name, "a\tb\nc") for name in names))
    monkeypatch.setattr(completion, "follow", lambda *_: answer)
    reader, writer = os.pipe()
    asked, terminal = Typed({}, ("rm", "")), Terminal((0, writer, 2))
    completion.complete(root, asked, terminal, None)  # type: ignore[arg-type]
    os.close(writer)
    with os.fdopen(reader) as file:
        assert file.read() == ":words\ngood-1\ta\\tb\\nc\n"


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_each_script_is_read_by_its_shell(cove: Cove, shell: str) -> None:
    text = cove("completion", shell).out
    assert "__complete -- " in text and "eval" not in text and "compgen -W" not in text
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    subprocess.run([shell, "-n"], input=text, text=True, check=True)


def test_no_such_shell(cove: Cove) -> None:
    assert 'cannot complete in "tcsh"' in cove("completion", "tcsh", code=125).err


def test_a_key_starts_no_daemon(tmp_path: Path) -> None:
    quiet = Cove(tmp_path / "state")
    assert offered(quiet, "sta") == ["start", "stats"] and offered(quiet, "rm", "") == []
    assert "complete -F _cove cove" in quiet("completion", "bash").out
    assert not (tmp_path / "state").exists()
