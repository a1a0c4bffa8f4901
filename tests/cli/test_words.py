"""The command users type, through the real front and daemon: help, errors, the caller's world."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.driver import Cove

WRONG = [
    (("rnu", "bb"), 'cove: cannot run "rnu": cove has no such command', "did you mean run?", 125),
    (("run", "--memroy", "5m", "bb"), "cove: cannot read --memroy: unknown flag", "--memory?", 125),
    (("run", "-m", "64x", "bb"), 'cove: cannot read size "64x"', "from: --memory 64x", 125),
    (("run", "-m", "1m", "bb"), "cove: cannot limit memory to 1m: the minimum is 6m", "", 125),
    (
        ("run", "--network", "none", "-p", "80:80", "bb", "true"),
        "cove: cannot publish ports",
        "with --network none",
        125,
    ),
    (("run", "-v", "d@ta:/d", "bb"), '"d@ta" is neither a path nor a name', "./d@ta", 125),
    (
        ("run", "--network", "container:db", "bb"),
        "cannot join the network of db: no such machine",
        "",
        125,
    ),
    (("run", "-it", "bb", "sh"), "the input device is not a TTY", "", 1),
    (
        ("run", "--rm", "--pull", "never", "nosuch", "true"),
        'cove: cannot find image "nosuch"',
        "import",
        125,
    ),
    (("run", "--rm", "bb", "nosuch"), 'cove: cannot run "nosuch"', "", 127),
    (("run", "--rm", "bb", "/etc/passwd"), 'cove: cannot run "/etc/passwd"', "", 126),
    (("exec", "nobody", "true"), 'cove: cannot find machine "nobody"', "", 1),
    (("inspect", "nobody"), "cove: cannot inspect nobody: no machine or image", "", 1),
    (("start", "nobody"), 'cove: cannot find machine "nobody"', "hint: cove ps -a lists them", 1),
    (("run", "--env-file", "/no/such", "bb"), "no such file", "from: --env-file /no/such", 125),
    (
        ("image", "import", "/dev/null", "BAD NAME"),
        "must be lowercase\n  from: BAD NAME\n",
        "",
        125,
    ),
    (("ps", "-f", "stats=x"), 'cove: cannot filter by "stats"', "did you mean status?", 125),
    (("ps", "--format", "{{.ID"), "cove: cannot read the template", "from: --format {{.ID", 125),
    (("load", "-i", "/no/such.tar"), "cove: cannot load /no/such.tar: no such file", "", 125),
    (("search", "debian"), 'cove: cannot run "search": not in this version', "", 125),
    (("checkpoint", "ls", "a"), "cove keeps no checkpoints of processes", "cove snapshot", 125),
]


@pytest.mark.parametrize(("words", "message", "more", "code"), WRONG, ids=lambda v: str(v)[:50])
def test_what_is_wrong_is_said(
    cove: Cove, words: tuple[str, ...], message: str, more: str, code: int
) -> None:
    done = cove(*words, code=code)
    assert message in done.err
    assert more in done.err
    assert "Traceback" not in done.err


def test_help(cove: Cove) -> None:
    text = cove("--help").out
    assert "\n\nFirst steps: cove run --rm -it host bash. More: cove COMMAND --help\n" in text
    assert text.startswith("Usage: cove [OPTIONS] COMMAND\n")
    assert cove("run", "--help").out.startswith("Usage: cove run [OPTIONS] IMAGE [COMMAND]")
    assert cove("help", "image", "ls").out == cove("image", "ls", "--help").out


def test_the_same_help_without_a_daemon(cove: Cove, tmp_path: Path) -> None:
    done = cove("--help", env={"COVE_ROOT": str(tmp_path / "none")})
    assert done.out == cove("--help").out
    assert not (tmp_path / "none").exists()


def test_the_same_words_over_http(cove: Cove) -> None:
    """``COVE_HOST`` takes the way through cove-python and the daemon's HTTP socket."""
    host = {"COVE_HOST": f"unix://{cove.root}/run/api.sock"}
    assert cove("ps", "-a", env=host).out == cove("ps", "-a").out
    done = cove("run", "--rm", "bb", "sh", "-c", "echo out; echo err >&2; exit 5", env=host, code=5)
    assert (done.out, done.err) == ("out\n", "err\n")
    assert cove("run", "--rm", "-i", "bb", "cat", env=host, stdin="in").out == "in"
    done = cove("inspect", "nobody", env=host, code=1)
    assert done.err == cove("inspect", "nobody", code=1).err
    done = cove("run", "--rm", "--pull", "never", "nosuch", env=host, code=125)
    assert done.err == cove("run", "--rm", "--pull", "never", "nosuch", code=125).err


def test_a_host_that_is_not_there(cove: Cove) -> None:
    done = cove("ps", env={"COVE_HOST": "unix:///no/such.sock"}, code=125)
    assert "cannot connect to the daemon at /no/such.sock: no such file or directory" in done.err
    done = cove("ps", env={"COVE_HOST": "ftp://x"}, code=125)
    assert 'cannot connect to "ftp://x"' in done.err


def test_version_info_and_status(cove: Cove) -> None:
    from cove import __version__

    assert cove("--version").out == f"cove {__version__}\n"
    assert cove("version", "--format", "{{.Server.Version}}").out == f"{__version__}\n"
    assert f"state directory:  {cove.root}\n" in cove("info").out
    assert cove("info", "--format", "{{.DockerRootDir}}").out == f"{cove.root}\n"
    assert str(cove.root) in cove("daemon", "status").out
    assert f"pid {cove.daemon_pid()}" in cove("daemon", "start").out


def test_environment_directory_and_umask_are_the_callers(cove: Cove, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/f").write_text("mine")
    (tmp_path / "vars").write_text("A=file\nB=file\n")
    run = ("run", "--rm", "--env-file", "vars", "-e", "A=flag", "-e", "MINE", "-v", "./src:/s:ro")
    script = "cat /s/f; echo; echo $A $B $MINE"
    done = cove(*run, "bb", "sh", "-c", script, env={"MINE": "own"}, cwd=tmp_path)
    assert done.out == "mine\nflag file own\n"
    done = cove("create", "--cidfile", "id", "bb", "true", cwd=tmp_path)
    assert (tmp_path / "id").read_text() == done.out.strip()
    done = cove("create", "--cidfile", "id", "bb", "true", cwd=tmp_path, code=125)
    assert "cannot write the id to id: the file exists" in done.err
    cove("rm", (tmp_path / "id").read_text())
