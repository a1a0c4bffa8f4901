"""The command line: what is typed becomes one call, and what is wrong is said, on one terminal."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cove.cli.main import main
from cove.cli.terminal import Gone, Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.errors import Conflict, NotFound
from cove.spec.machine import ExecSpec, Limits, MachineSpec
from tests.unit.commands import ID, Cove, Recorder, machine

# ---- run, create, exec ----


def test_run_is_one_call_with_the_session(cove: Cove) -> None:
    ran = cove("run", "--rm", "-m=64m", "host", "sh", "-c", "exit 7")
    spec = MachineSpec(
        "host",
        ("sh", "-c", "exit 7"),
        remove=True,
        network="default",
        limits=Limits(memory=64 << 20),
    )
    assert ran.asked == [("machine.run+", calls.Run(spec, ("stdout", "stderr")))]
    assert (ran.code, ran.out, ran.err) == (7, "", "")


def test_run_attaches_to_what_was_asked(cove: Cove) -> None:
    assert cove("run", "-i", "host").asked[0][1].attach == ("stdin", "stdout", "stderr")
    assert cove("run", "-a", "STDERR", "-a", "stdin", "host").asked[0][1].attach == (
        "stdin",
        "stderr",
    )
    assert cove("run", "--sig-proxy=false", "host").asked[0][1].sig_proxy is False


def test_detached_run_prints_the_id(cove: Cove) -> None:
    ran = cove("run", "-d", "host", "true")
    assert ran.out == ID + "\n"
    assert ran.asked == [
        ("machine.run", calls.Run(MachineSpec("host", ("true",), network="default", attached=())))
    ]
    ran = cove("run", "-d", "-a", "stdout", "host")
    assert ran.code == 125
    assert "cannot use --attach with --detach" in ran.err


def test_flags_after_the_image_are_the_commands_own(cove: Cove) -> None:
    ran = cove("run", "--rm", "host", "ls", "--rm", "-it", "--help")
    assert ran.asked[0][1].spec.command == ("ls", "--rm", "-it", "--help")
    assert cove("run", "--", "host", "--x").asked[0][1].spec.command == ("--x",)


def test_the_callers_directory_and_variables(cove: Cove, tmp_path: Path) -> None:
    (tmp_path / "vars").write_text("A=1\nHOME\n")
    run = ("run", "--env-file", "vars", "-e", "TERM", "-v", "./src:/src", "host")
    for home in ("/root", "/home/u"):  # the second time flags come from the cache
        spec = cove(*run, env={"HOME": home, "TERM": "xterm"}).asked[0][1].spec
        assert spec.env == ("A=1", f"HOME={home}", "TERM=xterm")
        assert spec.mounts[0].source == f"{tmp_path}/src"
    ran = cove("run", "--env-file", "missing", "host")
    assert ran.err.startswith("cove: cannot read missing: no such file or directory\n")


def test_a_terminal_is_wanted_where_there_is_none(cove: Cove) -> None:
    ran = cove("run", "-it", "host")
    assert ran.code == 1
    assert "the input device is not a TTY" in ran.err
    assert ran.asked == []
    assert cove("run", "-it", "host", terminals=7).code == 7
    assert cove("run", "-t", "host").code == 7
    assert cove("run", "-dit", "host").code == 0
    assert cove("exec", "-it", "m", "sh").code == 1


def test_cidfile(cove: Cove, tmp_path: Path) -> None:
    ran = cove("run", "--cidfile", "id", "host")
    assert [name for name, _ in ran.asked] == ["machine.create", "machine.start+"]
    assert (tmp_path / "id").read_text() == ID
    ran = cove("run", "--cidfile", "id", "host")
    assert ran.asked == []
    assert "cannot write the id to id: the file exists" in ran.err
    ran = cove("create", "--cidfile", "no/such/place", "host")
    assert [name for name, _ in ran.asked] == ["machine.create", "machine.remove"]
    assert "cannot write the id to no/such/place: no such file or directory" in ran.err


def test_exec(cove: Cove) -> None:
    ran = cove("exec", "-u", "5", "-e", "A=1", "m", "ls", "-l")
    spec = ExecSpec(("ls", "-l"), user="5", env=("A=1",))
    assert ran.asked == [("machine.exec+", calls.Exec("m", spec, ("stdout", "stderr")))]
    assert cove("exec", "-d", "m", "true").asked == [
        ("machine.exec", calls.Exec("m", ExecSpec(("true",))))
    ]
    assert "COMMAND is missing" in cove("exec", "m").err


def test_warnings_of_the_engine_go_to_stderr(cove: Cove) -> None:
    answers = {"machine.create": lambda p: calls.Created(ID, "n", ("no swap\x1b[1m",))}
    ran = cove("create", "host", answers=answers)
    assert (ran.out, ran.err) == (ID + "\n", "cove: note: no swap\\x1b[1m\n")


# ---- verbs on several machines ----


def test_start_attach_stop_kill_rm_wait(cove: Cove) -> None:
    assert cove("start", "a", "b").out == "a\nb\n"
    assert cove("start", "-a", "-i", "a", terminals=1).asked == [
        ("machine.start+", calls.Start("a", ("stdin", "stdout", "stderr")))
    ]
    assert "more than one machine" in cove("start", "-a", "a", "b").err
    assert cove("attach", "--no-stdin", "--sig-proxy=false", "a").asked == [
        ("machine.attach+", calls.Attach("a", ("stdout", "stderr"), sig_proxy=False))
    ]
    assert cove("stop", "-t", "3", "-s", "INT", "a").asked == [
        ("machine.stop", calls.Stop("a", 3, "INT"))
    ]
    assert cove("stop", "--time", "3", "a").asked[0][1].timeout == 3
    assert cove("kill", "a").asked == [("machine.kill", calls.Kill("a"))]
    assert cove("rm", "-fv", "a").asked == [
        ("machine.remove", calls.Remove("a", force=True, volumes=True))
    ]
    assert cove("wait", "a", "b").out == "3\n3\n"


def test_each_machine_gets_its_own_error(cove: Cove) -> None:
    def remove(params: calls.Remove) -> calls.Named:
        if params.machine == "b":
            raise NotFound("cannot remove b: no such machine")
        if params.machine == "c":
            raise Conflict("cannot remove c: it runs", hint="cove rm -f c")
        return calls.Named(ID, params.machine)

    ran = cove("rm", "a", "b", "c", "d", answers={"machine.remove": remove})
    assert ran.out == "a\nd\n"
    assert ran.err.splitlines() == [
        "cove: cannot remove b: no such machine",
        "cove: cannot remove c: it runs",
        "  hint: cove rm -f c",
    ]
    assert ran.code == 1
    assert cove("rm", "-f", "b", answers={"machine.remove": remove}).code == 0


def test_attach_to_a_machine_with_a_terminal_wants_one(cove: Cove) -> None:
    record = machine(spec=MachineSpec("i", tty=True, stdin_open=True))
    answers = {"machine.inspect": lambda p: calls.Inspected(record)}
    ran = cove("attach", "m", answers=answers)
    assert ran.code == 1 and "not a TTY" in ran.err


# ---- what is wrong ----

WRONG = [
    (("rnu", "host"), 'cannot run "rnu": cove has no such command', "did you mean run?"),
    (
        ("run", "--memroy", "5m", "host"),
        "cannot read --memroy: unknown flag",
        "did you mean --memory?",
    ),
    (("run", "-z", "host"), "cannot read -z: unknown flag", "cove run --help lists the flags"),
    (("run", "-m", "64x", "host"), 'cannot read size "64x"', "from: --memory 64x"),
    (("run", "--rm=maybe", "host"), 'cannot read switch "maybe"', "from: --rm=maybe"),
    (("run", "--name"), "cannot read --name: it wants a value", "--name NAME"),
    (("run",), "IMAGE is missing", "cove run IMAGE [COMMAND]"),
    (("run", "-p", "80:x", "host"), '"x" is no port', "from: --publish 80:x"),
    (("run", "-p", "1:2:3:4", "host"), 'published port "1:2:3:4"', '"1:2" is no address'),
    (("run", "--gpus", "all", "host"), "cannot use --gpus", "no GPUs"),
    (
        ("run", "--rm", "--restart", "always", "host"),
        "cannot use --restart and --rm together",
        "leave one of them out",
    ),
    (("run", "--pull", "daily", "host"), "it is missing, always or never", "from: --pull daily"),
    (("run", "-v", "d@ta:/d", "host"), '"d@ta" is neither a path nor a name', "./d@ta"),
    (("run", "-m", "1m", "host"), "the minimum is 6m", "from: --memory 1m"),
    (("search", "debian"), 'cannot run "search": not in this version', ""),
    (("pull", "Debian"), "a repository name must be lowercase", "write debian"),
    (("stack", "deploy"), 'cannot run "stack": cove is no scheduler', "docker-compose, with"),
    (("trust", "sign"), 'cannot run "trust": cove checks digests, not signatures', ""),
    (("compose", "ls"), 'cannot run "compose": not in this version', "docker-compose, with"),
    (("run", "-h"), "cannot read -h: it wants a value", "write -h NAME; --help lists all flags"),
    (("image", "lss"), 'cannot run "lss": cove image has no such command', "did you mean ls?"),
    (("kill", "-s", "TREM", "m"), "no such signal", "did you mean SIGTERM?"),
    (("help", "nothing"), 'cannot run "nothing"', ""),
]


@pytest.mark.parametrize(("argv", "message", "more"), WRONG, ids=lambda v: " ".join(v)[:40])
def test_wrong_command_lines(cove: Cove, argv: tuple[str, ...], message: str, more: str) -> None:
    ran = cove(*argv)
    assert ran.code == 125
    assert message in ran.err.splitlines()[0] + ran.err
    assert more in ran.err
    assert (ran.out, ran.asked) == ("", [])


def test_all_bad_values_are_told_at_once(cove: Cove) -> None:
    err = cove("run", "-m", "x", "--cpus", "y", "--cap-add", "z", "host").err
    assert err.startswith("cove: cannot use these options: 3 problems\n")
    assert all(f"from: {flag}" in err for flag in ("--memory x", "--cpus y", "--cap-add z"))


def test_a_bug_says_where_it_is(cove: Cove) -> None:
    def broken(params: Any) -> Any:
        raise KeyError("oh\x1b[31m")

    ran = cove("ps", answers={"machine.list": broken})
    assert ran.code == 125
    assert ran.err.startswith("cove: bug: KeyError: ") and "please report" in ran.err
    assert "\x1b" not in ran.err and "Traceback" not in ran.err
    assert "Traceback" in cove("--debug", "ps", answers={"machine.list": broken}).err


def test_names_in_errors_cannot_drive_a_terminal(cove: Cove) -> None:
    assert "\x1b" not in cove("\x1b]0;x\x07").err
    assert "\x1b" not in cove("run", "--\x1b[2J", "host").err


# ---- the terminal ----


def test_nothing_of_the_process_is_touched(cove: Cove, capfd: pytest.CaptureFixture[str]) -> None:
    before = (dict(os.environ), os.getcwd(), sys.stdout)
    for argv in (("run", "--help"), ("--nope",), ("run",), ("ps", "--format", "{{")):
        cove(*argv)
    assert (dict(os.environ), os.getcwd(), sys.stdout) == before
    assert capfd.readouterr() == ("", "")


def test_a_reader_that_left_ends_the_command() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    terminal = Terminal(fds=(0, writer, writer))
    try:
        assert main(["--help"], terminal, Client(Recorder())) == 141
    finally:
        os.close(writer)


def test_a_full_pipe_does_not_outlive_a_cancel() -> None:
    reader, writer = os.pipe()
    terminal = Terminal(fds=(0, writer, writer))
    found: list[int] = []

    def fill() -> None:
        try:
            terminal.write(b"x" * (1 << 21))
        except Gone as gone:
            found.append(gone.exit_code)

    thread = threading.Thread(target=fill)
    thread.start()
    terminal.cancelled.set()
    thread.join()
    os.close(reader)
    os.close(writer)
    assert found == [130]
