"""What clients read of an answer is where Docker has it: found by docker-py's own tests. In the
network of a host of its own.
"""

from __future__ import annotations

import json

import docker
import pytest

from tests.api.conftest import Raw
from tests.driver import Cove
from tests.networks.conftest import cove, host

__all__ = ["cove", "host"]

Client = docker.DockerClient


def made(raw: Raw, body: dict[str, object]) -> str:
    reply = raw("POST", "/containers/create", {"Image": "bb", "Cmd": ["true"], **body})
    assert reply.status == 201, reply
    return str(json.loads(reply.body)["Id"])


def test_of_the_log_only_what_was_said_is_shown(client: Client, raw: Raw) -> None:
    for asked, shown in (
        ({}, {}),
        ({"Config": {"max-file": "7"}}, {"max-file": "7"}),
        ({"Type": "local", "Config": {"max-size": "1m"}}, {"max-size": "1048576"}),
    ):
        config = client.api.inspect_container(made(raw, {"HostConfig": {"LogConfig": asked}}))
        log = config["HostConfig"]["LogConfig"]
        assert log == {"Type": asked.get("Type", "json-file"), "Config": shown}
    unknown = {"Image": "bb", "HostConfig": {"LogConfig": {"Type": "asdf"}}}
    reply = raw("POST", "/containers/create", unknown)
    assert (reply.status, reply.message) == (
        400,
        "logger: no log driver named 'asdf' is registered",
    )
    unknown = {"Image": "bb", "HostConfig": {"LogConfig": {"Type": "syslog"}}}
    assert raw("POST", "/containers/create", unknown).status == 501


def test_what_a_container_asks_of_a_network_is_shown(client: Client, raw: Raw) -> None:
    net = client.networks.create("shown", internal=True, ipam=docker.types.IPAMConfig(
        pool_configs=[docker.types.IPAMPool(subnet="10.231.77.0/24")]))  # fmt: skip
    try:
        wish = {"IPAMConfig": {"IPv4Address": "10.231.77.9"}, "MacAddress": "02:42:00:00:00:09"}
        one = made(raw, {
            "HostConfig": {"NetworkMode": "shown"}, "Cmd": ["cat"], "OpenStdin": True,
            "NetworkingConfig": {"EndpointsConfig": {"shown": wish}},
        })  # fmt: skip
        for running in (False, True):
            if running:
                client.api.start(one)
            found = client.api.inspect_container(one)["NetworkSettings"]["Networks"]["shown"]
            assert found["IPAMConfig"] == {"IPv4Address": "10.231.77.9"}
            assert found["MacAddress"] == "02:42:00:00:00:09"
        client.api.remove_container(one, force=True)
        two = made(raw, {"HostConfig": {"NetworkMode": "shown"}})
        found = client.api.inspect_container(two)["NetworkSettings"]["Networks"]["shown"]
        assert found["IPAMConfig"] is None and found["MacAddress"] == ""
        client.api.remove_container(two)
    finally:
        net.remove()


def test_who_starts_a_process_says_whether_its_words_come_in_frames(client: Client) -> None:
    box = client.containers.run("bb", ["cat"], stdin_open=True, detach=True)
    for tty in (False, True):
        there = client.api.exec_create(box.id, ["sh", "-c", "echo one; echo two >&2"], tty=True)
        assert client.api.exec_start(there, tty=tty) == b"one\r\ntwo\r\n"
    box.remove(force=True)


def test_names_of_fields_may_be_in_any_case(raw: Raw, client: Client) -> None:
    box = client.containers.run("bb", ["cat"], stdin_open=True, detach=True)
    words = {"cmd": ["sh", "-c", "echo $A"], "ENV": ["A=b"], "attachStdout": True}
    reply = raw("POST", f"/containers/{box.id}/exec", words)
    assert client.api.exec_start(json.loads(reply.body)["Id"]) == b"b\n"
    both = {"cmd": ["false"], "Cmd": ["echo", "said"], "AttachStdout": True}
    reply = raw("POST", f"/containers/{box.id}/exec", both)
    assert client.api.exec_start(json.loads(reply.body)["Id"]) == b"said\n"
    with pytest.raises(docker.errors.APIError) as error:
        box.remove()
    assert error.value.explanation == (
        f"You cannot remove a running container {box.id}. Stop the container before attempting "
        "removal or force remove"
    )
    box.remove(force=True)


def test_each_line_of_a_log_comes_in_a_frame_of_its_own(client: Client, cove: Cove) -> None:
    words = ["printf", "one\\n\\ntwo\\rsame\\nlast"]
    box = client.containers.run("bb", words, detach=True)
    box.wait()
    assert list(box.logs(stream=True)) == [b"one\n", b"\n", b"two\rsame\n", b"last"]
    assert box.logs() == b"one\n\ntwo\rsame\nlast"
    assert cove("logs", box.name).out == "one\n\ntwo\rsame\nlast"


