"""The program users type, alone: on pipes and terminals, the daemon and monitor played by tests."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.native import peer
from tests.native.fronts import played_daemon, played_patience  # noqa: F401
from tests.native.peer import Connection, Daemon


@pytest.fixture
def script(daemon: Daemon) -> Path:
    """A ``cove-python`` beside the front that says how it was called."""
    path = daemon.front.parent / "cove-python"
    path.write_text(
        '#!/bin/sh\necho "why=$COVE_WHY front=$COVE_FRONT root=$COVE_ROOT args=$*"\nexit 7\n'
    )
    path.chmod(0o755)
    return path


# ---- the request ----


def test_request_carries_the_command_line(daemon: Daemon, tmp_path: Path) -> None:
    front = daemon.start("run", "--rm", "bb", "echo", "", "a b", cwd=tmp_path, umask=0o027)
    connection = daemon.accept()
    request = connection.request()
    assert request.argv == [str(daemon.front), "run", "--rm", "bb", "echo", "", "a b"]
    assert re.fullmatch(r"\d+\.\d+\.\d+ \d+", request.env.pop("COVE_STAMP"))
    assert request.env == daemon.env
    assert (request.cwd, request.umask, request.terminals) == (str(tmp_path), 0o027, 0)
    assert (request.protocol, len(request.fds)) == (1, 3)
    assert os.readlink(f"/proc/self/fd/{request.fds[0]}") == "/dev/null"
    os.write(request.fds[1], b"to stdout")
    os.write(request.fds[2], b"to stderr")
    connection.close_fds()
    connection.exit(3)
    assert front.communicate() == (b"to stdout", b"to stderr")
    assert front.returncode == 3


def test_big_environment_goes_by_sealed_memfd(daemon: Daemon) -> None:
    big = {f"BIG{i}": "x" * 100_000 for i in range(4)}
    front = daemon.start("ps", env=daemon.env | big)
    connection = daemon.accept()
    request = connection.request()
    assert request.env.pop("COVE_STAMP")
    assert request.env == daemon.env | big
    assert len(request.fds) == 4
    with pytest.raises(PermissionError):
        os.pwrite(request.fds[3], b"x", 0)
    connection.exit(0)
    assert front.wait() == 0


def test_request_just_below_the_limit_stays_one_message(daemon: Daemon) -> None:
    sizes = set()
    for size in (195_900, 196_700):
        front = daemon.start(
            "ps", env={"COVE_ROOT": str(daemon.root), "A": "x" * 98_000, "B": "y" * (size - 98_000)}
        )
        connection = daemon.accept()
        request = connection.request()
        sizes.add(len(request.fds))
        assert len(request.env["B"]) == size - 98_000
        connection.exit(0)
        assert front.wait() == 0
    assert sizes == {3, 4}


def test_deleted_working_directory_is_empty(daemon: Daemon, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    front = daemon.start(
        "-c", f'rmdir "$PWD"; exec {daemon.front} ps', executable="/bin/sh", cwd=gone
    )
    connection = daemon.accept()
    assert connection.request().cwd == ""
    connection.exit(0)
    assert front.wait() == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_fds_are_dev_null(daemon: Daemon, closed: str) -> None:
    front = daemon.start("-c", f"exec {daemon.front} ps {closed}", executable="/bin/sh")
    connection = daemon.accept()
    request = connection.request()
    names = [os.readlink(f"/proc/self/fd/{fd}") for fd in request.fds]
    assert names.count("/dev/null") >= len(closed.split())
    assert not any("socket" in name for name in names)
    connection.exit(0)
    assert front.wait() == 0


def test_root_option_names_the_socket(daemon: Daemon) -> None:
    for words in (["--root", str(daemon.root)], ["--debug", f"--root={daemon.root}"]):
        front = daemon.start(*words, "ps", env={})
        connection = daemon.accept()
        assert connection.request().argv[1:] == [*words, "ps"]
        connection.exit(0)
        assert front.wait() == 0


def test_root_deeper_than_a_socket_address(init_binary: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    (deep / "run").mkdir(parents=True)
    front = tmp_path / "cove"
    shutil.copy(init_binary, front)
    directory = os.open(deep / "run", os.O_PATH)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"/proc/self/fd/{directory}/front.sock")
        os.close(directory)
        listener.listen()
        running = subprocess.Popen([front, "ps"], env={"COVE_ROOT": str(deep)})
        connection = Connection(listener.accept()[0])
        connection.request()
        connection.exit(4)
        assert running.wait() == 4
        connection.close()


# ---- output and exit ----


@pytest.mark.parametrize("code", [0, 1, 125, 126, 127, 137, 255])
def test_exit_code(daemon: Daemon, code: int) -> None:
    front = daemon.start("run")
    connection = daemon.talk()
    connection.exit(code)
    assert front.wait() == code


def test_output_goes_to_both_fds_whole(daemon: Daemon) -> None:
    front = daemon.start("run")
    connection = daemon.talk()
    text = os.urandom(65536)
    connection.session(0)
    connection.output(text[:70])
    connection.output(b"error", fd=2)
    connection.output(text[70:])
    connection.exit(5, "cove: killed: memory\n")
    assert front.communicate() == (text, b"errorcove: killed: memory\n")
    assert front.returncode == 5


def test_slow_reader_gets_everything_before_the_exit(daemon: Daemon) -> None:
    front = daemon.start("run")
    assert front.stdout
    connection = daemon.talk()
    connection.session(0)
    text = os.urandom(90_000)
    connection.output(text)
    connection.output(text)
    connection.exit(0)
    assert front.stdout.read() == text + text
    assert front.wait() == 0


def test_shared_descriptions_stay_blocking(daemon: Daemon) -> None:
    reader, writer = os.pipe()
    in_reader, in_writer = os.pipe()
    front = daemon.start("run", stdin=in_reader, stdout=writer)
    connection = daemon.talk()
    connection.session(peer.RELAY_STDIN)
    connection.output(b"x")
    os.read(reader, 1)
    assert os.get_blocking(writer)
    assert os.get_blocking(in_reader)
    connection.exit(0)
    assert front.wait() == 0
    for fd in (reader, writer, in_reader, in_writer):
        os.close(fd)


def test_stdout_that_is_gone_ends_the_command(daemon: Daemon) -> None:
    front = daemon.start("run")
    assert front.stdout
    connection = daemon.talk()
    connection.session(0)
    front.stdout.close()
    connection.output(b"nobody reads this")
    assert front.wait() == -signal.SIGPIPE
    assert connection.receive() is None


def test_stuck_stdout_does_not_hold_signals(daemon: Daemon) -> None:
    front = daemon.start("run")
    connection = daemon.talk()
    connection.session(peer.FORWARD_SIGNALS)
    connection.output(b"x" * 180_000)
    front.send_signal(signal.SIGTERM)
    assert connection.expect(peer.SIGNAL).value == signal.SIGTERM
    front.kill()
    front.wait()


@pytest.mark.parametrize(("session", "who"), [(False, "daemon"), (True, "machine's monitor")])
def test_lost_peer(daemon: Daemon, session: bool, who: str) -> None:
    front = daemon.start("run")
    connection = daemon.talk()
    if session:
        connection.session(0)
    connection.output(b"last words")
    connection.close()
    assert front.communicate() == (b"last words", f"cove: lost the {who}\n".encode())
    assert front.returncode == 125


def test_message_of_wrong_length_is_a_lost_peer(daemon: Daemon) -> None:
    front = daemon.start("run")
    connection = daemon.talk()
    connection.sock.send(peer.HEAD.pack(peer.OUTPUT, 1, 100, 0) + b"short")
    assert front.communicate() == (b"", b"cove: lost the daemon\n")
    assert front.returncode == 125


# ---- signals ----


def test_command_signal_goes_to_the_daemon_and_the_second_kills(daemon: Daemon) -> None:
    front = daemon.start("ps")
    connection = daemon.talk()
    front.send_signal(signal.SIGINT)
    assert connection.expect(peer.SIGNAL).value == signal.SIGINT
    front.send_signal(signal.SIGTERM)
    assert connection.expect(peer.SIGNAL).value == signal.SIGTERM
    front.send_signal(signal.SIGINT)
    assert front.wait() == -signal.SIGINT
    assert connection.receive() is None


def test_session_forwards_signals(daemon: Daemon) -> None:
    front = daemon.start("run")
    connection = daemon.talk()
    connection.session(peer.FORWARD_SIGNALS)
    connection.output(b"!")
    assert front.stdout and front.stdout.read(1) == b"!"
    forwarded = [signal.SIGINT, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP, signal.SIGALRM]
    for number in [*forwarded, signal.SIGRTMIN + 3]:
        front.send_signal(number)
        assert connection.expect(peer.SIGNAL).value == number
    connection.exit(130)
    assert front.wait() == 130


def test_session_without_proxy_dies_of_signals(daemon: Daemon) -> None:
    front = daemon.start("attach")
    connection = daemon.talk()
    connection.session(0)
    connection.output(b"!")
    assert front.stdout and front.stdout.read(1) == b"!"
    front.send_signal(signal.SIGTERM)
    assert front.wait() == -signal.SIGTERM
    assert connection.receive() is None


def test_ignored_signals_stay_ignored(daemon: Daemon) -> None:
    front = daemon.start("-c", f"trap '' INT HUP; exec {daemon.front} ps", executable="/bin/sh")
    connection = daemon.talk()
    front.send_signal(signal.SIGHUP)
    front.send_signal(signal.SIGINT)
    front.send_signal(signal.SIGTERM)
    assert connection.expect(peer.SIGNAL).value == signal.SIGTERM
    connection.exit(0)
    assert front.wait() == 0


# ---- stdin ----


def test_stdin_is_relayed_when_told(daemon: Daemon) -> None:
    front = daemon.start("run", "-i", stdin=subprocess.PIPE)
    assert front.stdin
    connection = daemon.talk()
    connection.session(peer.RELAY_STDIN)
    text = os.urandom(200_000)
    front.stdin.write(text)
    front.stdin.close()
    connection.expect_input(text)
    connection.expect(peer.INPUT_EOF)
    connection.exit(0)
    assert front.wait() == 0


def test_stdin_is_left_alone_when_not_told(daemon: Daemon) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"mine")
    front = daemon.start("run", stdin=reader)
    connection = daemon.talk()
    connection.session(0)
    connection.exit(0)
    assert front.wait() == 0
    assert os.read(reader, 10) == b"mine"
    os.close(reader)
    os.close(writer)


def test_peer_that_reads_no_input_does_not_hold_signals(daemon: Daemon) -> None:
    front = daemon.start("run", "-i", stdin=subprocess.PIPE)
    assert front.stdin
    connection = daemon.talk()
    connection.session(peer.RELAY_STDIN)
    os.set_blocking(front.stdin.fileno(), False)
    poll = select.poll()
    poll.register(front.stdin, select.POLLOUT)
    while poll.poll(200):  # until socket and pipe are full
        front.stdin.raw.write(b"x" * 4096)  # type: ignore[attr-defined]
    front.send_signal(signal.SIGTERM)
    assert front.wait() == -signal.SIGTERM


# ---- the other program ----


def said(daemon: Daemon, why: str) -> bytes:
    return f"why={why} front={daemon.front} root={daemon.root} args=ps -a\n".encode()


def test_no_daemon_goes_to_python(daemon: Daemon, script: Path) -> None:
    daemon.listener.close()
    for _ in range(2):
        front = daemon.start("ps", "-a")
        assert front.communicate() == (said(daemon, "absent"), b"")
        assert front.returncode == 7
        (daemon.root / "run/front.sock").unlink(missing_ok=True)


@pytest.mark.parametrize("host", ["env", "option"])
def test_remote_host_goes_to_python(daemon: Daemon, script: Path, host: str) -> None:
    if host == "env":
        front = daemon.start("ps", "-a", env=daemon.env | {"COVE_HOST": "unix:///x"})
        assert front.communicate() == (said(daemon, "host"), b"")
    else:
        front = daemon.start("-H", "unix:///x", "ps")
        assert front.communicate()[0].startswith(b"why=host")


@pytest.mark.parametrize(("value", "why"), [(-2, "refused"), (-3, "version")])
def test_refused_goes_to_python(daemon: Daemon, script: Path, value: int, why: str) -> None:
    front = daemon.start("ps", "-a")
    connection = daemon.talk()
    connection.exit(value)
    assert front.communicate() == (said(daemon, why), b"")
    assert front.returncode == 7


def test_refused_front_gives_python_its_signals_back(daemon: Daemon, script: Path) -> None:
    script.write_text("#!/bin/sh\ngrep SigBlk /proc/self/status\nls /proc/self/fd | wc -l\n")
    front = daemon.start("ps")
    connection = daemon.talk()
    connection.exit(-2)
    out, _ = front.communicate()
    assert out.split() == [b"SigBlk:", b"0000000000000000", b"4"]


def test_symlinked_front_finds_python_beside_its_target(
    daemon: Daemon, script: Path, tmp_path: Path
) -> None:
    daemon.listener.close()
    (tmp_path / "cove").symlink_to(daemon.front)
    ran = subprocess.run([tmp_path / "cove", "ps", "-a"], env=daemon.env, capture_output=True)
    assert ran.stdout == said(daemon, "absent")


def test_python_on_the_path_is_the_last_resort(
    daemon: Daemon, script: Path, tmp_path: Path
) -> None:
    daemon.listener.close()
    script.rename(tmp_path / "cove-python")
    env = daemon.env | {"PATH": f"/nonexistent:{tmp_path}:{daemon.env['PATH']}"}
    ran = subprocess.run([daemon.front, "ps", "-a"], env=env, capture_output=True)
    assert ran.stdout == said(daemon, "absent")


@pytest.mark.parametrize("with_python", [True, False])
def test_socket_out_of_reach(daemon: Daemon, script: Path, with_python: bool) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: uid is not 0")
    daemon.front.parent.parent.chmod(0o755)
    (daemon.root / "run").chmod(0o700)
    if not with_python:
        script.unlink()
    front = daemon.start("ps", "-a", user=65534)
    if with_python:
        assert front.communicate() == (said(daemon, "denied"), b"")
    else:
        text = b"cove: cannot reach the daemon: permission denied\n  hint: run it with sudo\n"
        assert front.communicate() == (b"", text)
        assert front.returncode == 125


def test_without_python_the_error_has_a_hint(daemon: Daemon) -> None:
    daemon.listener.close()
    ran = subprocess.run(
        [daemon.front, "ps"], env={"COVE_ROOT": str(daemon.root)}, capture_output=True, text=True
    )
    assert ran.returncode == 125
    assert ran.stderr.startswith(
        "cove: cannot find cove-python, which belongs beside this program\n  hint: "
    )


def test_front_needs_no_libraries(daemon: Daemon) -> None:
    ran = subprocess.run(["ldd", daemon.front], capture_output=True, text=True)
    assert "not a dynamic executable" in ran.stderr or "statically linked" in ran.stdout
