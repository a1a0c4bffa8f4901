"""What is asked for by Docker's API holds: logs that turn, what is removed at its end, refusals."""

from __future__ import annotations

import json
import os
import signal

import docker
import pytest
from docker.types import LogConfig

from tests.api.conftest import Raw, docker_host
from tests.driver import Cove, wait_until
from tests.wire import ask

Client = docker.DockerClient


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_a_log_turns_as_asked_for(client: Client, driver: str) -> None:
    asked = LogConfig(type=driver, config={"max-size": "64k", "max-file": "2"})
    made = client.containers.create("bb", ["seq", "1", "60000"], log_config=asked)
    made.start()
    assert made.wait()["StatusCode"] == 0
    made.reload()
    assert made.attrs["HostConfig"]["LogConfig"]["Type"] == driver
    kept = [int(line) for line in made.logs().splitlines()]
    assert kept == list(range(kept[0], 60001)) and kept[0] > 2
    assert made.logs(tail=3) == b"59998\n59999\n60000\n"


def test_a_line_of_a_log_is_a_frame_wherever_it_was_cut(client: Client) -> None:
    script = "seq 1 200000; seq 1 200000 >&2; printf 'no end'"
    made = client.containers.create("bb", ["sh", "-c", script])
    made.start()
    made.wait()
    lines = list(made.logs(stream=True, follow=False, stderr=False))
    assert lines == [b"%d\n" % number for number in range(1, 200001)] + [b"no end"]
    stamped = list(made.logs(stream=True, follow=False, stdout=False, timestamps=True))
    assert [line.split()[1:] for line in stamped] == [[b"%d" % n] for n in range(1, 200001)]


def test_what_changes_is_inspected_at_once(client: Client) -> None:
    made = client.containers.create("bb", ["sleep", "1000"])
    seen = [made.client.api.inspect_container(made.id) for _ in range(2)]
    assert seen[0] == seen[1] and seen[0]["State"]["Status"] == "created"
    made.start()
    assert client.api.inspect_container(made.id)["State"]["Running"]
    ran = client.api.exec_create(made.id, ["sleep", "1000"])["Id"]
    client.api.exec_start(ran, detach=True)
    assert client.api.inspect_container(made.id)["ExecIDs"] == [ran]
    made.rename("another")
    assert client.api.inspect_container(made.id)["Name"] == "/another"
    made.kill()
    seen[0] = client.api.inspect_container(made.id)
    assert seen[0]["State"]["Status"] == "exited" and seen[0]["ExecIDs"] is None
    made.remove()
    with pytest.raises(docker.errors.NotFound, match="No such container: another"):
        client.api.inspect_container("another")


def test_of_no_log_nothing_is_read(client: Client, raw: Raw) -> None:
    made = client.containers.create("bb", ["echo", "x"], log_config=LogConfig(type="none"))
    made.start()
    made.wait()
    reply = raw("GET", f"/containers/{made.id}/logs?stdout=1")
    assert reply.status == 501 and "its log driver is none" in reply.message


def test_what_is_not_had_is_refused_by_name(client: Client, raw: Raw) -> None:
    made = client.containers.create("bb", ["true"])
    reply = raw("POST", f"/containers/{made.id}/start?checkpoint=c")
    assert reply.status == 501 and "checkpoint" in reply.message
    gpus = {"Count": -1, "Capabilities": [["gpu"]]}
    for host, word in (
        ({"DeviceRequests": [gpus]}, "DeviceRequests"),
        ({"DeviceRequests": [gpus], "Isolation": "vm"}, "DeviceRequests"),
        ({"LogConfig": {"Type": "syslog"}}, "syslog"),
        ({"LogConfig": {"Type": "json-file", "Config": {"labels": "a"}}}, "labels"),
    ):
        reply = raw("POST", "/containers/create", {"Image": "bb", "HostConfig": host})
        assert reply.status in (400, 501) and word in reply.message, reply


def test_what_ends_beside_a_killed_daemon_is_removed(fresh_cove: Cove) -> None:
    socket = docker_host(fresh_cove).removeprefix("unix://")
    body = {"Image": "bb", "Cmd": ["sleep", "1000"], "HostConfig": {"AutoRemove": True}}
    made = json.loads(ask(socket, "POST", "/containers/create", body).body)["Id"]
    assert ask(socket, "POST", f"/containers/{made}/start").status == 204
    pid = fresh_cove.inspect(made)["State"]["Pid"]
    fresh_cove.kill_daemon()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: fresh_cove("ps", "-aq").out == "", "its removal")
    assert ask(socket, "GET", f"/containers/{made}/json").status == 404
