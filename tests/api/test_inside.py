"""What is done in a container and seen of it: exec, top, stats, and files in and out."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import docker
import pytest

from cove.planner.defaults import PIDS
from tests.api.conftest import Command, Raw
from tests.driver import Cove, wait_until

Client = docker.DockerClient


@pytest.fixture
def box(client: Client) -> Iterator[Any]:
    made = client.containers.run("bb", ["sleep", "1000"], detach=True, name="box")
    yield made
    made.remove(force=True)


def new_exec(raw: Raw, words: list[str], **fields: Any) -> str:
    body = {"Cmd": words, "AttachStdout": True, "AttachStderr": True} | fields
    answer = raw("POST", "/containers/box/exec", body)
    assert answer.status == 201, answer
    return str(json.loads(answer.body)["Id"])


def seen(raw: Raw, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(raw("GET", f"/exec/{name}/json").body)
    return found


@pytest.mark.usefixtures("box")
def test_a_second_process_runs_ends_and_is_told_of(raw: Raw) -> None:
    for _ in range(20):  # its end may come together with its beginning
        name = new_exec(raw, ["sh", "-c", "echo out; echo err >&2; exit 3"])
        with raw.upgrade(f"/exec/{name}/start", {"Detach": False}) as session:
            assert sorted(session.frames()) == [(1, b"out\n"), (2, b"err\n")]
        told = seen(raw, name)
        assert (told["Running"], told["ExitCode"], told["ID"]) == (False, 3, name)
    assert raw("POST", f"/exec/{name}/start", {"Detach": True}).status == 409
    assert raw("GET", "/exec/none/json").message == "No such exec instance: none"


@pytest.mark.usefixtures("box")
def test_a_second_process_hears_its_caller(raw: Raw) -> None:
    name = new_exec(raw, ["cat"], AttachStdin=True)
    assert seen(raw, name)["Running"] is False
    with raw.upgrade(f"/exec/{name}/start", {}) as session:
        session.send(b"word")
        session.end()
        assert session.frames() == [(1, b"word")]
    name = new_exec(raw, ["sh"], AttachStdin=True, Tty=True, User="ada", Env=["A=b"])
    start = {"Tty": True, "ConsoleSize": [20, 70]}
    with raw.upgrade(f"/exec/{name}/start", start) as session:
        session.send(b"stty size; id -un; echo $A; exit 4\n")
        found = session.rest()
    assert b"20 70\r\n" in found and b"ada\r\n" in found and b"b\r\n" in found
    assert seen(raw, name)["ExitCode"] == 4


@pytest.mark.usefixtures("box")
def test_who_has_said_all_hears_all_of_the_rest(raw: Raw) -> None:
    name, data = new_exec(raw, ["cat"], AttachStdin=True), os.urandom(1 << 20)
    with ThreadPoolExecutor(1) as pool, raw.upgrade(f"/exec/{name}/start", {}) as session:

        def say() -> None:
            session.send(data)
            session.end()

        saying = pool.submit(say)
        assert session.frames() == [(1, data)]
        saying.result(60)
    assert seen(raw, name)["ExitCode"] == 0


@pytest.mark.usefixtures("box")
def test_keys_detach_from_a_second_process_and_it_goes_on(raw: Raw) -> None:
    keys = {"AttachStdin": True, "Tty": True, "DetachKeys": "ctrl-x,x"}
    name = new_exec(raw, ["cat"], **keys)
    with raw.upgrade(f"/exec/{name}/start", {"Tty": True}) as session:
        session.send(b"\x18x")
        session.rest()
    assert seen(raw, name)["Running"] is True


@pytest.mark.usefixtures("box")
def test_a_second_process_gets_its_size_while_it_starts(raw: Raw) -> None:
    """Docker's command asks for it beside the start, and again if that was too early."""
    name = new_exec(raw, ["sh"], AttachStdin=True, Tty=True)
    resize = f"/exec/{name}/resize?h=33&w=99"
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(raw.upgrade, f"/exec/{name}/start", {"Tty": True})
        statuses = set()
        while 200 not in statuses:
            statuses.add(raw("POST", resize).status)
        with coming.result(60) as session:
            session.send(b"stty size; exit\n")
            assert b"33 99\r\n" in session.rest()
    assert statuses <= {200, 409}, statuses


