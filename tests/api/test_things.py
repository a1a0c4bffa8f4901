"""Images, networks, volumes, events and the disk by Docker's clients; and what is off."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.api.conftest import Command, Raw
from tests.driver import Cove
from tests.images.tars import Tar
from tests.registry.registries import Fake, FakeImage, digest

Client = docker.DockerClient


def test_images_are_named_looked_at_and_removed(client: Client) -> None:
    image = client.images.get("bb")
    assert image.tags == ["bb:latest"] and image.attrs["Os"] == "linux"
    assert image.tag("other/name", "v1")
    both = {"bb:latest", "other/name:v1"}
    assert set(client.images.get("other/name:v1").tags) == both
    assert [i.id for i in client.images.list(name="other/name")] == [image.id]
    assert client.images.list(filters={"dangling": True}) == []
    assert image.history()[0]["Id"] == image.id
    client.images.remove("other/name:v1")
    for missing in ("other/name:v1", "sha256:" + "0" * 64):
        with pytest.raises(docker.errors.ImageNotFound, match="No such image"):
            client.images.get(missing)


def test_images_go_out_and_come_back(client: Client) -> None:
    archive = b"".join(client.images.get("bb").save(named=True))
    (loaded,) = client.images.load(archive)
    assert loaded.tags == ["bb:latest"]
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    made = client.api.import_image_from_data(data.getvalue(), repository="imported", tag="v2")
    assert json.loads(made)["status"] == client.images.get("imported:v2").id
    client.images.remove("imported:v2")
    with pytest.raises(docker.errors.ImageLoadError, match="not a tar archive"):
        client.images.load(b"no archive" * 100)


def test_a_container_becomes_an_image(client: Client) -> None:
    made = client.containers.run("bb", ["sh", "-c", "echo kept > /kept"], detach=True)
    made.wait()
    made.commit("kept", "v1", message="why", changes="LABEL a=b")
    assert client.images.get("kept:v1").labels == {"a": "b"}
    assert client.containers.run("kept:v1", ["cat", "/kept"], remove=True) == b"kept\n"
    made.remove()
    client.images.remove("kept:v1")


def test_a_registry_that_is_not_there_is_told(client: Client, raw: Raw) -> None:
    with pytest.raises(docker.errors.APIError, match="localhost:1"):
        client.images.pull("localhost:1/nothing:here")
    reply = raw("POST", "/images/create?fromImage=localhost%3A1%2Fnothing&tag=here")
    assert reply.status == 500 and "localhost:1" in reply.message
    with pytest.raises(docker.errors.NotFound, match="cannot push localhost:1/nothing:here"):
        client.images.push("localhost:1/nothing", "here")
    bad = b"POST /images/x/push HTTP/1.1\r\nHost: d\r\nConnection: close\r\nX-Registry-Auth: !\r\n"
    assert raw.send(bad + b"Content-Length: 0\r\n\r\n").status == 400


def test_networks_are_made_found_and_removed(client: Client) -> None:
    pool = docker.types.IPAMPool(subnet="10.231.9.0/24", gateway="10.231.9.1")
    made = client.networks.create(
        "api-net", ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels={"family": "api"}
    )
    assert made.name == "api-net" and made.attrs["IPAM"]["Config"][0]["Subnet"] == "10.231.9.0/24"
    assert [n.id for n in client.networks.list(filters={"label": "family=api"})] == [made.id]
    with pytest.raises(docker.errors.APIError) as taken:
        client.networks.create("api-net")
    assert taken.value.status_code == 409
    box = client.containers.create("bb", ["true"])
    made.connect(box, aliases=["db"])
    made.disconnect(box)
    box.remove()
    made.remove()
    with pytest.raises(docker.errors.NotFound, match="network api-net not found"):
        client.networks.get("api-net")
    with pytest.raises(docker.errors.APIError, match="driver") as refused:
        client.networks.create("api-net", driver="overlay")
    assert refused.value.status_code == 501


def test_volumes_are_made_used_and_removed(client: Client) -> None:
    made = client.volumes.create("api-vol", labels={"family": "api"})
    assert made.attrs["Driver"] == "local" and made.attrs["Mountpoint"].startswith("/")
    words = ["sh", "-c", "echo kept > /data/f"]
    client.containers.run("bb", words, volumes={"api-vol": {"bind": "/data"}}, remove=True)
    words = ["cat", "/data/f"]
    mount = docker.types.Mount("/data", "api-vol", read_only=True)
    assert client.containers.run("bb", words, mounts=[mount], remove=True) == b"kept\n"
    assert [v.name for v in client.volumes.list(filters={"label": "family=api"})] == ["api-vol"]
    assert client.df()["Volumes"]
    made.remove()
    with pytest.raises(docker.errors.NotFound, match="no such volume"):
        client.volumes.get("api-vol")
    assert client.volumes.prune()["VolumesDeleted"] is None


def test_no_image_shares_more_than_it_is(cove: Cove, client: Client, tmp_path: Path) -> None:
    """Docker's command subtracts one size from the other."""
    (tmp_path / "Dockerfile").write_text("FROM bb\nRUN head -c 100000 /dev/zero > /more\n")
    cove("build", "-q", "-t", "more", str(tmp_path))
    seen = client.df()
    sizes = {tag: one for one in seen["Images"] for tag in one["RepoTags"]}
    base, more = sizes["bb:latest"], sizes["more:latest"]
    assert base["SharedSize"] == base["Size"] == more["SharedSize"] > 0
    assert more["Size"] - more["SharedSize"] >= 100_000
    assert more["Size"] <= seen["LayersSize"]
    cove("rmi", "more")
    cove("builder", "prune", "-f")


