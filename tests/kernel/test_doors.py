"""The daemon's two doors: the front's socket and HTTP; who is let in, and how they are told."""

from __future__ import annotations

import array
import json
import os
import socket
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from cove.client.api import Client
from cove.client.transport import Http
from cove.engine import calls
from cove.errors import Conflict, CoveError, NotFound, UsageError
from cove.spec.machine import MachineSpec
from tests.driver import Cove, front_path
from tests.shared import no_scenario

HEADER = struct.Struct("<IiII")
REQUEST, EXIT = 32, 66


def door(cove: Cove) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(cove.root / "run/front.sock"))
    return sock


def payload(*argv: str) -> bytes:
    words = ("/", "cove", *argv)
    head = struct.pack("<4I2H", 1 + len(argv), 0, 0o022, 0, 24, 80)
    return head + "".join(f"{word}\0" for word in words).encode()


def ask(
    cove: Cove, data: bytes, fds: list[int], *, kind: int = REQUEST, protocol: int = 1
) -> tuple[int, str]:
    """(value, text) of MSG_EXIT."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    with door(cove) as sock:
        sock.sendmsg([HEADER.pack(kind, 0, len(data), protocol), data], rights)
        answer = sock.recv(1 << 16)
    got, value, length, _ = HEADER.unpack_from(answer)
    assert got == EXIT
    return value, answer[HEADER.size : HEADER.size + length].decode()


@pytest.fixture
def null() -> int:
    return os.open("/dev/null", os.O_RDWR)


# ---- the front's socket ----


@no_scenario("the doors of the daemon: who is let in, and how they are told")
def test_a_command_over_the_socket(cove: Cove, null: int, tmp_path: Path) -> None:
    out = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    assert ask(cove, payload("ps", "-q"), [null, out, null]) == (0, "")


@no_scenario("the doors of the daemon: who is let in, and how they are told")
def test_another_protocol_is_told_so(cove: Cove, null: int) -> None:
    value, text = ask(cove, payload("ps"), [null, null, null], protocol=99)
    assert value == -3 and "versions" in text


@no_scenario("the doors of the daemon: who is let in, and how they are told")
@pytest.mark.parametrize("data", [b"", b"x" * 10, struct.pack("<4I2H", 9, 9, 0, 0, 0, 0) + b"a\0"])
def test_garbage_is_answered_and_harms_nothing(cove: Cove, null: int, data: bytes) -> None:
    value, _ = ask(cove, data, [null, null, null])
    assert value in (-3, 125)
    cove("ps")


@no_scenario("the doors of the daemon: who is let in, and how they are told")
def test_a_request_without_descriptors(cove: Cove) -> None:
    assert ask(cove, payload("ps"), [])[0] == -3


@no_scenario("the doors of the daemon: who is let in, and how they are told")
def test_a_connection_that_says_nothing(cove: Cove) -> None:
    silent = [door(cove) for _ in range(8)]
    cove("ps")
    for sock in silent:
        sock.close()
    cove("ps")


@no_scenario("the doors of the daemon: who is let in, and how they are told")
@pytest.mark.parametrize(
    ("path", "what"), [("/", "a directory"), ("/dev/zero", "a device"), ("/dev/full", "a device")]
)
def test_descriptors_that_could_lead_out_are_refused(cove: Cove, path: str, what: str) -> None:
    stdin = os.open(path, os.O_RDONLY)
    process = cove.spawn("ps", stdin=stdin)
    os.close(stdin)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 125
    assert f"cove: cannot use standard input: it is {what}\n" in err.decode()


def test_a_caller_of_another_mount_namespace_goes_by_http(cove: Cove) -> None:
    """It may see other files than the daemon: nothing of its command line may be resolved there."""
    run = cove.of_kind("run", "--rm", "bb", "echo", "from afar")
    words = ["unshare", "-m", str(front_path()), *run]
    done = subprocess.run(words, env=cove.env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "from afar\n"), done.stderr


@no_scenario("the doors of the daemon: who is let in, and how they are told")
def test_only_the_owner_may_connect(cove: Cove) -> None:
    for name in ("front.sock", "api.sock"):
        assert (cove.root / "run" / name).stat().st_mode & 0o777 == 0o600
    assert (cove.root / "run").stat().st_mode & 0o777 == 0o700


def test_many_callers_at_once(cove: Cove) -> None:
    many = range(40 if cove.isolation == "container" else 4)
    processes = [cove.spawn("run", "--rm", "bb", "echo", str(n)) for n in many]
    outputs = [process.communicate(timeout=180) for process in processes]
    found = [
        (*output, process.returncode) for output, process in zip(outputs, processes, strict=True)
    ]
    assert found == [(f"{n}\n".encode(), b"", 0) for n in many]


# ---- HTTP ----


@pytest.fixture
def client(cove: Cove) -> Client:
    cove("ps")
    return Client(Http(str(cove.root / "run/api.sock")))


def test_verbs_over_http(client: Client, isolation: str) -> None:
    spec = MachineSpec(image="bb", command=("sh", "-c", "exit 4"), isolation=isolation)
    made = client.create(calls.Create(spec))
    client.start(calls.Start(made.id))
    assert client.wait(calls.Wait(made.id)).exit_code == 4
    assert client.inspect(calls.Inspect(made.id)).record.exit_code == 4
    assert made.id in {m.id for m in client.list(calls.List(all=True)).machines}
    client.remove(calls.Remove(made.id))
    with pytest.raises(NotFound, match="no such machine"):
        client.inspect(calls.Inspect(made.id))


def test_errors_keep_their_class_and_parts(client: Client, isolation: str) -> None:
    spec = MachineSpec(image="bb", command=("sleep", "1000"), isolation=isolation)
    made = client.run_detached(calls.Run(spec))
    with pytest.raises(Conflict) as caught:
        client.remove(calls.Remove(made.id))
    assert "is running" in caught.value.message and caught.value.hint
    client.remove(calls.Remove(made.id, force=True))


@no_scenario("the doors of the daemon: who is let in, and how they are told")
def test_a_spec_over_http_is_checked(client: Client) -> None:
    with pytest.raises(UsageError):
        client.create(calls.Create(MachineSpec(image="bb", hostname="not a name!" * 20)))


def test_logs_are_followed_over_http(client: Client, isolation: str) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.02; done"
    spec = MachineSpec(image="bb", command=("sh", "-c", script), isolation=isolation)
    made = client.run_detached(calls.Run(spec))
    entries = list(client.logs(calls.Logs(made.id, follow=True)))
    assert b"".join(entry.data for entry in entries) == b"1\n2\n3\n"
    client.remove(calls.Remove(made.id, force=True))


def test_a_session_over_http(cove: Cove) -> None:
    remote = {"COVE_HOST": f"unix://{cove.root}/run/api.sock"}
    done = cove(
        "run", "--rm", "-i", "bb", "sh", "-c", "cat; exit 3", stdin="in", code=3, env=remote
    )
    assert done.out == "in"
    done = cove("run", "--rm", "bb", "nope", code=127, env=remote)
    assert 'cannot run "nope"' in done.err


def raw(cove: Cove, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(cove.root / "run/api.sock"))
        sock.sendall(request)
        answer = b""
        while data := sock.recv(65536):
            answer += data
    return answer


@no_scenario("the doors of the daemon: who is let in, and how they are told")
@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (b"no.such.verb", b"{}", b"404"),
        (b"machine.inspect", b"not json", b"400"),
        (b"machine.inspect", b"{}", b"400"),
        (b"machine.run", b'{"spec":{"image":"bb"},"attach":["stdout"]}', b"400"),
    ],
)
def test_bad_requests(cove: Cove, path: bytes, body: bytes, status: bytes) -> None:
    head = b"POST /cove/v1/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % (path, len(body))
    answer = raw(cove, head + b"Connection: close\r\n\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


@no_scenario("the doors of the daemon: who is let in, and how they are told")
def test_two_hundred_requests_at_once(client: Client) -> None:
    failed: list[CoveError] = []

    def ask_one() -> None:
        try:
            client.version()
        except CoveError as error:
            failed.append(error)

    threads = [threading.Thread(target=ask_one) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
