"""What a failed op tells the user: what was typed, what it means here, and one thing to do."""

from __future__ import annotations

import errno

import pytest

from cove.errors import Bug, CoveError
from cove.executor.explain import explain
from cove.executor.messages import Report
from cove.plan import ops
from cove.plan.flags import AtFlags, CloneFlags, MountFlags, Resolve, Rlimit
from cove.plan.ops import Op, Plan

BIND = "--mount type=bind,source=/srv/data,target=/data"


def say(op: Op, number: int, detail: str = "") -> CoveError:
    return explain(Plan((), (op,)), Report(1, 0, number, detail))


def run(program: str) -> Op:
    return ops.Execve((program, "arg"), ("A=b", "PATH=/bin:/usr/bin"), why="command")


@pytest.mark.parametrize(
    ("program", "number", "code", "message", "hint"),
    [
        ("foo", errno.ENOENT, 127,
         'cannot run "foo": no such file or directory in the machine\'s PATH', ""),
        ("/bin/foo", errno.ENOENT, 127, 'cannot run "/bin/foo": no such file or directory',
         "interpreter"),
        ("/bin", errno.EACCES, 126, 'cannot run "/bin": permission denied', "no executable file"),
        ("./x", errno.ENOEXEC, 126, 'cannot run "./x": exec format error', "another CPU"),
        ("ping", errno.EPERM, 126, 'cannot run "ping": operation not permitted', "--cap-add"),
        ("a", errno.E2BIG, 126, 'cannot run "a": argument list too long', "are too long"),
        ("/x/y", errno.ENOTDIR, 126, 'cannot run "/x/y": not a directory', "no directory"),
    ],
)  # fmt: skip
def test_programs(program: str, number: int, code: int, message: str, hint: str) -> None:
    error = say(run(program), number)
    assert (error.message, error.exit_code) == (message, code)
    assert "host:  \n" not in error.render()
    assert hint in error.hint


def test_path_is_shown_where_it_was_searched() -> None:
    assert say(run("foo"), errno.ENOENT).host == "PATH=/bin:/usr/bin"
    assert say(ops.Execve(("foo",), ()), errno.ENOENT).host == "PATH is not set"


@pytest.mark.parametrize(
    ("op", "number", "detail", "message"),
    [
        (ops.Setuser("bob:staff"), errno.ENOENT, "bob:staff",
         'cannot run as user "bob": no such user in the machine\'s /etc/passwd'),
        (ops.Setuser("bob:staff"), errno.ENOENT, "staff",
         'cannot run as group "staff": no such group in the machine\'s /etc/group'),
        (ops.Setuser("bob", ("x",)), errno.ENOENT, "x",
         'cannot run as group "x": no such group in the machine\'s /etc/group'),
        (ops.Setuser("bob"), errno.ELOOP, "/etc/passwd",
         'cannot run as user "bob": its /etc/passwd or /etc/group is a symbolic link'),
        (ops.Chdir("/nowhere"), errno.ENOENT, "/nowhere",
         'cannot use working directory "/nowhere": no such file or directory'),
        (ops.MoveMount("mount0", "root", "data", Resolve.RESOLVE_IN_ROOT, why=BIND), errno.ENOTDIR,
         "data", "cannot mount /srv/data on /data: one is a directory and the other is not"),
        (ops.MoveMount("mount0", "root", "/data", why="-v /srv:/data:ro"), errno.ENOENT, "",
         "cannot mount /srv on /data: no such file or directory in the machine"),
        (ops.MoveMount("proc", "root", "proc", why="default: x"), errno.ELOOP, "proc",
         "cannot mount on /proc: the image has a symbolic link in its place"),
        (ops.MoveMount("mount0", "root", "data", why=BIND), errno.ENOSPC, "data",
         "cannot mount /srv/data on /data: too many mounts"),
        (ops.Mount("overlay", "m", "overlay", MountFlags(0), "lowerdir=l1"), errno.EINVAL, "m",
         "cannot mount the machine's root: the kernel does not take these layers"),
        (ops.MountSetattr("bind0", "", AtFlags(0), userns="userns"), errno.EINVAL, "",
         "cannot map the ids of a mount: its file system does not support idmapped mounts"),
        (ops.Clone3(CloneFlags.CLONE_NEWUSER), errno.ENOSPC, "",
         "cannot make the machine's namespaces: the host's limit on namespaces is reached"),
        (ops.Unshare(CloneFlags.CLONE_NEWNET), errno.EPERM, "",
         "cannot make the machine's namespaces: the host does not allow it"),
        (ops.CgroupAttach(("/x/tasks",)), errno.ENOSPC, "/x/tasks",
         "cannot put the machine under its limits: its cpuset has no CPUs or no memory nodes"),
        (ops.Sysctl("proc", "net/core/no", "1", why="--sysctl net.core.no=1"), errno.ENOENT, "",
         "cannot set sysctl net.core.no: no such sysctl in this kernel"),
        (ops.Setrlimit(Rlimit.RLIMIT_NOFILE, "9", "9"), errno.EPERM, "",
         "cannot limit nofile to 9:9: it is above the host's own hard limit"),
        (ops.Sethostname("x" * 65), errno.EINVAL, "",
         f'cannot name the machine "{"x" * 65}": longer than 64 bytes'),
        (ops.Setns("target", CloneFlags.CLONE_NEWPID), errno.ESRCH, "",
         "cannot enter the machine: it has ended"),
        (ops.Umask(0o22), errno.EPERM, "", "cannot umask: operation not permitted"),
        (ops.Mask("root", "null", "empty", ("proc/kcore",)), errno.EIO, "proc/kcore",
         "cannot mask proc/kcore: input/output error"),
    ],
)  # fmt: skip
def test_ops(op: Op, number: int, detail: str, message: str) -> None:
    assert say(op, number, detail).message == message


