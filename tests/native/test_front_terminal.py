"""The front on a terminal, alone: raw mode, size, detach keys, and job control under a shell."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native import peer
from tests.native.fronts import played_daemon, played_patience  # noqa: F401
from tests.native.peer import Connection, Daemon, Tty, terminal

DETACH_KEYS = b"\x10\x11"
INTERACTIVE = peer.RELAY_STDIN | peer.RAW | peer.RELAY_STDOUT | peer.RELAY_STDERR


def interactive(
    daemon: Daemon, tty: Tty, keys: bytes = b"", flags: int = INTERACTIVE
) -> Connection:
    connection = daemon.talk()
    connection.session(flags, keys)
    connection.output(b"ready>")
    tty.wait_for(b"ready>")
    return connection


def test_terminal_is_named_in_the_request(daemon: Daemon) -> None:
    with terminal([str(daemon.front), "ps"], daemon.env, rows=40, cols=132) as tty:
        connection = daemon.accept()
        request = connection.request()
        assert (request.terminals, request.rows, request.cols) == (7, 40, 132)
        connection.exit(0)
        assert tty.wait() == 0


def test_raw_mode_is_set_and_restored_on_exit(daemon: Daemon) -> None:
    with terminal([str(daemon.front), "run"], daemon.env) as tty:
        before = tty.modes()
        connection = interactive(daemon, tty)
        assert tty.is_raw()
        tty.type(b"\x03\x1a\x04a")
        connection.expect_input(b"\x03\x1a\x04a")
        connection.exit(9, "cove: text\n")
        assert tty.wait() == 9
        assert tty.modes() == before
        tty.wait_for(b"cove: text\r\n")


def test_raw_mode_is_restored_when_the_peer_is_lost(daemon: Daemon) -> None:
    with terminal([str(daemon.front), "run"], daemon.env) as tty:
        before = tty.modes()
        interactive(daemon, tty).close()
        assert tty.wait() == 125
        assert tty.modes() == before
        tty.wait_for(b"cove: lost the machine's monitor\r\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_raw_mode_is_restored_after_a_signal(daemon: Daemon, number: signal.Signals) -> None:
    with terminal([str(daemon.front), "run"], daemon.env) as tty:
        before = tty.modes()
        interactive(daemon, tty)
        os.kill(tty.pid, number)
        assert tty.wait() == -number
        assert tty.modes() == before


def test_session_that_is_not_raw_keeps_the_modes(daemon: Daemon) -> None:
    with terminal([str(daemon.front), "run", "-i"], daemon.env) as tty:
        connection = interactive(daemon, tty, flags=INTERACTIVE & ~peer.RAW)
        assert not tty.is_raw()
        tty.type(b"line\n\x04")
        connection.expect_input(b"line\n")
        connection.expect(peer.INPUT_EOF)
        connection.exit(0)
        assert tty.wait() == 0


def test_resize_is_told(daemon: Daemon) -> None:
    with terminal([str(daemon.front), "run"], daemon.env) as tty:
        connection = interactive(daemon, tty)
        tty.resize(50, 200)
        assert connection.expect(peer.RESIZE).payload == (50).to_bytes(2, "little") + (
            200
        ).to_bytes(2, "little")


def test_terminal_that_hangs_up_ends_the_front(daemon: Daemon) -> None:
    with terminal([str(daemon.front), "run"], daemon.env) as tty:
        connection = interactive(daemon, tty)
        os.close(tty.master)
        os.close(tty.slave)
        assert tty.wait() == -signal.SIGHUP
        while connection.receive() is not None:
            pass
        tty.master = os.open("/dev/null", os.O_RDONLY)
        tty.slave = os.open("/dev/null", os.O_RDONLY)


# ---- detach keys ----


@pytest.mark.parametrize(
    ("keys", "typed", "sent"),
    [
        (DETACH_KEYS, [b"ab\x10\x11"], b"ab"),
        (DETACH_KEYS, [b"ab\x10", b"\x11"], b"ab"),
        (DETACH_KEYS, [b"\x10", b"x", b"\x10", b"\x11"], b"\x10x"),
        (DETACH_KEYS, [b"\x10\x10\x11"], b"\x10"),
        (DETACH_KEYS, [b"\x11\x10", b"\x10\x10", b"\x11zz"], b"\x11\x10\x10"),
        (b"aab", [b"aa", b"aa", b"b"], b"aa"),
        (b"abab", [b"aba", b"abab"], b"aba"),
        (b"q", [b"xq"], b"x"),
    ],
)
def test_detach_keys(daemon: Daemon, keys: bytes, typed: list[bytes], sent: bytes) -> None:
    with terminal([str(daemon.front), "attach"], daemon.env) as tty:
        before = tty.modes()
        connection = interactive(daemon, tty, keys=keys)
        for number, text in enumerate(typed):
            tty.type(text)
            # Its answer shows that the front has read so far: each piece is a read of its own.
            connection.output(b"<%d>" % number)
            tty.wait_for(b"<%d>" % number)
        if sent:
            connection.expect_input(sent)
        connection.expect(peer.DETACH)
        connection.exit(0)
        assert tty.wait() == 0
        assert tty.modes() == before


def test_end_of_file_after_detach_is_no_loss(daemon: Daemon) -> None:
    with terminal([str(daemon.front), "attach"], daemon.env) as tty:
        connection = interactive(daemon, tty, keys=DETACH_KEYS)
        tty.type(DETACH_KEYS)
        connection.expect(peer.DETACH)
        connection.close()
        assert tty.wait() == 0
        assert not tty.is_raw()


def test_without_keys_everything_is_input(daemon: Daemon) -> None:
    with terminal([str(daemon.front), "attach"], daemon.env) as tty:
        connection = interactive(daemon, tty)
        tty.type(DETACH_KEYS)
        connection.expect_input(DETACH_KEYS)


# ---- job control, with a shell ----


@pytest.fixture
def shell(daemon: Daemon) -> Iterator[Tty]:
    """dash: unlike bash it leaves the terminal's modes to those who change them."""
    env = daemon.env | {"PS1": "shell> ", "J": str(daemon.root / "jobs")}
    with terminal(["/bin/dash", "-i"], env) as tty:
        tty.wait_for(b"shell> ")
        yield tty


