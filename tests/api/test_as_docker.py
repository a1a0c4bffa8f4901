"""Where Docker's own command showed a difference between cove and dockerd that was cove's fault."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import docker
import pytest

from tests.api.conftest import Command, Raw
from tests.driver import Cove, front_path

Client = docker.DockerClient


def test_a_command_may_end_before_its_input(command: Command) -> None:
    """What is closed with something unread in it would take the output along."""
    ran = command("run", "--rm", "-i", "bb", "head", "-n", "1", stdin=b"yes\n" * 1_000_000)
    assert ran.stdout == b"yes\n" and ran.stderr == b""


def test_what_is_removed_at_its_end_goes_where_it_cannot_begin(
    cove: Cove, command: Command
) -> None:
    for flags in (("--cpus", "9999"), ("--cpuset-cpus", "9999")):
        command("run", "--rm", *flags, "bb", "true", code=125)
    assert cove("ps", "-aq").out == ""


def test_a_paused_container_is_not_started(client: Client) -> None:
    made = client.containers.run("bb", ["sleep", "1000"], detach=True)
    made.pause()
    with pytest.raises(docker.errors.APIError, match="paused") as refused:
        made.start()
    assert refused.value.status_code == 409
    made.unpause()
    made.start()
    made.remove(force=True)


def test_no_change_is_null(client: Client, command: Command) -> None:
    made = client.containers.run("bb", ["true"], detach=True)
    made.wait()
    assert client.api.diff(made.id) is None
    assert command("diff", made.id).stdout == b""


def test_an_import_says_where_it_came_from(client: Client, command: Command) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    made = command("import", "-", "from:here", stdin=data.getvalue()).stdout.decode().strip()
    assert client.images.get(made).attrs["Comment"] == "Imported from -"
    client.images.remove("from:here")


def test_what_is_not_there_is_told_in_dockers_words(command: Command) -> None:
    assert b"No such object: nothing" in command("inspect", "nothing", code=1).stderr
    said = command("kill", "nothing", code=1).stderr
    assert b"Cannot kill container: nothing: No such container: nothing" in said
    said = command("swarm", "leave", code=1).stderr
    assert b"This node is not part of a swarm" in said


def test_a_file_that_is_not_there_is_told_in_dockers_words(
    client: Client, command: Command
) -> None:
    client.containers.create("bb", ["true"], name="has-none")
    said = command("cp", "has-none:/nothing", ".", code=1).stderr
    assert said.strip().endswith(b"Could not find the file /nothing in container has-none")


def test_only_an_image_is_pulled_where_something_is_missing(command: Command, raw: Raw) -> None:
    """Docker's command takes any 404 that a create is answered with for a missing image."""
    for place in ("/nothing/here", "/no/images"):
        mount = f"type=bind,source={place},target=/d"
        said = command("run", "--rm", "--mount", mount, "bb", "true", code=125).stderr
        assert b"Unable to find image" not in said and place.encode() in said
    for wrong in ({"VolumesFrom": ["nobody"]}, {"NetworkMode": "container:imagebox"}):
        body = {"Image": "bb", "Cmd": ["true"], "HostConfig": wrong}
        assert raw("POST", "/containers/create", body).status == 400
    assert raw("POST", "/containers/create", {"Image": "nothing", "Cmd": ["x"]}).status == 404


def test_who_hears_the_output_hears_its_beginning(client: Client, raw: Raw) -> None:
    """docker-compose has a connection for each stream, that of the input first."""
    made = client.containers.create("bb", ["echo", "first"])
    path = f"/containers/{made.id}/attach?stream=1"
    with (
        raw.upgrade(f"{path}&stdin=1"),
        raw.upgrade(f"{path}&stderr=1"),
        raw.upgrade(f"{path}&stdout=1") as heard,
    ):
        made.start()
        assert heard.frames() == [(1, b"first\n")]


def test_the_networks_that_docker_has_are_there(cove: Cove, raw: Raw) -> None:
    try:
        assert raw("GET", "/networks/bridge").status == 200
        for name in ("bridge", "host", "none"):
            said = raw("POST", "/networks/create", {"Name": name})
            assert said.status == 403
            assert said.message == f"operation is not permitted on predefined {name} network"
            gone = raw("DELETE", f"/networks/{name}")
            assert gone.status == 403 and gone.message.startswith(
                f"{name} is a pre-defined network"
            )
        assert raw("POST", "/networks/prune").status == 200
        assert "bridge" in cove("network", "ls", "--format", "{{.Name}}").out.split()
        assert raw("POST", "/networks/create", {"Name": "twice"}).status == 201
        again = raw("POST", "/networks/create", {"Name": "twice"})
        assert (again.status, again.message) == (409, "network with name twice already exists")
    finally:
        cove("network", "rm", "bridge", "twice", code=None)


def test_cove_stands_in_for_dockers_command(fresh_cove: Cove, tmp_path: Path) -> None:
    """A link of that name, with no daemon there and with one, in both of Docker's spellings."""
    stand_in = tmp_path / "docker"
    stand_in.symlink_to(front_path())

    def asked(*words: str) -> str:
        ran = subprocess.run(
            [stand_in, *words], env=fresh_cove.env, capture_output=True, text=True, timeout=180
        )
        assert ran.returncode == 0, (words, ran)
        return ran.stdout

    fresh_cove.stop_daemon()
    assert asked("run", "--rm", "bb", "echo", "hello") == "hello\n"
    made = asked("container", "create", "--name", "made", "bb", "true")
    for words in (("ps", "-aq", "--no-trunc"), ("container", "ls", "-aq", "--no-trunc")):
        assert asked(*words) == made
    form = ("--format", "{{.Repository}}", "bb")
    assert asked("images", *form) == asked("image", "ls", *form) == "bb\n"
    asked("container", "rm", "made")
