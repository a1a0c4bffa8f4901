"""``RUN --mount=type=ssh`` in virtual machines: what a container's step is given, and no more."""

from __future__ import annotations

import base64
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.engine.vms.visitors import HEAD, INPUT, INPUT_EOF, TAKEN, WINDOW, GuestVisitor
from tests.build.conftest import Build
from tests.build.test_builds import says, wait_for_line
from tests.build.test_ssh import asks
from tests.conftest import open_cove
from tests.driver import Cove, wait_until

VM = ("--isolation", "vm")
LIST = b"\x00\x00\x00\x01\x0b"


@pytest.fixture(scope="module")
def cove(bb_tar: Path) -> Iterator[Cove]:
    with open_cove(bb_tar, "vm") as driver:
        yield driver


class Agent:
    """OpenSSH's own, with a key."""

    def __init__(self, place: Path) -> None:
        self.path, key = place / "agent", place / "key"
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a key", "-f", str(key)]
        subprocess.run(words, check=True)
        self.key = base64.b64decode((place / "key.pub").read_text().split()[1])
        self.process = subprocess.Popen(["ssh-agent", "-D", "-a", str(self.path)], stdout=-3)
        wait_until(self.path.exists, "the agent")
        env = {**os.environ, "SSH_AUTH_SOCK": str(self.path)}
        subprocess.run(["ssh-add", "-q", str(key)], check=True, env=env)

    def ask(self, asked: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.path))
            sock.sendall(asked)
            (length,) = struct.unpack(">I", sock.recv(4, socket.MSG_WAITALL))
            return sock.recv(length, socket.MSG_WAITALL)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    made = Agent(tmp_path_factory.mktemp("agent"))
    yield made
    made.end()


def text_of(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


ASKS = f"""\
FROM bb
COPY sign /sign
USER 7
RUN --mount=type=ssh,uid=7,gid=8 --mount=type=ssh,id=other,target=/a/sock,mode=0666 <<END
set -e
cd /tmp
test -S $SSH_AUTH_SOCK && stat -c '%n %u %g %a' $SSH_AUTH_SOCK /a/sock >stat
printf '\\0\\0\\0\\1\\013' >list
/bin/probe ask $SSH_AUTH_SOCK <list | base64 -w0 >keys
/bin/probe ask /a/sock </sign | base64 -w0 >signed
{asks(25)} >lock
for one in $(seq 8); do
    (for again in $(seq 3); do /bin/probe ask /a/sock <list | base64 -w0; echo; done >many.$one) &
done
wait
cat many.* | sort -u >many
rm many.* list
END
RUN --mount=type=ssh {asks(11)} >/tmp/other
RUN ls /run/buildkit /a >/tmp/left 2>&1; echo "[$SSH_AUTH_SOCK]" >>/tmp/left
"""


@pytest.mark.usefixtures("tidied")
def test_a_step_asks_the_agent(build: Build, cove: Cove, agent: Agent, tmp_path: Path) -> None:
    """For keys and signatures, of which one takes more than the channel's window; one at a time and
    many at once. No layer has anything of it.
    """
    large = b"\x0d" + text_of(agent.key) + text_of(os.urandom(180_000)) + bytes(4)
    (tmp_path / "sign").write_bytes(text_of(large))
    flags = ("--ssh", f"default={agent.path}", "--ssh", f"other={agent.path}", "-t", "asked")
    build(ASKS, *VM, *flags)
    stat = "/run/buildkit/ssh_agent.0 7 8 600\n/a/sock 0 0 666\n"
    assert says(cove, "asked", "cat /tmp/stat") == stat
    found = says(cove, "asked", "cd /tmp; cat keys; echo; cat signed; echo; cat many")
    keys, signed, many = found.split()
    assert base64.b64decode(keys) == agent.ask(LIST) and agent.key in agent.ask(LIST)
    assert base64.b64decode(signed) == agent.ask(text_of(large))
    assert many == keys
    assert says(cove, "asked", "cd /tmp; cat lock other").split() == ["5", "errno", "13"]
    left = says(cove, "asked", "cat /tmp/left").splitlines()
    assert left[-1] == "[]" and "agent" not in "".join(left)
    assert "SSH_AUTH_SOCK" not in cove("image", "inspect", "asked").out


GONE = f"""\
FROM bb
RUN --mount=type=ssh {asks(11)}; echo begun; until test -e /go; do usleep 9; done; {asks(11)}
"""


@pytest.mark.usefixtures("tidied")
def test_an_agent_that_ends_meanwhile(cove: Cove, agent: Agent, tmp_path: Path) -> None:
    """The step's program is told, as it would be without a guest in between."""
    (tmp_path / "Dockerfile").write_text(GONE)
    flags = ("--progress=plain", *VM, "--ssh", f"default={agent.path}")
    process = cove.spawn("build", *flags, str(tmp_path))
    wait_for_line(process, b" begun")
    agent.end()
    (name,) = cove("ps", "-q").out.split()
    cove("exec", name, "touch", "/go")
    _, said = process.communicate(timeout=240)
    assert process.returncode == 1 and b"RUN ended with exit code 1" in said, said


FLOOD = f"""\
FROM bb
RUN --mount=type=ssh <<END
mkdir /closed
for one in $(seq 40); do
    (/bin/probe ask $SSH_AUTH_SOCK </dev/null; touch /closed/$one) &
done
until test $(ls /closed | wc -l) -ge 24; do usleep 10000; done
ls /closed | wc -l >/said
killall probe
wait
dd if=/dev/urandom of=/noise bs=4k count=9
for one in $(seq 100); do /bin/probe ask $SSH_AUTH_SOCK </noise; done
until test "$({asks(11)})" = 12; do usleep 10000; done
END
"""


@pytest.mark.usefixtures("tidied")
def test_a_step_that_floods_the_agent(build: Build, cove: Cove, agent: Agent) -> None:
    """Sixteen at once, as of a container; what makes no sense reaches nobody."""
    flags = ("--ssh", f"default={agent.path}", "-t", "flooded")
    build(FLOOD, *VM, *flags)
    assert says(cove, "flooded", "cat /said") == "24\n"
    assert agent.key in agent.ask(LIST)


@pytest.mark.parametrize(
    "said",
    [
        [(INPUT, 0, b"x")] * (WINDOW + 1),
        [(TAKEN, WINDOW + 1, b"")],
        [(TAKEN, -1, b"")],
        [(INPUT_EOF, 0, b""), (INPUT, 0, b"x")],
        [(98, 0, b"")],
    ],
)
def test_a_guest_that_does_not_keep_to_the_rules(said: list[tuple[int, int, bytes]]) -> None:
    """It loses the visitor: nothing is kept for it beyond the window."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        visitor = GuestVisitor(ours)
        for kind, value, data in said:
            theirs.send(HEAD.pack(kind, value, len(data), 0) + data)
        with pytest.raises(EOFError):
            visitor.sendall(bytes(7680 * (WINDOW + 1)))
        visitor.close()
