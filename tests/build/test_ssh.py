"""``--ssh`` and ``RUN --mount=type=ssh``: an agent for one step, and what may be asked of it."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.conftest import Build
from tests.build.test_builds import says, wait_for_line
from tests.driver import Cove

pytestmark = pytest.mark.usefixtures("tidied")

KEYS = b"\x0c\0\0\0\0"
"""What an agent says that has none."""


class Agent:
    """One that says what it was asked."""

    def __init__(self, path: Path) -> None:
        self.asked: list[bytes] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with sock:
                while len(head := sock.recv(4, socket.MSG_WAITALL)) == 4:
                    asked = sock.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL)
                    self.asked.append(asked)
                    sock.sendall(struct.pack(">I", len(KEYS)) + KEYS)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path / "agent")
    yield made
    made.close()


def asks(number: int, path: str = "$SSH_AUTH_SOCK") -> str:
    return f"/bin/probe agent {path} {number}"


def test_a_step_asks_the_agent(build: Build, cove: Cove, agent: Agent, tmp_path: Path) -> None:
    """For keys and signatures; nothing else of what it asks comes there."""
    text = f"""\
FROM bb
USER 7
RUN --mount=type=ssh,uid=7 {asks(11)} >/tmp/list; {asks(13)} >/tmp/sign; {asks(25)} >/tmp/lock
RUN --mount=type=ssh,id=other,target=/a/sock,mode=0666 {asks(11)} >/tmp/other; \\
    echo $SSH_AUTH_SOCK >>/tmp/other
RUN --mount=type=ssh {asks(11)} >/tmp/root
RUN ls /run/buildkit /a >/tmp/left 2>&1; echo "[$SSH_AUTH_SOCK]" >>/tmp/left
"""
    flags = ("--ssh", "default", "--ssh", f"other={tmp_path}/agent", "-t", "asked")
    build(text, *flags, env={"SSH_AUTH_SOCK": str(tmp_path / "agent")})
    said = says(cove, "asked", "cd /tmp; cat list sign lock other root").split()
    assert said == ["12", "12", "5", "12", "/a/sock", "errno", "13"]
    assert agent.asked == [b"\x0b", b"\x0d", b"\x0b"]
    left = says(cove, "asked", "cat /tmp/left").splitlines()
    assert left[-1] == "[]" and "agent" not in "".join(left)
    assert "SSH_AUTH_SOCK" not in cove("image", "inspect", "asked").out
    again = build(text, *flags, env={"SSH_AUTH_SOCK": str(tmp_path / "agent")})
    assert again.err.count("CACHED") == 4, "an agent is no part of what a step is known by"


def test_agents_that_are_not_there(build: Build, tmp_path: Path) -> None:
    bare = 'FROM bb\nRUN --mount=type=ssh echo "[$SSH_AUTH_SOCK]"\n'
    assert " []\n" in build(bare).err
    failed = build("FROM bb\nRUN --mount=type=ssh,required true\n", code=1)
    assert 'the agent "default" is not given' in failed.err and "--ssh default" in failed.err
    failed = build(bare, "--ssh", "default", code=1, env={"SSH_AUTH_SOCK": ""})
    assert "SSH_AUTH_SOCK is not set" in failed.err
    (tmp_path / "key").write_text("k")
    failed = build(bare, "--ssh", f"default={tmp_path}/key", code=1)
    assert "it is no socket of an agent" in failed.err and "ssh-add" in failed.err
    assert "no such file" in build(bare, "--ssh", f"a={tmp_path}/none", code=1).err
    assert "more sockets than one" in build(bare, "--ssh", "a=/x,/y", code=1).err


def test_a_socket_that_is_swapped_meanwhile(
    build: Build, cove: Cove, agent: Agent, tmp_path: Path
) -> None:
    """The agent is who had the path when the build began."""
    other = socket.socket(socket.AF_UNIX)
    text = f"FROM bb\nRUN echo begun\nRUN --mount=type=ssh {asks(11)} >/said\n"
    (tmp_path / "Dockerfile").write_text(
        text.replace("begun", "begun; until test -e /go; do usleep 9; done")
    )
    with other:
        caller = cove.spawn(
            "build", "--progress=plain", "-t", "swapped", "--ssh", f"default={tmp_path}/agent",
            str(tmp_path),
        )  # fmt: skip
        wait_for_line(caller, b" begun")
        (tmp_path / "agent").unlink()
        other.bind(str(tmp_path / "agent"))
        other.listen()
        (name,) = cove("ps", "-q").out.split()
        cove("exec", name, "touch", "/go")
        caller.communicate()
        assert caller.returncode == 0
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()
    assert says(cove, "swapped", "cat /said") == "12\n" and agent.asked == [b"\x0b"]
