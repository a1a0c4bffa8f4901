"""``cove context`` writes the files of Docker's own command, which reads them, and the reverse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.api.conftest import Command, docker_host
from tests.driver import Cove

Asked = Callable[..., str]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config"


@pytest.fixture
def ours(cove: Cove, config: Path) -> Asked:
    def asked(*words: str, code: int = 0) -> str:
        ran = cove("context", *words, code=code, env={"DOCKER_CONFIG": str(config)})
        return ran.err if code else ran.out

    return asked


@pytest.fixture
def theirs(command: Command, config: Path) -> Asked:
    env = {k: v for k, v in command.env.items() if not k.startswith("DOCKER_")}

    def asked(*words: str) -> str:
        ran = command(*words, env=env | {"DOCKER_CONFIG": str(config)})
        return ran.stdout.decode()

    return asked


def test_dockers_command_uses_the_context(cove: Cove, ours: Asked, theirs: Asked) -> None:
    assert ours("create") == "cove\n" and ours("show") == "default\n"
    assert ours("use", "cove") == "cove\n"
    assert theirs("context", "show") == "cove\n" == ours("show")
    assert theirs("run", "--rm", "bb", "echo", "hello") == "hello\n"
    assert json.loads(theirs("context", "inspect")) == json.loads(ours("inspect"))
    assert theirs("context", "ls") == ours("ls")
    endpoint = "{{.Endpoints.docker.Host}}"
    assert ours("inspect", "-f", endpoint, "cove").strip() == docker_host(cove)
    assert "it is in use" in ours("rm", "cove", code=1)
    assert ours("rm", "-f", "cove") == "cove\n"
    assert theirs("context", "show") == "default\n"


def test_what_docker_wrote_is_read_and_kept(ours: Asked, theirs: Asked, config: Path) -> None:
    theirs("context", "create", "other", "--docker", "host=tcp://192.0.2.1:2376")
    (config / "config.json").write_text('{"auths": {"a.example": {}}, "psFormat": "x"}')
    assert ours("ls", "-q").split() == ["default", "other"]
    ours("use", "other")
    ours("update", "other", "--description", "far")
    row = json.loads(theirs("context", "ls", "--format", "json").splitlines()[1])
    assert (row["Name"], row["Current"], row["Description"]) == ("other", True, "far")
    kept = {"auths": {"a.example": {}}, "psFormat": "x", "currentContext": "other"}
    assert json.loads((config / "config.json").read_text()) == kept
    assert json.loads(theirs("context", "inspect", "other"))[0]["Endpoints"]["docker"]["Host"] == (
        "tcp://192.0.2.1:2376"
    )


def test_an_update_keeps_what_cove_does_not_know_of(
    ours: Asked, theirs: Asked, config: Path
) -> None:
    theirs("context", "create", "far", "--docker", "host=tcp://192.0.2.1:2376,skip-tls-verify=true")
    (meta,) = config.glob("contexts/meta/*/meta.json")
    document = json.loads(meta.read_text())
    document["Metadata"]["own"] = [1]
    document["Endpoints"]["foreign"] = {"Host": "x", "k": 2}
    meta.write_text(json.dumps(document))
    keys = config / "contexts/tls" / meta.parent.name / "docker"
    keys.mkdir(parents=True)
    (keys / "ca.pem").write_text("")
    assert json.loads(theirs("context", "inspect", "far")) == json.loads(ours("inspect", "far"))
    ours("update", "far", "--description", "d", "--docker", "host=tcp://192.0.2.2:2376")
    document["Metadata"]["Description"] = "d"
    document["Endpoints"]["docker"]["Host"] = "tcp://192.0.2.2:2376"
    assert json.loads(meta.read_text()) == document
    assert json.loads(theirs("context", "inspect", "far")) == json.loads(ours("inspect", "far"))


def test_what_is_no_context_is_refused(ours: Asked, config: Path) -> None:
    ours("create", "one", "--docker", "host=unix:///one.sock")
    for words, said in (
        (("create", "one"), 'cannot make the context "one": it is there'),
        (("rm", "default"), 'cannot remove the context "default": it is no file'),
        (("use", "nothing"), 'cannot find the context "nothing"'),
    ):
        assert said in ours(*words, code=1), words
    for words, said in (
        (("create", "../up"), 'cannot create the context "../up": not two letters'),
        (("create", "default"), 'cannot create the context "default"'),
        (("create", "x1", "--docker", "host=tcp://a:1,key=k"), "cove copies no keys"),
        (("create", "x1", "--docker", "relative"), "an endpoint is host=URL"),
        (("create", "x1", "--docker", "host=/run/x"), 'cannot use "/run/x" as an address'),
        (("create", "x1", "--from", "one"), "cove copies no contexts"),
    ):
        assert said in ours(*words, code=125), words
    # What somebody else left there is neither believed nor a reason to fail.
    place = config / "contexts/meta/junk"
    place.mkdir()
    (place / "meta.json").write_text('{"Name": 7, "Endpoints": []}')
    assert ours("ls", "-q").split() == ["default", "one"]
    (config / "config.json").write_text("no json")
    assert "it is no JSON document" in ours("use", "one", code=1)
    assert (config / "config.json").read_text() == "no json"


def test_libraries_find_cove_by_its_context(
    cove: Cove, ours: Asked, config: Path, tmp_path: Path
) -> None:
    """docker-py reads them too."""
    ours("create")
    ours("use", "cove")
    script = "import docker; print(docker.ContextAPI.get_current_context().Host)"
    env = {k: v for k, v in os.environ.items() if not k.startswith("DOCKER_")}
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env=env | {"DOCKER_CONFIG": str(config), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ran.stdout.strip() == docker_host(cove), ran
