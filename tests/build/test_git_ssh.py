"""``ADD ssh://...``: git over ssh, by a real server, with the caller's agent and known hosts."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.build.conftest import Build
from tests.build.test_builds import says
from tests.build.test_git import NET, repo
from tests.conftest import need, need_root
from tests.driver import Cove, wait_until

__all__ = ["repo"]

pytestmark = pytest.mark.usefixtures("tidied")
DROPBEAR = "/usr/sbin/dropbear"
"""Not sshd, whose package on a real host is a service at port 22 from then on."""
OWN_HOME = (
    "mount -t tmpfs -o mode=700 home ~root && "
    f'install -D -m 600 "$0" ~root/.ssh/authorized_keys && exec {DROPBEAR} -i -s -r "$1"'
)
"""Whom it lets in is said in the home of the one who comes: in a home of its own."""


@dataclass(frozen=True)
class Server:
    url: str
    port: int
    key: str
    env: dict[str, str]
    known: Path
    authorized: Path


def ssh_key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    need("ssh-agent")
    path = tmp_path / "agent"
    child = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        wait_until(path.exists, "the agent's socket")
        yield path
    finally:
        child.terminate()
        child.wait()


@pytest.fixture
def server(repo: Path, agent: Path, tmp_path: Path) -> Iterator[Server]:
    need_root()
    for tool in (DROPBEAR, "dropbearkey", "ssh-add", "ssh-keygen"):
        need(tool)
    host, authorized = tmp_path / "host", tmp_path / "authorized"
    words = ["dropbearkey", "-t", "ed25519", "-f", str(host)]
    made = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    (line,) = (line for line in made.splitlines() if line.startswith("ssh-ed25519 "))
    key = " ".join(line.split()[:2])
    authorized.write_text(ssh_key(tmp_path / "mine") + "\n")
    words = ["ssh-add", "-q", str(tmp_path / "mine")]
    subprocess.run(words, env=os.environ | {"SSH_AUTH_SOCK": str(agent)}, check=True)
    (tmp_path / "home/.ssh").mkdir(parents=True)
    env = {"SSH_AUTH_SOCK": str(agent), "HOME": str(tmp_path / "home")}
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            while True:
                sock, _ = listener.accept()
                with sock:
                    if stop.is_set():
                        return
                    argv = ["unshare", "-m", "sh", "-c", OWN_HOME, str(authorized), str(host)]
                    subprocess.run(argv, stdin=sock, stdout=sock, check=False)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            known = tmp_path / "home/.ssh/known_hosts"
            known.write_text(f"[127.0.0.1]:{port} {key}\n")
            yield Server(f"ssh://root@127.0.0.1:{port}{repo}", port, key, env, known, authorized)
        finally:
            stop.set()
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()


def test_a_context_over_ssh(cove: Cove, server: Server) -> None:
    """With the caller's agent, as buildx has it."""
    cove("build", "-t", "led", f"{server.url}#v1:sub", env=server.env)
    assert says(cove, "led", "cat /f") == "1\n"
    none = server.env | {"SSH_AUTH_SOCK": ""}
    failed = cove("build", server.url, code=1, env=none).err
    assert "over ssh needs an agent" in failed and "ssh-add" in failed
    server.known.unlink()
    failed = cove("build", server.url, code=1, env=server.env).err
    assert "the key of its host is not known" in failed and "hint: compare it" in failed


def test_a_repository_over_ssh(build: Build, cove: Cove, server: Server, tmp_path: Path) -> None:
    text = f"FROM bb\nADD {server.url}#v1:sub /x/\n"
    flags = (*NET, "--ssh", "default", "-t", "over")
    build(text, *flags, env=server.env)
    assert says(cove, "over", "cat /x/f") == "1\n"
    failed = build(text, *NET, code=1).err
    assert "over ssh needs an agent" in failed and "--ssh default" in failed
    assert "own loopback" in build(text, "--ssh", "default", code=1, env=server.env).err

    def fails(why: str) -> str:
        failed = build(text, *flags, "--no-cache", code=1, env=server.env).err
        assert why in failed and "Dockerfile:2" in failed, failed
        return failed

    server.known.write_text(f"127.0.0.1 {server.key}\n")  # of another port
    assert "hint: compare it" in fails("the key of its host is not known")
    server.known.write_text(f"[127.0.0.1]:{server.port} {ssh_key(tmp_path / 'other')}\n")
    fails("its host has another key than the one that is known")
    server.known.write_text(f"[127.0.0.1]:{server.port} {server.key}\n")
    server.authorized.write_text("")
    fails("its server takes none of the agent's keys")