def test_suspend_and_resume_restore_and_set_raw_mode(daemon: Daemon, shell: Tty) -> None:
    before = shell.modes()
    shell.type(b"%s run\n" % bytes(daemon.front))
    connection = interactive(daemon, shell)
    assert shell.is_raw()
    os.kill(foreground(shell), signal.SIGTSTP)
    shell.wait_for(b"Stopped")
    shell.wait_for(b"shell> ")
    assert shell.modes() == before
    shell.type(b"fg\n")
    assert connection.expect(peer.RESIZE).payload == b"\x18\x00\x50\x00"
    connection.output(b"again>")
    shell.wait_for(b"again>")
    assert shell.is_raw()
    shell.type(b"typed")
    while (got := connection.receive()) and got.kind == peer.RESIZE:
        pass
    assert got and got.payload == b"typed"
    connection.exit(6)
    shell.wait_for(b"shell> ")
    shell.type(b"echo code=$?\n")
    shell.wait_for(b"code=6")


def foreground(tty: Tty) -> int:
    """The foreground process group of a terminal that is not ours: proc(5) knows it."""
    fields = Path(f"/proc/{tty.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[5])


def test_typed_suspend_when_not_raw(daemon: Daemon, shell: Tty) -> None:
    shell.type(b"%s run -i\n" % bytes(daemon.front))
    connection = interactive(daemon, shell, flags=INTERACTIVE & ~peer.RAW)
    shell.type(b"\x1a")
    shell.wait_for(b"Stopped")
    shell.type(b"fg\n")
    connection.expect(peer.RESIZE)
    connection.exit(0)
    shell.wait_for(b"shell> ")


@pytest.mark.parametrize("flags", [INTERACTIVE, INTERACTIVE & ~peer.RAW])
def test_background_session_stops_until_foreground(daemon: Daemon, shell: Tty, flags: int) -> None:
    shell.type(b"%s run -it &\n" % bytes(daemon.front))
    connection = daemon.talk()
    connection.session(flags)
    connection.output(b"ready>")
    shell.type(b"while jobs >$J; ! grep -q Stopped $J; do :; done; cat $J\n")
    shell.wait_for(b"Stopped")
    shell.type(b"fg\n")
    shell.wait_for(b"ready>")
    assert shell.is_raw() == bool(flags & peer.RAW)
    connection.exit(0)
    shell.wait_for(b"shell> ")


def test_background_command_that_needs_no_terminal_runs(daemon: Daemon, shell: Tty) -> None:
    shell.type(b"%s run & wait; echo code=$?\n" % bytes(daemon.front))
    connection = daemon.talk()
    connection.session(peer.FORWARD_SIGNALS)
    connection.output(b"output>")
    shell.wait_for(b"output>")
    connection.exit(0)
    shell.wait_for(b"code=")


def test_stop_without_warning_and_resume(daemon: Daemon, shell: Tty) -> None:
    """kill -STOP leaves the front no time to restore: what it saved first is what it restores."""
    shell.type(b"%s run\n" % bytes(daemon.front))
    connection = interactive(daemon, shell)
    os.kill(foreground(shell), signal.SIGSTOP)
    shell.wait_for(b"shell> ")
    shell.type(b"fg\n")
    connection.expect(peer.RESIZE)
    connection.output(b"again>")
    shell.wait_for(b"again>")
    assert shell.is_raw()
    connection.exit(0)
    shell.wait_for(b"shell> ")
    shell.type(b"stty -a\n")
    shell.wait_for(b" icanon")


def test_orphaned_front_goes_on_after_a_stop_signal(daemon: Daemon) -> None:
    """Nobody could wake it: it must not stop."""
    with terminal([str(daemon.front), "run"], daemon.env) as tty:
        connection = interactive(daemon, tty)
        os.kill(tty.pid, signal.SIGTSTP)
        connection.expect(peer.RESIZE)
        assert tty.is_raw()
        connection.exit(0)
        assert tty.wait() == 0
