"""One life of a container at each version of the API, and what its history says changed between
them (moby's api/docs/CHANGELOG.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker
import pytest

from tests.api.conftest import Raw
from tests.driver import Cove
from tests.networks.conftest import cove, host

__all__ = ["cove", "host"]

VERSIONS = ("1.24", "1.30", "1.41", "1.44", "1.51")


@contextmanager
def spoken(raw: Raw, version: str) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=f"unix://{raw.path}", version=version)
    try:
        yield client
    finally:
        client.close()


def of(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)


@pytest.fixture
def web(raw: Raw, client: docker.DockerClient) -> Iterator[dict[str, Any]]:
    """A container with another name on a network of its own."""
    network = client.networks.create("of-versions")
    there = {"EndpointsConfig": {"of-versions": {"Aliases": ["web"]}}}
    body = {"Image": "bb", "Cmd": ["cat"], "OpenStdin": True, "NetworkingConfig": there}
    made = json.loads(raw("POST", "/containers/create?name=versions", body).body)["Id"]
    client.api.start(made)
    try:
        yield {"id": made, "short": made[:12]}
    finally:
        client.api.remove_container(made, force=True)
        network.remove()


def get(raw: Raw, version: str, path: str) -> Any:
    reply = raw("GET", f"/v{version}{path}")
    assert reply.status == 200, reply
    return json.loads(reply.body)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_life_at_each_version(raw: Raw, version: str) -> None:
    with spoken(raw, version) as client:
        words = ["sh", "-c", "echo out; echo err >&2; exit 3"]
        box = client.containers.create("bb", words, labels={"v": version})
        assert box.status == "created"
        box.start()
        assert box.wait()["StatusCode"] == 3
        assert box.logs(stderr=False) == b"out\n" and box.logs(stdout=False) == b"err\n"
        found = client.api.inspect_container(box.id)
        assert (found["State"]["ExitCode"], found["Config"]["Labels"]) == (3, {"v": version})
        for name in ("Healthcheck", "StopSignal", "StopTimeout", "ExposedPorts"):
            assert name not in found["Config"]
        assert not {"Init", "Mounts", "Tmpfs", "StorageOpt"} & set(found["HostConfig"])
        box.remove()
        with pytest.raises(docker.errors.NotFound):
            client.containers.get(box.id)


@pytest.mark.parametrize("version", VERSIONS)
def test_names_on_a_network(raw: Raw, web: dict[str, Any], version: str) -> None:
    found = get(raw, version, f"/containers/{web['id']}/json")["NetworkSettings"]
    place = found["Networks"]["of-versions"]
    assert place["Aliases"] == (["web"] if of(version) >= (1, 45) else ["web", web["short"]])
    names = ["versions", "web", web["short"]]
    assert place.get("DNSNames") == (names if of(version) >= (1, 44) else None)
    assert found["IPAddress"] == "" != place["IPAddress"]  # of the default network alone
    shown = get(raw, version, "/networks/of-versions")
    assert shown["Containers"][web["id"]]["EndpointID"] == place["EndpointID"] != ""
    assert ("EnableIPv4" in shown) == (of(version) >= (1, 48))
    (listed,) = [n for n in get(raw, version, "/networks") if n["Name"] == "of-versions"]
    assert bool(listed["Containers"]) == (of(version) < (1, 28))


@pytest.mark.parametrize("version", VERSIONS)
def test_images(raw: Raw, version: str) -> None:
    found = get(raw, version, "/images/bb/json")
    assert ("VirtualSize" in found) == (of(version) < (1, 44))
    assert ("Hostname" in found["Config"]) == (of(version) < (1, 50))
    assert "Variant" not in found and "StopSignal" not in found["Config"]
    listed = get(raw, version, "/images/json")
    assert all(("VirtualSize" in one) == (of(version) < (1, 44)) for one in listed)
    assert all((one["Containers"] < 0) == (of(version) < (1, 51)) for one in listed)


def test_an_image_without_a_name(raw: Raw, cove: Cove) -> None:
    cove("build", "-q", "-", stdin="FROM bb\nLABEL nameless=1\n")
    wanted = "/images/json?filters=" + '{"label":["nameless"]}'.replace('"', "%22")
    for version, tags in (("1.42", ["<none>:<none>"]), ("1.43", [])):
        (one,) = get(raw, version, wanted)
        assert one["RepoTags"] == tags


def test_versions_that_are_not_served(raw: Raw) -> None:
    for version, word in (("1.23", "too old"), ("1.99", "too new")):
        reply = raw("GET", f"/v{version}/containers/json")
        assert reply.status == 400 and word in reply.message
