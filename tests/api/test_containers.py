"""Containers by Docker's own clients: docker-py, and the docker command."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import docker
import pytest

from tests.api.conftest import Command, Raw
from tests.driver import Cove, wait_until

Client = docker.DockerClient
ALL = "stdin=1&stdout=1&stderr=1&stream=1"


def text(client: Client, *words: str, **options: Any) -> str:
    found: bytes = client.containers.run("bb", list(words), remove=True, **options)
    return found.decode()


# ---- who answers ----


def test_versions_are_negotiated(cove: Cove, client: Client, raw: Raw) -> None:
    seen = client.version()
    assert (seen["ApiVersion"], seen["MinAPIVersion"]) == ("1.51", "1.24")
    old = docker.APIClient(base_url=f"unix://{raw.path}", version="1.24", timeout=120)
    assert old.version()["ApiVersion"] == "1.51"
    old.close()
    for path, said in (
        ("/v1.23/info", "client version 1.23 is too old. Minimum supported API version is 1.24"),
        ("/v1.99/info", "client version 1.99 is too new. Maximum supported API version is 1.51"),
    ):
        answer = raw("GET", path)
        assert answer.status == 400 and answer.message.startswith(said)


def test_a_ping_says_who_answers(raw: Raw) -> None:
    for method, body in (("GET", b"OK"), ("HEAD", b"")):
        answer = raw(method, "/_ping")
        assert answer.status == 200 and answer.body == body
        assert answer.headers["api-version"] == "1.51" and answer.headers["ostype"] == "linux"
        assert answer.headers["swarm"] == "inactive"


def test_the_socket_is_roots_alone(cove: Cove, raw: Raw) -> None:
    status = os.stat(raw.path)
    assert status.st_mode & 0o777 == 0o600 and status.st_uid == os.geteuid()
    assert cove("info", "--format", "{{.DockerSocket}}").out.strip() == raw.path


def test_a_setting_puts_the_socket_elsewhere_for_a_group(fresh_cove: Cove) -> None:
    fresh_cove.stop_daemon()
    path = fresh_cove.root / "elsewhere" / "d.sock"
    settings = {"COVE_DOCKER_SOCKET": str(path), "COVE_DOCKER_GROUP": "4711"}
    fresh_cove("ps", env=settings)
    status = path.stat()
    assert (status.st_mode & 0o777, status.st_gid) == (0o660, 4711)
    assert not (fresh_cove.root / "run/docker.sock").exists()
    assert Raw(str(path))("GET", "/_ping").body == b"OK"
    fresh_cove.stop_daemon()
    assert not path.exists()
    path.write_text("somebody's file")
    refused = fresh_cove("ps", env=settings, code=None)
    assert refused.returncode and "there is a file that is no socket" in refused.err
    path.unlink()


def test_paths_that_are_none_are_told_as_docker_tells_them(raw: Raw) -> None:
    for method, path in (
        ("GET", "/"),
        ("GET", "/v1.41/nothing"),
        ("PUT", "/containers/json"),
        ("GET", "/containers/a/b/json"),
    ):
        answer = raw(method, path)
        assert (answer.status, answer.message) == (404, "page not found"), path
        assert answer.headers["content-type"] == "application/json"


# ---- life ----


def test_a_container_lives_and_ends(client: Client) -> None:
    made = client.containers.create("bb", ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert made.status == "created"
    made.start()
    assert made.wait()["StatusCode"] == 3
    assert made.logs() == b"out\nerr\n"
    assert made.logs(stderr=False) == b"out\n"
    made.reload()
    state = made.attrs["State"]
    assert (state["Status"], state["ExitCode"], state["Running"]) == ("exited", 3, False)
    made.remove()
    with pytest.raises(docker.errors.NotFound, match="No such container"):
        client.containers.get(made.id)


def test_output_errors_and_codes_reach_who_ran_it(client: Client) -> None:
    assert text(client, "echo", "hello") == "hello\n"
    with pytest.raises(docker.errors.ContainerError) as failed:
        text(client, "sh", "-c", "echo no >&2; exit 4")
    assert failed.value.exit_status == 4 and failed.value.stderr == b"no\n"
    with pytest.raises(docker.errors.APIError, match="no such file or directory") as missing:
        text(client, "/no/such")
    assert missing.value.status_code == 400
    client.containers.prune()  # docker-py leaves what it could not start
    with pytest.raises(docker.errors.ImageNotFound):
        client.api.create_container("nosuch", ["true"])


def test_what_runs_is_stopped_killed_paused_and_started_again(client: Client) -> None:
    made = client.containers.run("bb", ["sleep", "1000"], detach=True, name="lives")
    api = client.api
    try:
        response = api._post(api._url("/containers/{0}/start", made.id))
        assert response.status_code == 304
        made.pause()
        made.reload()
        assert made.status == "paused"
        made.unpause()
        made.rename("renamed")
        assert client.containers.get("renamed").id == made.id
        made.restart(timeout=0)
        made.stop(timeout=0)
        made.reload()
        assert made.attrs["State"]["ExitCode"] == 137
        assert api._post(api._url("/containers/{0}/stop", made.id)).status_code == 304
        with pytest.raises(docker.errors.APIError, match="not running") as refused:
            made.kill()
        assert refused.value.status_code == 409
        made.start()
        made.kill("SIGKILL")
        made.wait()
    finally:
        made.remove(force=True)


def test_a_name_is_taken_once(client: Client) -> None:
    made = client.containers.create("bb", ["true"], name="once")
    with pytest.raises(docker.errors.APIError, match="is already in use") as taken:
        client.containers.create("bb", ["true"], name="once")
    assert taken.value.status_code == 409
    made.remove()


def test_what_is_listed_is_what_was_asked_for(client: Client) -> None:
    made = client.containers.create("bb", ["true"], name="listed", labels={"family": "api"})
    ran = client.containers.run(
        "bb", ["sleep", "1000"], detach=True, labels={"family": "api", "kind": "two"}
    )
    try:
        mine = {"label": "family=api"}
        assert [c.id for c in client.containers.list(filters=mine)] == [ran.id]
        assert {c.id for c in client.containers.list(all=True, filters=mine)} == {made.id, ran.id}
        assert {c.id for c in client.containers.list(limit=1, filters=mine)} == {ran.id}
        both = {"label": ["family=api", "kind"], "status": "running"}
        assert [c.id for c in client.containers.list(filters=both)] == [ran.id]
        (row,) = client.api.containers(filters={"id": ran.id}, size=True)
        assert row["State"] == "running" and row["Command"] == "sleep 1000"
        assert row["Labels"] == {"family": "api", "kind": "two"} and "SizeRootFs" in row
        with pytest.raises(docker.errors.APIError, match="Invalid filter"):
            client.containers.list(filters={"nonsense": "1"})
    finally:
        ran.remove(force=True)
        gone = client.containers.prune(filters={"label": ["family=api"]})
        assert gone["ContainersDeleted"] == [made.id]


def test_limits_change_while_it_runs(client: Client, raw: Raw) -> None:
    made = client.containers.run("bb", ["sleep", "1000"], detach=True, mem_limit="64m")
    try:
        made.update(mem_limit="32m", memswap_limit="-1", cpu_shares=512)
        made.reload()
        assert made.attrs["HostConfig"]["Memory"] == 32 << 20
        with pytest.raises(docker.errors.APIError, match="KernelMemory") as refused:
            made.update(kernel_memory="20m")
        assert refused.value.status_code == 501
        rates = {"Memory": 16 << 20, "BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1 << 20}]}
        answer = raw("POST", f"/containers/{made.id}/update", rates)
        assert answer.status == 501 and "BlkioDeviceReadBps" in answer.message
        made.reload()
        assert made.attrs["HostConfig"]["Memory"] == 32 << 20
    finally:
        made.remove(force=True)


def test_health_and_restarts_are_the_engines(cove: Cove, client: Client) -> None:
    made = client.containers.run(
        "bb",
        ["sh", "-c", "until test -e /go; do sleep 0.05; done; rm /go; exit 3"],
        detach=True,
        healthcheck={"test": ["CMD", "test", "-e", "/well"], "interval": 50_000_000, "retries": 1},
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 1},
    )

    def seen(key: str) -> Any:
        made.reload()
        return made.attrs["State"].get(key)

    try:
        wait_until(lambda: seen("Health")["Status"] == "unhealthy", "a check that fails")
        assert seen("Health")["Log"][-1]["ExitCode"] == 1
        # It may end with the container before it has said that it is done.
        cove("exec", made.id, "touch", "/well", "/go", code=None)
        again = ("running", 1)
        wait_until(lambda: (seen("Status"), made.attrs["RestartCount"]) == again, "its restart")
        wait_until(lambda: seen("Health")["Status"] == "healthy", "a check that succeeds")
        cove("exec", made.id, "touch", "/go", code=None)
        wait_until(lambda: seen("Status") == "exited", "its last end")
        assert seen("ExitCode") == 3
    finally:
        made.remove(force=True)


@pytest.mark.parametrize("condition", ["not-running", "next-exit", "removed"])
def test_every_condition_is_waited_for(client: Client, raw: Raw, condition: str) -> None:
    made = client.containers.create("bb", ["sh", "-c", "read x; exit 5"], stdin_open=True)
    if condition == "not-running":
        assert made.wait(condition=condition)["StatusCode"] == 0
    answers: list[int] = []
    headers = threading.Event()

    def wait() -> None:
        api = client.api
        answer = api._post(
            api._url("/containers/{0}/wait", made.id), params={"condition": condition}, stream=True
        )
        headers.set()
        answers.append(answer.json()["StatusCode"])

    if condition == "not-running":
        made.start()
    waiter = threading.Thread(target=wait)
    waiter.start()
    assert headers.wait(120)  # said at once, before there is anything to tell
    if condition != "not-running":
        made.start()
    with raw.upgrade(f"/containers/{made.id}/attach?stdin=1&stream=1") as session:
        session.send(b"\n")
    if condition == "removed":
        made.wait()
        made.remove()
    waiter.join(120)
    assert answers == [5]
    if condition != "removed":
        made.remove()


# ---- streams ----


def test_who_attaches_before_the_start_hears_the_first_byte(client: Client, raw: Raw) -> None:
    made = client.containers.create(
        "bb", ["sh", "-c", "echo first; cat; echo last >&2"], stdin_open=True
    )
    with raw.upgrade(f"/containers/{made.id}/attach?{ALL}") as session:
        assert "application/vnd.docker.multiplexed-stream" in session.head
        made.start()
        session.send(b"mine\n")
        session.end()
        assert session.frames() == [(1, b"first\nmine\n"), (2, b"last\n")]
    assert made.wait()["StatusCode"] == 0
    made.remove()


def test_several_attach_and_all_hear_what_comes(client: Client, raw: Raw) -> None:
    made = client.containers.create("bb", ["cat"], stdin_open=True)
    path = f"/containers/{made.id}/attach?{ALL}"
    with raw.upgrade(path) as first, raw.upgrade(path) as second:
        made.start()
        with raw.upgrade(path) as third:
            first.send(b"all\n")
            first.end()
            assert first.frames() == second.frames() == third.frames() == [(1, b"all\n")]
    made.wait()
    made.remove()


@pytest.mark.parametrize("by", ["command", "restart"])
def test_who_attached_before_hears_it_whoever_starts_it(
    cove: Cove, client: Client, raw: Raw, by: str
) -> None:
    made = client.containers.create("bb", ["head", "-n", "1"], stdin_open=True)
    with raw.upgrade(f"/containers/{made.id}/attach?{ALL}") as session:
        if by == "command":
            cove("start", made.id)
        else:
            made.restart()
        session.send(b"all\n")
        assert session.frames() == [(1, b"all\n")]
    made.wait()
    made.remove()


def test_who_attached_before_hears_of_its_removal(client: Client, raw: Raw) -> None:
    made = client.containers.create("bb", ["cat"], stdin_open=True)
    with raw.upgrade(f"/containers/{made.id}/attach?{ALL}") as session:
        made.remove()
        assert session.rest() == b""


def test_who_left_before_the_start_is_not_waited_for(client: Client, raw: Raw) -> None:
    made = client.containers.create("bb", ["echo", "still"])
    raw.upgrade(f"/containers/{made.id}/attach?{ALL}").sock.close()
    made.start()
    assert made.wait()["StatusCode"] == 0
    assert made.logs() == b"still\n"
    made.remove()


def test_a_terminal_is_raw_and_its_size_is_told(client: Client, raw: Raw) -> None:
    made = client.containers.create("bb", ["sh"], stdin_open=True, tty=True)
    with raw.upgrade(f"/containers/{made.id}/attach?{ALL}") as session:
        assert "application/vnd.docker.raw-stream" in session.head
        made.start()
        made.resize(33, 99)
        session.send(b"stty size; exit 6\n")
        assert b"33 99\r\n" in session.rest()
    assert made.wait()["StatusCode"] == 6
    made.remove()


def test_a_terminal_gets_its_size_while_it_starts(client: Client, raw: Raw) -> None:
    made = client.containers.create("bb", ["sh"], stdin_open=True, tty=True)
    with (
        ThreadPoolExecutor(1) as pool,
        raw.upgrade(f"/containers/{made.id}/attach?{ALL}") as session,
    ):
        coming, statuses = pool.submit(made.start), set()
        while 200 not in statuses:
            statuses.add(raw("POST", f"/containers/{made.id}/resize?h=33&w=99").status)
        coming.result(60)
        session.send(b"stty size; exit\n")
        assert b"33 99\r\n" in session.rest()
    assert statuses <= {200, 409}, statuses
    made.remove()


def test_keys_detach_from_a_terminal_and_it_goes_on(client: Client, raw: Raw) -> None:
    made = client.containers.create("bb", ["cat"], stdin_open=True, tty=True)
    made.start()
    with raw.upgrade(f"/containers/{made.id}/attach?{ALL}&detachKeys=ctrl-x,x") as session:
        session.send(b"\x18x")
        session.rest()
    made.reload()
    assert made.status == "running"
    made.remove(force=True)


def test_logs_are_cut_and_followed_as_asked_for(client: Client, raw: Raw) -> None:
    script = "echo one; echo two; read x; echo $x"
    made = client.containers.create("bb", ["sh", "-c", script], stdin_open=True)
    made.start()
    wait_until(lambda: b"two" in made.logs(), "two lines")
    assert made.logs(tail=1) == b"two\n"
    stamped = made.logs(timestamps=True).decode().splitlines()
    assert [line.split()[1] for line in stamped] == ["one", "two"]
    assert made.logs(since=4102444800) == b"" and made.logs(until=1) == b""
    followed = made.logs(stream=True, follow=True)
    assert next(followed) in (b"one\ntwo\n", b"one\n")
    with raw.upgrade(f"/containers/{made.id}/attach?stdin=1&stream=1") as session:
        session.send(b"three\n")
        assert b"".join(followed).endswith(b"three\n")
    made.wait()
    with pytest.raises(docker.errors.APIError, match="choose at least one stream"):
        made.logs(stdout=False, stderr=False)
    with raw.upgrade(f"/containers/{made.id}/attach?logs=1&stdout=1") as session:
        assert session.frames() == [(1, b"one\ntwo\nthree\n")]
    made.remove()


# ---- the docker command ----


def test_docker_run_is_whole(command: Command) -> None:
    script = "cat; echo err >&2; exit 7"
    ran = command("run", "--rm", "-i", "bb", "sh", "-c", script, stdin=b"in\n", code=7)
    assert (ran.stdout, ran.stderr) == (b"in\n", b"err\n")
    assert b"no such file or directory" in command("run", "--rm", "bb", "nosuch", code=127).stderr
    named = command("run", "-d", "--name", "by-command", "bb", "sleep", "1000").stdout
    assert len(named.strip()) == 64
    listed = command("ps", "--filter", "name=by-command", "--format", "{{.Names}} {{.Image}}")
    assert listed.stdout == b"by-command bb\n"
    shown = command("inspect", "-f", "{{.State.Status}} {{.HostConfig.Isolation}}", "by-command")
    assert shown.stdout == b"running default\n"
    assert command("stop", "-t", "0", "by-command").stdout == b"by-command\n"
    assert command("wait", "by-command").stdout == b"137\n"
    assert command("rm", "by-command").stdout == b"by-command\n"
    assert command("ps", "-aq", "--filter", "name=by-command").stdout == b""
    assert b"No such container" in command("logs", "by-command", code=1).stderr


def test_docker_run_on_a_terminal(command: Command) -> None:
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    ran = subprocess.Popen(
        ["docker", "run", "--rm", "-it", "bb", "sh", "-c", "read x; echo got $x; exit 9"],
        env=command.env, stdin=slave, stdout=slave, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    os.write(master, b"word\n")
    seen = b""
    while select.select([master], [], [], 120)[0]:
        try:
            seen += os.read(master, 4096)
        except OSError:
            break
    assert ran.wait(120) == 9
    assert b"got word\r\n" in seen
    os.close(master)