def test_what_was_typed_is_told_and_defaults_are_not() -> None:
    error = say(ops.MoveMount("mount0", "root", "data", why=BIND), errno.EIO)
    assert error.origin == BIND
    assert error.host == "op 0 (move_mount) of the machine part: EIO"
    assert say(ops.Chdir("/", why="default: the image's"), errno.EIO).origin == ""


@pytest.mark.parametrize("index", [1, 4711])
def test_a_report_that_fits_no_plan_is_a_bug(index: int) -> None:
    error = explain(Plan((), (ops.Umask(0),)), Report(1, index, 1, ""))
    assert isinstance(error, Bug)


@pytest.mark.parametrize("number", [*errno.errorcode, 0, 4711])
def test_every_op_has_words_for_every_number(number: int) -> None:
    samples: dict[str, Op] = {
        "execve": run("a"), "setuser": ops.Setuser("a:b"), "chdir": ops.Chdir("/"),
        "move_mount": ops.MoveMount("a", "root", "b"),
        "mount": ops.Mount("a", "b", "tmpfs", MountFlags(0), ""), "umask": ops.Umask(0),
        "mount_setattr": ops.MountSetattr("a", "", AtFlags(0)),
        "mkdirat": ops.Mkdirat("root", "a", 0o755, 0, 0),
        "clone3": ops.Clone3(CloneFlags(0)), "setsid": ops.Setsid(), "stdio": ops.Stdio(),
        "openpty": ops.Openpty("dev/pts", 24, 80),
        "setrlimit": ops.Setrlimit(Rlimit.RLIMIT_CPU, "1", "1"),
    }  # fmt: skip
    for op in samples.values():
        message = say(op, number, "detail").message
        assert message.startswith("cannot ")
        assert not message.endswith((".", " ", ":"))
        assert "None" not in message


def test_a_process_that_was_killed_before_its_program() -> None:
    """The launcher reports the place after the last op."""
    machine = (run("foo"),)
    error = explain(Plan((), machine), Report(1, 1, errno.ECHILD, ""))
    assert error.message == "cannot start the program: its process was killed before it began"
    waits = Plan((ops.Recv(("a",)), ops.Send(())), machine)
    for number, errno_ in ((0, errno.ECHILD), (1, errno.EPIPE)):
        assert explain(waits, Report(0, number, errno_, "")).message == error.message
    entered = Plan((ops.Setns("target", CloneFlags.CLONE_NEWPID, why="exec"),), machine)
    error = explain(entered, Report(1, 1, errno.ECHILD, ""))
    assert (error.message, error.exit_code) == ("cannot enter the machine: it has ended", 125)


def test_a_process_that_was_killed_while_it_was_waited_for() -> None:
    """In the middle of a start: the op that waits has nothing of its own to say."""
    plan = Plan((ops.Setns("target", CloneFlags.CLONE_NEWNET, why="x"),) * 2, (run("foo"),))
    for side, op in ((0, 1), (1, 0)):
        error = explain(plan, Report(side, op, errno.ECHILD, ""))
        assert "no child processes" not in error.message and "has ended" in error.message
    error = explain(Plan((run("foo"),), (run("foo"),)), Report(0, 0, errno.ECHILD, ""))
    assert error.message == "cannot start the program: its process was killed before it began"