def test_what_means_nothing_here_is_kept_and_what_means_something_is_refused(
    client: Client, raw: Raw
) -> None:
    said = {"EndpointsConfig": {"bridge": {"DriverOpts": {"com.example.key": "on"}}}}
    one = made(raw, {
        "HostConfig": {"NetworkMode": "bridge", "Tmpfs": {"/t": "size=3M"}, "VolumeDriver": "foo",
                       "Runtime": "runc", "MemorySwappiness": 40, "UTSMode": "host",
                       "StorageOpt": {"size": "120G"},
                       "DeviceCgroupRules": ["c 188:* rwm"]},
        "NetworkingConfig": said, "Env": ["BARE", "EMPTY="],
    })  # fmt: skip
    found = client.api.inspect_container(one)
    host = found["HostConfig"]
    assert (host["Tmpfs"], host["VolumeDriver"]) == ({"/t": "size=3M"}, "foo")
    assert (host["Runtime"], host["MemorySwappiness"]) == ("runc", None)
    assert host["StorageOpt"] == {"size": "120G"}
    assert (host["UTSMode"], host["DeviceCgroupRules"]) == ("host", ["c 188:* rwm"])
    assert {"BARE", "EMPTY="} <= set(found["Config"]["Env"])
    assert found["NetworkSettings"]["Networks"]["bridge"]["DriverOpts"] == {"com.example.key": "on"}
    client.api.remove_container(one)
    body = {"Image": "bb", "Cmd": ["true"], "HostConfig": {"MemorySwappiness": 40}}
    answer = raw("POST", "/containers/create", body)
    assert answer.status == 201, answer
    assert "swappiness discarded" in json.loads(answer.body)["Warnings"][0]
    client.api.remove_container(json.loads(answer.body)["Id"])
    for more, code in (
        ({"VolumeDriver": "foo", "Binds": ["data:/data"]}, 501),
        ({"Runtime": "kata"}, 501),
        ({"DeviceCgroupRules": ["c 1 x"]}, 400),
        ({"DeviceCgroupRules": ["a *:* r"], "Isolation": "vm"}, 501),
        ({"Links": ["nobody:db"]}, 400),
    ):
        body = {"Image": "bb", "Cmd": ["true"], "HostConfig": more}
        assert raw("POST", "/containers/create", body).status == code
    said["EndpointsConfig"]["bridge"] = {"DriverOpts": {"com.docker.network.bridge.name": "x"}}
    body = {"Image": "bb", "Cmd": ["true"], "NetworkingConfig": said}
    assert raw("POST", "/containers/create", body).status == 501


def test_a_network_sets_addresses_aside(client: Client, raw: Raw) -> None:
    pool = {
        "Subnet": "10.231.78.0/29",
        "AuxiliaryAddresses": {"a": "10.231.78.1", "b": "10.231.78.3"},
    }
    ipam = {"Config": [pool]}
    net = client.networks.create("set aside", internal=True, ipam=ipam)
    try:
        found = client.networks.get("set aside").attrs["IPAM"]
        assert found["Config"] == [pool | {"Gateway": "10.231.78.2"}]
        assert found["Options"] is None
        one, two, three = (
            client.containers.create("bb", ["cat"], stdin_open=True, network=name)
            for name in ("set aside", "set aside", "none")
        )
        for box in (one, two, three):
            box.start()
            box.reload()
        held = {
            box.attrs["NetworkSettings"]["Networks"]["set aside"]["IPAddress"] for box in (one, two)
        }
        assert held == {"10.231.78.4", "10.231.78.5"}
        place = {"IPAMConfig": {"IPv4Address": "10.231.78.3"}}
        body = {"Container": three.id, "EndpointConfig": place}
        taken = raw("POST", f"/networks/{net.id}/connect", body)
        assert taken.status == 409 and "b, set aside, has the address" in taken.message
        for box in (one, two, three):
            box.remove(force=True)
    finally:
        net.remove()
    for aside, why in (
        ("10.9.0.1", "no address of"),
        ("10.231.78.1", "its gateway"),
        ("x", "IPv4"),
    ):
        pool = {"Subnet": "10.231.78.0/29", "Gateway": "10.231.78.1"}
        body = {"Name": "n", "IPAM": {"Config": [pool | {"AuxiliaryAddresses": {"a": aside}}]}}
        answer = raw("POST", "/networks/create", body)
        assert answer.status == 400 and why in answer.message