@pytest.mark.usefixtures("box")
def test_a_second_process_that_cannot_run_says_why(raw: Raw) -> None:
    name = new_exec(raw, ["nosuch"])
    with raw.upgrade(f"/exec/{name}/start", {}) as session:
        ((stream, said),) = session.frames()
    assert stream == 2 and b"no such file or directory" in said
    assert seen(raw, name)["ExitCode"] == 127
    name = new_exec(raw, ["nosuch"])
    answer = raw("POST", f"/exec/{name}/start", {"Detach": True})
    assert answer.status == 400 and "no such file or directory" in answer.message
    assert raw("POST", "/containers/box/exec", {"Cmd": []}).status == 400


def test_a_detached_process_goes_on(box: Any, client: Client, raw: Raw) -> None:
    name = new_exec(raw, ["sh", "-c", "touch /was-here; sleep 4321"])
    assert raw("POST", f"/exec/{name}/start", {"Detach": True}).status == 200
    wait_until(lambda: seen(raw, name)["Running"], "it runs")
    box.reload()
    assert box.attrs["ExecIDs"] == [name]
    wait_until(
        lambda: any("sleep 4321" in row[-1] for row in box.top()["Processes"]), "its program"
    )
    box.kill()
    box.wait()
    refused = raw("POST", "/containers/box/exec", {"Cmd": ["true"]})
    assert refused.status == 409 and refused.message.endswith("is not running")


def test_what_it_uses_is_counted(box: Any) -> None:
    once = box.stats(stream=False)
    assert once["name"] == "/box" and once["memory_stats"]["usage"] > 0
    assert once["cpu_stats"]["system_cpu_usage"] > once["precpu_stats"]["system_cpu_usage"]
    assert once["pids_stats"]["current"] >= 1
    assert once["pids_stats"]["limit"] == PIDS
    rounds = box.stats(decode=True)
    assert next(rounds)["id"] == box.id
    rounds.close()


def test_files_go_in_and_out(box: Any, raw: Raw) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        entry = tarfile.TarInfo("dir/file")
        entry.size, entry.uid, entry.mode = 5, 1000, 0o640
        tar.addfile(entry, io.BytesIO(b"hello"))
    assert box.put_archive("/tmp", data.getvalue())
    pieces, told = box.get_archive("/tmp/dir/file")
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
        (found,) = tar.getmembers()
        assert (found.name, found.uid, found.mode) == ("file", 1000, 0o640)
        assert tar.extractfile(found).read() == b"hello"  # type: ignore[union-attr]
    assert (told["name"], told["size"], told["mode"]) == ("file", 5, 0o640)
    assert [c["Path"] for c in box.diff() if c["Kind"] == 1] == ["/tmp/dir", "/tmp/dir/file"]
    head = raw("HEAD", "/containers/box/archive?path=/tmp")
    assert head.status == 200 and "x-docker-container-path-stat" in head.headers
    assert raw("GET", "/containers/box/archive?path=/none").status == 404
    assert raw("GET", "/containers/box/archive").status == 400
    with pytest.raises(docker.errors.APIError, match="not a directory"):
        box.put_archive("/tmp/dir/file", data.getvalue())
    with pytest.raises(docker.errors.APIError):
        box.put_archive("/tmp", b"this is no tar" * 100)
    with tarfile.open(fileobj=io.BytesIO(b"".join(box.export()))) as tar:
        assert "tmp/dir/file" in tar.getnames()


@pytest.mark.usefixtures("box")
def test_docker_exec_and_cp(cove: Cove, command: Command) -> None:
    assert command("exec", "box", "echo", "hello").stdout == b"hello\n"
    assert command("exec", "-i", "box", "cat", stdin=b"in").stdout == b"in"
    command("exec", "box", "sh", "-c", "exit 6", code=6)
    command("exec", "box", "nosuch", code=127)
    source = cove.root / "tmp" / "copied"
    source.write_text("text")
    command("cp", str(source), "box:/copied")
    source.unlink()
    command("cp", "box:/copied", str(source))
    assert source.read_text() == "text"
    source.unlink()
    assert b"Could not find the file" in command("cp", "box:/none", "-", code=1).stderr
