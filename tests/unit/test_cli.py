"""The command line: what is typed becomes one call, and what is wrong is said, on one terminal."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cove.cli.main import main, root
from cove.cli.terminal import Gone, Terminal
from cove.client.api import Client
from cove.client.transport import Caller, Unreachable
from cove.client.verbs import VERBS, Verb
from cove.engine import calls
from cove.engine.calls import Call
from cove.errors import Conflict, NotFound
from cove.spec.machine import ExecSpec, Limits, MachineSpec
from cove.store.records import ImageRecord, MachineRecord


@dataclass
class Recorder:
    """A transport that answers from a table and keeps what it was asked."""

    answers: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    local: bool = True

    def call(self, verb: Verb, params: msgspec.Struct, call: Call) -> Any:
        self.asked.append((verb.name, params))
        answer = self.answers.get(verb.name)
        return answer(params) if answer else DEFAULTS[verb.name](params)

    def stream(self, verb: Verb, params: msgspec.Struct, call: Call) -> Iterator[Any]:
        self.asked.append((verb.name, params))
        yield from self.answers[verb.name](params)

    def session(self, verb: Verb, params: msgspec.Struct, caller: Caller) -> int | None:
        self.asked.append((f"{verb.name}+", params))
        return 7


ID = "4c01db0b339c" + "0" * 52
DEFAULTS: dict[str, Callable[[Any], Any]] = {
    "machine.create": lambda p: calls.Created(ID, "name"),
    "machine.run": lambda p: calls.Created(ID, "name"),
    "machine.start": lambda p: calls.Started(ID, p.machine),
    "machine.stop": lambda p: calls.Named(ID, p.machine),
    "machine.kill": lambda p: calls.Named(ID, p.machine),
    "machine.remove": lambda p: calls.Named(ID, p.machine),
    "machine.wait": lambda p: calls.Waited(3),
    "machine.exec": lambda p: calls.Started(ID),
    "machine.list": lambda p: calls.Listed(()),
    "machine.plan": lambda p: calls.Planned("unshare  # why"),
    "image.list": lambda p: calls.Images(()),
}


@dataclass
class Ran:
    code: int | None
    out: str
    err: str
    asked: list[tuple[str, Any]]


@pytest.fixture
def cove(tmp_path: Path) -> Callable[..., Ran]:
    def run(
        *argv: str,
        answers: dict[str, Callable[[Any], Any]] | None = None,
        terminals: int = 0,
        env: dict[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Ran:
        paths = [tmp_path / name for name in ("in", "out", "err")]
        paths[0].write_bytes(stdin)
        fds = [
            os.open(paths[0], os.O_RDONLY),
            *(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for path in paths[1:]),
        ]
        transport = Recorder(answers or {})
        terminal = Terminal(
            fds=(fds[0], fds[1], fds[2]),
            terminals=terminals,
            cwd=str(tmp_path),
            env=env or {},
        )
        try:
            code = main(argv, terminal, Client(transport))
        finally:
            for fd in fds:
                os.close(fd)
        return Ran(code, paths[1].read_text(), paths[2].read_text(), transport.asked)

    return run


Cove = Callable[..., Ran]


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
        ("machine.run", calls.Run(MachineSpec("host", ("true",), network="default")))
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


# ---- ps, logs, inspect, images ----


def machine(key: int = 1, **changes: Any) -> MachineRecord:
    record = MachineRecord(
        key, f"{key:012x}" + "0" * 52, f"m{key}", MachineSpec("busybox", ("sh",)), "sha256:aa",
        "running", created=1_700_000_000.0 + key, argv=("sh",), started=1_700_000_000.0 + key,
    )  # fmt: skip
    return msgspec.structs.replace(record, **changes)


MACHINES = (
    machine(4, state="exited", exit_code=3, spec=MachineSpec("debian:12", labels={"a": "1"})),
    machine(3, state="created", name="web-api"),
    machine(2, spec=MachineSpec("busybox:latest", labels={"a": "1", "b": "2"})),
    machine(1),
)


def listed(params: calls.List) -> calls.Listed:
    running = ("running", "paused")
    return calls.Listed(tuple(m for m in MACHINES if params.all or m.state in running))


PS = [
    ((), "m2 m1"),
    (("-a",), "m4 web-api m2 m1"),
    (("-l",), "m4"),
    (("-n", "2"), "m4 web-api"),
    (("-f", "status=created"), "web-api"),
    (("-f", "status=created", "-f", "status=exited"), "m4 web-api"),
    (("-a", "-f", "name=web"), "web-api"),
    (("-a", "-f", "name=^/m"), "m4 m2 m1"),
    (("-a", "-f", "label=a"), "m4 m2"),
    (("-a", "-f", "label=a=1", "-f", "label=b"), "m2"),
    (("-a", "-f", "exited=3"), "m4"),
    (("-a", "-f", "ancestor=busybox"), "web-api m2 m1"),
    (("-a", "-f", "ancestor=debian:12"), "m4"),
    (("-a", "-f", "before=m2"), "m1"),
    (("-a", "-f", "since=m2"), "m4 web-api"),
    (("-f", "since=m1"), "m2"),
    (("-a", "-f", "id=000000000003"), "web-api"),
    (("-a", "-f", "network=none", "-f", "isolation=container"), "m4 web-api m2 m1"),
]


@pytest.mark.parametrize(("args", "names"), PS)
def test_ps_filters(cove: Cove, args: tuple[str, ...], names: str) -> None:
    ran = cove("ps", *args, "--format", "{{.Names}}", answers={"machine.list": listed})
    assert ran.out.split() == names.split(), ran.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-f", "stats=x"), "did you mean status?"),
        (("-f", "status=runing"), "did you mean running?"),
        (("-f", "running"), 'cannot read filter "running": not NAME=VALUE'),
        (("-a", "-f", "exited=x"), "the value is an exit code"),
        (("-f", "before=nobody"), "no such machine"),
        (("-f", "publish=x"), '"x" is no port'),
        (("--format", "{{.Nmaes}}"), "did you mean Names?"),
        (("extra",), 'cannot read "extra": cove ps takes no more words'),
    ],
)
def test_ps_says_what_is_wrong(cove: Cove, args: tuple[str, ...], message: str) -> None:
    ran = cove("ps", *args, answers={"machine.list": listed})
    assert ran.code == 125
    assert message in ran.err


def test_ps_quiet_and_whole(cove: Cove) -> None:
    answers = {"machine.list": listed}
    assert cove("ps", "-q", answers=answers).out.split() == [m.id[:12] for m in MACHINES[2:]]
    whole = cove("ps", "-q", "--no-trunc", answers=answers).out.split()
    assert whole == [m.id for m in MACHINES[2:]]
    assert cove("ps", answers=answers).out.splitlines()[0].startswith("MACHINE ID")


def imaged(params: calls.ImageList) -> calls.Images:
    one = ImageRecord("sha256:" + "1" * 64, {}, (), 5, 2.0)
    two = ImageRecord("sha256:" + "2" * 64, {}, (), 5, 1.0)
    return calls.Images(
        (calls.Image(one, ("oci:1", "web:1", "web:2")), calls.Image(two, ("web:0",)))
    )


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (("web",), "web:1 web:2 web:0"),
        (("web:1",), "web:1"),
        (("o*",), "oci:1"),
        (("-f", "reference=web", "-f", "since=web:0"), "web:1 web:2"),
        (
            (
                "-f",
                "before=oci:1",
            ),
            "web:0",
        ),
    ],
)
def test_images_are_shown_by_the_names_asked_for(
    cove: Cove, args: tuple[str, ...], shown: str
) -> None:
    ran = cove(
        "images", *args, "--format", "{{.Repository}}:{{.Tag}}", answers={"image.list": imaged}
    )
    assert ran.out.split() == shown.split(), ran.err


def entries(params: calls.Logs) -> Iterator[calls.LogEntry]:
    yield calls.LogEntry(1_700_000_000_000_000_000, 1, b"one\ntw")
    yield calls.LogEntry(1_700_000_001_000_000_000, 2, b"err\xff\n")
    yield calls.LogEntry(1_700_000_002_500_000_000, 1, b"o\n\x1b[31mred\x1b[0m\x1b]0;x\x07\n")


def test_logs(cove: Cove) -> None:
    answers = {"machine.logs": entries}
    ran = cove("logs", "--tail", "5", "-f", "m", answers={"machine.logs": lambda p: iter(())})
    asked = calls.Logs("m", follow=True, tail=5, notes=True, merged=True, positions=True)
    assert ran.asked == [("machine.logs", asked)]
    stamped = cove(
        "logs", "-t", "m", "--raw", answers={"machine.logs": lambda p: [*entries(p)][::2]}
    )
    assert stamped.out.splitlines()[:2] == [
        "2023-11-14T22:13:20.000000000Z one",
        "2023-11-14T22:13:20.000000000Z two",
    ]
    tame = cove("logs", "m", terminals=2, answers={"machine.logs": lambda p: [*entries(p)][::2]})
    assert tame.out == "one\ntwo\n\x1b[31mred\x1b[0m^[]0;x\\x07\n"
    assert "not a moment" in cove("logs", "--since", "yesterday", "m", answers=answers).err


def test_inspect_machines_and_images(cove: Cove) -> None:
    def find(params: calls.Inspect) -> calls.Inspected:
        if params.machine == "m":
            return calls.Inspected(machine())
        raise NotFound(f"cannot find {params.machine}")

    def image(params: calls.ImageInspect) -> calls.Image:
        if params.image == "i":
            return calls.Image(ImageRecord("sha256:aa", {}, (), 5, 0.0), ("i:latest",))
        raise NotFound(f"cannot find the image {params.image}")

    answers: dict[str, Callable[[Any], Any]] = {"machine.inspect": find, "image.inspect": image}
    both = cove("inspect", "m", "i", "--format", "{{.Id}}", answers=answers)
    assert both.out.split() == [machine().id, "sha256:aa"]
    ran = cove("inspect", "m", "nobody", answers=answers)
    assert msgspec.json.decode(ran.out)[0]["Name"] == "/m1"
    assert "cannot inspect nobody: no machine or image has this name" in ran.err
    assert ran.code == 1
    assert cove("inspect", "--type", "image", "m", answers=answers).out == "[]\n"
    assert (
        cove("image", "inspect", "i", "-f", "{{.RepoTags}}", answers=answers).out == "[i:latest]\n"
    )


def test_images_load_import_rmi(cove: Cove, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x")

    def loaded(params: Any) -> Iterator[calls.Progress]:
        yield calls.Progress("unpacking", "abc", 1, 2)
        yield calls.Progress("unpacking", "abc", 2, 2)
        yield calls.Progress("done", image="sha256:aa", tags=("i:1",))

    answers: dict[str, Callable[[Any], Any]] = {"image.load": loaded, "image.import": loaded}
    ran = cove("load", "-i", "a.tar", answers=answers)
    assert (ran.out, ran.err) == ("Loaded image: i:1\n", "abc: unpacking\n")
    assert cove("load", "-q", "a.tar", answers=answers).err == ""
    ran = cove("image", "import", "-c", "CMD sh", "a.tar", "i:1", answers=answers)
    assert ran.out == "sha256:aa\n"
    assert ran.asked[0][1].changes == ("CMD sh",)
    assert "no such file or directory" in cove("load", "-i", "b.tar", answers=answers).err
    assert "cannot load from your terminal" in cove("load", terminals=1, answers=answers).err
    assert "does not download" in cove("import", "http://x/y.tar", answers=answers).err
    removed = {"image.remove": lambda p: calls.ImageRemoved(("i:1",), ("sha256:aa",))}
    assert cove("rmi", "i", answers=removed).out == "Untagged: i:1\nDeleted: sha256:aa\n"


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


# ---- help ----


def test_help_lists_commands_by_groups(cove: Cove) -> None:
    for argv in ((), ("--help",), ("help",)):
        text = cove(*argv).out
        assert text.startswith("Usage: cove [OPTIONS] COMMAND\n")
        assert text.index("Run:") < text.index("  run ") < text.index("Look:") < text.index("  ps ")


def test_every_command_has_a_help_page(cove: Cove) -> None:
    def walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, command in group.commands.items():
            yield (*path, name)
            if hasattr(command, "commands"):
                yield from walk(command, (*path, name))

    pages = [*walk(root(), ())]
    assert len(pages) > 30
    for path in pages:
        ran = cove(*path, "--help")
        assert ran.code == 0, path
        assert ran.out.startswith("Usage: cove " + " ".join(path)), path
        assert ran.out == cove("help", *path).out


def test_help_keeps_to_the_callers_width(cove: Cove) -> None:
    text = cove("run", "--help", terminals=2).out
    assert max(len(line) for line in text.splitlines()) <= 80


def test_dockers_other_spellings(cove: Cove) -> None:
    answers = {"machine.list": listed}
    ps = cove("ps", "-a", answers=answers).out
    for argv in (("container", "ls", "-a"), ("container", "ps", "-a"), ("machine", "list", "-a")):
        assert cove(*argv, answers=answers).out == ps
    assert cove("container", "run", "host").asked[0][0] == "machine.run+"
    assert cove("image", "ls").asked == cove("images").asked


def test_version_without_a_daemon(cove: Cove) -> None:
    from cove import __version__

    assert cove("--version").out == f"cove {__version__}\n"

    def nobody(params: Any) -> Any:
        raise Unreachable("cannot connect to the daemon")

    server = calls.Version("1.2", 3, "3.11.2", "6.1.0", "aarch64", "2026")
    said = cove("version", answers={"system.version": lambda p: server}).out
    assert said.endswith(" Kernel version:  6.1.0\n Built:           2026\n"
                         " OS/Arch:         linux/arm64\n")  # fmt: skip
    ran = cove("version", answers={"system.version": nobody})
    assert __version__ in ran.out and "cannot connect" in ran.err and ran.code == 1


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


def test_every_verb_has_a_method_of_the_client() -> None:
    asked: set[str] = set()
    client = Client(Recorder({name: lambda p: None for name in VERBS}))
    source = Path(sys.modules[Client.__module__].__file__ or "").read_text()
    for name in VERBS:
        assert f'"{name}"' in source, f"Client has no method for {name}"
        asked.add(name)
    assert client.transport and asked == set(VERBS)
