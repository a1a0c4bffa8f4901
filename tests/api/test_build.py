"""``POST /build`` by docker-py, by the docker command, and by hand."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import docker
import pytest

from tests.api.conftest import Command, Raw, Reply
from tests.driver import Cove

Client = docker.DockerClient


@pytest.fixture(autouse=True)
def forgotten(cove: Cove, removed: None) -> Iterator[None]:
    yield
    names = cove("images", "--format", "{{.Repository}}:{{.Tag}}").out.split()
    if mine := [name for name in names if name.startswith("api-build")]:
        cove("rmi", "-f", *mine)
    cove("image", "prune", "-f")
    cove("builder", "prune", "-f")


def context(**files: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return data.getvalue()


def post(raw: Raw, body: bytes, headers: str = "", **query: Any) -> Reply:
    head = (
        f"POST /build?{urlencode(query, doseq=True)} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
    )
    head += f"{headers}Content-Type: application/x-tar\r\nContent-Length: {len(body)}\r\n\r\n"
    return raw.send(head.encode() + body)


def lines(reply: Reply) -> list[dict[str, Any]]:
    assert reply.status == 200, reply
    return [json.loads(line) for line in reply.body.splitlines()]


def text(reply: Reply) -> str:
    return "".join(line.get("stream", "") for line in lines(reply))


def test_an_archive_becomes_an_image(raw: Raw, client: Client) -> None:
    file = (
        'FROM bb AS base\nENV A=b\nRUN echo said; cat /f\nFROM base\nCOPY f /g\nCMD ["cat", "/g"]\n'
    )
    file = file.replace("RUN", "COPY f /\nRUN")
    body = context(Dockerfile=file, f="kept\n")
    for data in (body, gzip.compress(body)):
        told = lines(post(raw, data, t=["api-build:a", "api-build:b"], nocache=1))
        words = "".join(line.get("stream", "") for line in told)
        assert [line for line in words.splitlines() if line.startswith("Step")] == [
            "Step 1/7 : FROM bb:latest AS base",
            "Step 2/7 : ENV A=b",
            "Step 3/7 : COPY f /",
            "Step 4/7 : RUN echo said; cat /f",
            "Step 5/7 : FROM base",
            "Step 6/7 : COPY f /g",
            'Step 7/7 : CMD ["cat", "/g"]',
        ]
        assert "said\nkept\n" in words and "Using cache" not in words
        (aux,) = [line["aux"]["ID"] for line in told if "aux" in line]
        assert client.images.get("api-build:a").id == aux == client.images.get("api-build:b").id
        assert told[-3:] == [
            {"stream": f"Successfully built {aux[7:19]}\n"},
            {"stream": "Successfully tagged api-build:a\n"},
            {"stream": "Successfully tagged api-build:b\n"},
        ]
        assert client.containers.run("api-build:a", remove=True) == b"kept\n"
    assert text(post(raw, body)).count("Using cache") == 5
    assert lines(post(raw, body, q=1)) == [{"stream": f"{aux}\n"}]
    assert "Using cache" not in text(post(raw, body, cachefrom='["api-build:none"]'))


def test_parameters_are_those_of_docker(raw: Raw, client: Client) -> None:
    file = "FROM bb AS first\nARG who\nUSER $who\nRUN cat /etc/hosts; ulimit -n; df -k /dev/shm\n"
    body = context(**{"other.file": file + "FROM bb\nRUN false\n", "x": ""})
    done = post(
        raw, body, dockerfile="other.file", target="first", t="api-build:p",
        buildargs='{"who": "ada", "unset": null}', labels='{"l": "m=n", "empty": ""}',
        networkmode="none", extrahosts=["db:10.9.8.7", "x:10.9.8.6"], shmsize=1 << 20,
        ulimits='[{"Name": "nofile", "Soft": 99, "Hard": 100}]', memory=64 << 20, rm=1,
        forcerm=1, cpuperiod=0, cpusetcpus="", isolation="default", pull=0, version=1,
    )  # fmt: skip
    said = text(done)
    assert "10.9.8.7\tdb" in said and "10.9.8.6\tx" in said and "\n99\n" in said
    config = client.images.get("api-build:p").attrs["Config"]
    assert config["User"] == "ada" and config["Labels"] == {"l": "m=n", "empty": ""}


def test_a_step_that_fails_says_which(raw: Raw) -> None:
    told = lines(post(raw, context(Dockerfile="FROM bb\nRUN echo before\nRUN exit 3\n")))
    words = "The command '/bin/sh -c exit 3' returned a non-zero code: 3"
    assert told[-1] == {"errorDetail": {"code": 3, "message": words}, "error": words}
    assert {"stream": "before\n"} in told
    told = lines(post(raw, context(Dockerfile="FROM bb\nRUN echo why >&2; exit 3\n")))
    assert {"stream": "\033[91mwhy\n\033[0m"} in told and told[-1]["error"] == words.replace(
        "exit 3", "echo why >&2; exit 3"
    )
    told = lines(post(raw, context(Dockerfile="FROM bb\nRUN true\nCOPY nothing /\n")))
    assert '"/nothing" is not in the build context' in told[-1]["error"]


def test_what_cannot_be_built_is_refused(raw: Raw) -> None:
    body = context(Dockerfile="FROM bb\n")
    for query, status, message in (
        ({"version": "2"}, 501, "BuildKit"),
        ({"session": "x"}, 501, "BuildKit"),
        ({"squash": "1"}, 501, "squash"),
        ({"cpuquota": "5"}, 501, "cpuquota"),
        ({"cpusetcpus": "0"}, 501, "cpusetcpus"),
        ({"isolation": "hyperv"}, 501, "hyperv"),
        ({"dockerfile": "else"}, 400, "Cannot locate specified Dockerfile: else"),
        ({"dockerfile": "../../etc/passwd"}, 400, "Cannot locate specified Dockerfile"),
        ({"buildargs": "[]"}, 400, "buildargs"),
        ({"labels": "{"}, 400, "labels"),
        ({"ulimits": '[{"Name": "what"}]'}, 400, "what"),
        ({"t": "NOT A NAME"}, 400, "NOT A NAME"),
        ({"target": "none"}, 400, "none"),
        ({"memory": "x"}, 400, "memory"),
        ({"platform": "a b/c"}, 400, "a b/c"),
    ):
        reply = post(raw, body, **query)
        assert (reply.status, message in reply.message) == (status, True), (query, reply)
    for bad in (b"", b"NONSENSE x\n", context(Dockerfile="FROM bb\nFORM x\n"), context(f="")):
        assert post(raw, bad).status == 400, bad
    assert post(raw, body, "X-Registry-Config: %%%\r\n").status == 400
    known = base64.urlsafe_b64encode(b'{"https://index.docker.io/v1/": {"username": "a"}}').decode()
    assert post(raw, body, f"X-Registry-Config: {known}\r\n").status == 200
    missing = post(raw, context(Dockerfile="FROM localhost:1/nothing\n"))
    assert missing.status == 500 and "localhost:1" in missing.message


def test_docker_builds_by_the_classic_builder(command: Command, cove: Cove, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM bb\nCOPY . /all\nRUN ls /all; exit $(ls /all | wc -l)\n"
    )
    (tmp_path / ".dockerignore").write_text("*\n")
    classic = {**command.env, "DOCKER_BUILDKIT": "0"}
    done = command("build", "-t", "api-build:c", str(tmp_path), env=classic)
    assert b"Successfully tagged api-build:c" in done.stdout
    (tmp_path / ".dockerignore").unlink()
    failed = command("build", str(tmp_path), code=1, env=classic)
    assert b"returned a non-zero code: 1" in failed.stderr
    assert cove("image", "inspect", "-f", "{{.Os}}", "api-build:c").out == "linux\n"


def test_the_cache_of_builds_is_pruned(client: Client, raw: Raw) -> None:
    assert "Using cache" not in text(post(raw, context(Dockerfile="FROM bb\nRUN echo > /pruned\n")))
    old = client.api._result(
        client.api._post(client.api._url("/build/prune"), params={"filters": '{"until": ["9h"]}'}),
        True,
    )
    assert old == {"CachesDeleted": None, "SpaceReclaimed": 0}
    client.images.prune()
    for words in ("keep-storage", "reserved-space", "max-used-space"):
        kept = raw("POST", f"/build/prune?{words}={1 << 50}")
        assert kept.status == 200 and json.loads(kept.body)["CachesDeleted"] is None
    gone = client.api.prune_builds()
    assert len(gone["CachesDeleted"]) == 1 and gone["SpaceReclaimed"] > 0
    assert raw("POST", "/build/prune?filters=%7B%22id%22%3A%5B%22x%22%5D%7D").status == 400
    assert raw("POST", "/build/prune?max-used-space=-5").status == 400