def test_the_cache_of_builds_takes_room(
    cove: Cove, client: Client, raw: Raw, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM bb\nRUN head -c 100000 /dev/zero > /kept-by-a-step\n"
    )
    cove("build", "-q", "-t", "cached", str(tmp_path))

    def mine() -> tuple[dict[str, Any], dict[str, Any]]:
        found = client.df()
        (one,) = [step for step in found["BuildCache"] if "kept-by-a-step" in step["Description"]]
        return one, found

    one, _ = mine()
    assert one["Shared"] and one["Size"] >= 100_000 and one["CreatedAt"].endswith("Z")
    cove("rmi", "cached")
    one, found = mine()
    own = [step["Size"] for step in found["BuildCache"] if not step["Shared"]]
    old = json.loads(raw("GET", "/v1.41/system/df").body)  # its BuilderSize went in 1.42
    assert not one["Shared"] and "BuilderSize" not in found
    assert old["BuilderSize"] == sum(own) >= 100_000
    cove("builder", "prune", "-f")
    assert client.df()["BuildCache"] == []


def test_events_are_told_as_they_happen(client: Client) -> None:
    told = client.events(decode=True, filters={"type": "container", "label": "family=events"})
    made = client.containers.run("bb", ["true"], detach=True, labels={"family": "events"})
    made.wait()
    made.remove()
    seen = []
    for event in told:
        assert event["Type"] == "container" and event["Actor"]["ID"] == made.id
        seen.append(event["Action"])
        if event["Action"] == "destroy":
            break
    told.close()
    assert seen == ["create", "start", "die", "destroy"]


def test_what_is_off_answers_as_docker_does(raw: Raw) -> None:
    for path in ("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs/one"):
        answer = raw("GET", path)
        assert answer.status == 503
        assert answer.message.startswith("This node is not a swarm manager.")
    assert json.loads(raw("GET", "/plugins").body) == []
    for method, path in (
        ("POST", "/swarm/init"),
        ("POST", "/plugins/pull"),
        ("GET", "/images/search?term=x"),
        ("POST", "/containers/x/checkpoints"),
        ("POST", "/session"),
    ):
        answer = raw(method, path)
        assert answer.status == 501 and answer.message.startswith("cannot "), path


def test_docker_shows_what_there_is(command: Command) -> None:
    form = "{{.Repository}}:{{.Tag}}"
    assert b"bb:latest\n" in command("images", "--format", form).stdout
    assert command("network", "inspect", "-f", "{{.Driver}}", "none").stdout == b"null\n"
    command("volume", "create", "shown")
    assert b"shown\n" in command("volume", "ls", "-q").stdout
    command("volume", "rm", "shown")
    assert b"Build Cache" in command("system", "df").stdout
    assert command("history", "-q", "bb").stdout.strip()
    missing = command("network", "inspect", "nothing", code=1)
    assert b"network nothing not found" in missing.stderr


def test_what_a_registry_has_is_looked_at(client: Client, raw: Raw) -> None:
    fake, image = Fake(), FakeImage([Tar().file("f", b"x").data()])
    try:
        name = fake.add("web:1", image)
        found = client.images.get_registry_data(name)
        assert found.id == digest(image.manifest)
        assert found.attrs["Descriptor"]["size"] == len(image.manifest)
        assert [one["os"] for one in found.attrs["Platforms"]] == ["linux"]
        assert found.has_platform(found.attrs["Platforms"][0])
        with pytest.raises(docker.errors.NotFound):
            client.images.get_registry_data(f"{fake.host}/web:none")
        assert not [path for method, path, _ in fake.requests if method not in ("GET", "HEAD")]
    finally:
        fake.close()
    assert raw("GET", "/distribution/localhost:1/nothing/json").status == 500
    assert raw("GET", "/distribution/NOT%20A%20NAME/json").status == 400
