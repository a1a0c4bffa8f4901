"""A daemon that systemd starts: the socket handed over, the word that it is ready, and the place of
one that somebody else started.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest

from tests.conftest import need
from tests.driver import Cove, wait_end, wait_until

# LISTEN_PID is that of the daemon: what this shell becomes.
BECOME = 'exec 3<&"$1"; shift; LISTEN_PID=$$ exec "$@"'


@contextmanager
def supervised(cove: Cove, listener: socket.socket, **env: str) -> Iterator[subprocess.Popen[str]]:
    """As systemd starts it, until it says READY=1."""
    place = f"{cove.root}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(place)
        notify.settimeout(120)
        words = ["-P", "-m", "cove.daemon", "--root", str(cove.root), "--foreground"]
        daemon = subprocess.Popen(
            ["bash", "-c", BECOME, "-", str(listener.fileno()), sys.executable, *words],
            env=cove.env | {"NOTIFY_SOCKET": place, "LISTEN_FDS": "1"} | env,
            pass_fds=(listener.fileno(),),
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert notify.recv(100) == b"READY=1", daemon.communicate()
            yield daemon
        finally:
            os.unlink(place)
            daemon.kill()
            daemon.communicate()


@pytest.fixture
def listener(fresh_cove: Cove) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.bind(f"{fresh_cove.root}/handed.sock")
        made.listen()
        yield made


@contextmanager
def asking(listener: socket.socket) -> Iterator[socket.socket]:
    """Who connected before there was a daemon."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asks:
        asks.settimeout(120)
        asks.connect(listener.getsockname())
        asks.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
        yield asks


def running(listener: socket.socket) -> list[str]:
    client = docker.DockerClient(base_url=f"unix://{listener.getsockname()}", timeout=120)
    try:
        return [str(each.name) for each in client.containers.list()]
    finally:
        client.close()


def test_it_serves_the_socket_that_it_is_handed(fresh_cove: Cove, listener: socket.socket) -> None:
    path = Path(listener.getsockname())
    path.chmod(0o660)
    fresh_cove("run", "-d", "--init", "--name", "goes-on", "bb", "sleep", "1000")
    before = os.pidfd_open(fresh_cove.daemon_pid())
    with asking(listener) as early, supervised(fresh_cove, listener) as daemon:
        wait_end(before)  # it made way
        assert early.recv(15) == b"HTTP/1.1 200 OK"
        assert fresh_cove.daemon_pid() == daemon.pid
        assert running(listener) == ["goes-on"]
        assert fresh_cove("system", "docker-socket").out == f"unix://{path}\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        # What it starts has no descriptor and no word of it.
        env = fresh_cove("exec", "goes-on", "env").out
        assert "LISTEN" not in env and "NOTIFY" not in env
        fresh_cove("daemon", "stop")
        assert daemon.wait(120) == 0
    assert path.is_socket()
    # The next daemon is a command's, and makes way again.
    assert fresh_cove("ps", "--format", "{{.Names}}").out == "goes-on\n"
    assert fresh_cove("system", "docker-socket").out != f"unix://{path}\n"
    with supervised(fresh_cove, listener) as daemon:
        assert running(listener) == ["goes-on"]
    # Killed: a monitor starts one, which makes way as well.
    noted = fresh_cove.root / "run/daemon.pid"
    killed = ("", str(daemon.pid))  # "": while it is written
    wait_until(lambda: noted.read_text().strip() not in killed, "the daemon of a monitor")
    started = fresh_cove.daemon_pid()
    assert fresh_cove("ps", "--format", "{{.Names}}").out == "goes-on\n"
    assert fresh_cove.daemon_pid() == started
    with supervised(fresh_cove, listener):
        assert running(listener) == ["goes-on"]
        fresh_cove("rm", "-f", "goes-on")
        fresh_cove.stop_daemon()


def test_what_it_cannot_listen_on_is_refused(fresh_cove: Cove, tmp_path: Path) -> None:
    fresh_cove.stop_daemon()

    def said(fd: int, count: str = "1") -> str:
        words = [sys.executable, "-P", "-m", "cove.daemon", "--root", str(fresh_cove.root)]
        ran = subprocess.run(
            ["bash", "-c", BECOME, "-", str(fd), *words, "--foreground"],
            env=fresh_cove.env | {"LISTEN_FDS": count},
            pass_fds=(fd,),
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert ran.returncode == 125
        return ran.stderr

    with (tmp_path / "file").open("w") as file:
        assert "it is no socket" in said(file.fileno())
        assert 'cannot listen on "2" sockets' in said(file.fileno(), "2")
    with socket.socket() as tcp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        assert "on TCP only by COVE_DOCKER_TLS" in said(tcp.fileno())
    with socket.socket(socket.AF_UNIX) as idle:
        idle.bind(str(tmp_path / "idle"))
        assert "nobody listens on it" in said(idle.fileno())
    fresh_cove("ps")  # a daemon starts as ever


def test_the_files_for_systemd(cove: Cove, tmp_path: Path) -> None:
    written = cove("system", "units", "--group", "docker", str(tmp_path)).out.split()
    assert [Path(name).name for name in written] == ["cove.socket", "cove.service"]
    unit = (tmp_path / "cove.socket").read_text()
    assert "SocketMode=0660\nSocketGroup=docker\n" in unit
    alone = cove("system", "units", "--socket", "/run/x.sock").out
    assert "ListenStream=/run/x.sock\nSocketMode=0600\nDirectoryMode" in alone
    assert f"--root {cove.root} --foreground" in alone
    # What the daemon was told holds for the one that takes its place.
    assert 'Environment="COVE_VM_POOL=0"\n' in alone
    assert f'Environment="COVE_DEFAULT_NETWORK={cove.env["COVE_DEFAULT_NETWORK"]}"\n' in alone
    for words in (("--group", "a b"), ("--socket", "x"), ("--socket", "/a b")):
        cove("system", "units", *words, code=125)
    said = cove("system", "units", "/nothing/there", code=1).err
    assert said.endswith("\n  hint: mkdir -p /nothing/there\n")


def test_systemd_has_no_objection_to_the_files(cove: Cove, tmp_path: Path) -> None:
    need("systemd-analyze")
    written = cove("system", "units", str(tmp_path)).out.split()
    env = os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "SYSTEMD_LOG_LEVEL": "warning"}
    checked = subprocess.run(
        ["systemd-analyze", "verify", *written], env=env, capture_output=True, text=True
    )
    assert checked.returncode == 0 and "cove." not in checked.stderr, checked
