"""Debian's docker-compose: a project of three services, in the network of a host of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.api.conftest import docker_host
from tests.conftest import need
from tests.driver import Cove, wait_until
from tests.networks.conftest import cove, host

__all__ = ["cove", "host"]

PROJECT = """
version: "2.4"
services:
  db:
    image: bb
    init: true
    command: ["sh", "-c", "echo rows of db > /data/rows; exec nc -ll -p 5432 -e cat /data/rows"]
    volumes: ["data:/data"]
    networks: {back: {aliases: [sql]}}
    healthcheck: {test: ["CMD", "test", "-s", "/data/rows"], interval: 1s, retries: 120}
    environment: {SECRET: "of db"}
  web:
    image: bb
    init: true
    command: ["sh", "-c", "echo serving; exec httpd -f -p 80 -h /www"]
    volumes: ["./www:/www:ro"]
    networks: [front, back]
    depends_on: {db: {condition: service_healthy}}
    ports: ["8080:80"]
    restart: unless-stopped
    mem_limit: 64m
  worker:
    image: bb
    init: true
    command:
      - sh
      - -c
      - |
        until wget -q -O - http://web/ 2>/dev/null; do sleep 0.1; done
        until nc sql 5432 2>/dev/null; do sleep 0.1; done
        exec sleep 1000
    networks: [back]
    depends_on: [db, web]
    labels: {role: worker}
networks:
  front: {}
  back: {internal: true}
volumes:
  data: {}
"""

SMALL = """
version: "2.4"
services:
  made:
    build: {context: ./built, args: {WHAT: argument}}
    init: true
    command: ["sh", "-c", "echo up $$(hostname); exec sleep 1000"]
"""

Compose = Callable[..., str]


@pytest.fixture
def compose(cove: Cove, tmp_path: Path) -> Compose:
    """In the project's directory; its standard output."""
    need("docker-compose")
    version = subprocess.check_output(["docker-compose", "version", "--short"], text=True).strip()
    if not version.startswith("1."):  # names and words of v2 are others
        pytest.skip(f"needs docker-compose 1.29, as Debian 12 has it, not {version}")
    (tmp_path / "www").mkdir()
    (tmp_path / "www/index.html").write_text("page of web\n")
    (tmp_path / "docker-compose.yml").write_text(PROJECT)
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("COVE_", "DOCKER_"))}
    # Without the docker command, which need not be there, and without its configuration.
    env = keep | {
        "DOCKER_HOST": docker_host(cove),
        "DOCKER_CONFIG": "/nonexistent",
        "COMPOSE_PROJECT_NAME": "three",
        "COMPOSE_INTERACTIVE_NO_CLI": "1",
        "COMPOSE_HTTP_TIMEOUT": "120",
        "COLUMNS": "200",
    }

    def run(*words: str, code: int = 0) -> str:
        ran = subprocess.run(
            ["docker-compose", "--ansi", "never", *words],
            cwd=tmp_path,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ran.returncode == code, (words, ran.returncode, ran.stdout, ran.stderr)
        return ran.stdout

    return run


def test_a_project_of_three_services(cove: Cove, compose: Compose, tmp_path: Path) -> None:
    compose("up", "-d")
    shown = {line.split()[0]: line for line in compose("ps").splitlines()[2:]}
    assert set(shown) == {"three_db_1", "three_web_1", "three_worker_1"}
    assert "Up (healthy)" in shown["three_db_1"]
    assert "127.0.0.1:8080->80/tcp" in shown["three_web_1"]
    wait_until(lambda: "rows of db" in compose("logs", "--no-color", "worker"), "both answers")
    said = compose("logs", "--no-color").splitlines()[1:]
    assert sorted(" ".join(line.split()) for line in said) == [
        "web_1 | serving",
        "worker_1 | page of web",
        "worker_1 | rows of db",
    ]
    assert compose("exec", "-T", "db", "sh", "-c", "echo $SECRET") == "of db\n"
    compose("exec", "-T", "web", "sh", "-c", "exit 7", code=7)
    assert compose("port", "web", "80") == "127.0.0.1:8080\n"

    # Only what was changed is made anew, and it keeps its volume.
    changed = PROJECT.replace("SECRET: ", "ADDED: also, SECRET: ")
    (tmp_path / "docker-compose.yml").write_text(changed)
    before = compose("ps", "-q", "web").strip()
    compose("up", "-d", "--no-deps", "db")
    assert compose("exec", "-T", "db", "sh", "-c", "echo $ADDED; cat /data/rows").startswith("also")
    assert compose("ps", "-q", "web").strip() == before
    (limits,) = json.loads(cove("inspect", before).out)
    assert limits["HostConfig"]["Memory"] == 64 << 20

    compose("down", "-v")
    assert cove("ps", "-aq").out == cove("volume", "ls", "-q").out == ""
    assert "three" not in cove("network", "ls").out


def test_one_more_command_and_more_of_one_service(
    cove: Cove, compose: Compose, tmp_path: Path
) -> None:
    (tmp_path / "built").mkdir()
    (tmp_path / "built/Dockerfile").write_text("FROM bb\nARG WHAT\nRUN echo $WHAT > /what\n")
    (tmp_path / "docker-compose.yml").write_text(SMALL)
    assert "Successfully tagged" in compose("build", "made")
    assert compose("run", "--rm", "-T", "made", "cat", "/what") == "argument\n"
    compose("run", "--rm", "-T", "made", "sh", "-c", "exit 9", code=9)
    compose("up", "-d", "--scale", "made=2")
    assert len(compose("ps", "-q", "made").split()) == 2
    compose("scale", "made=3")
    names = cove("ps", "--format", "{{.Names}}").out.split()
    assert sorted(names) == ["three_made_1", "three_made_2", "three_made_3"]

    def said(times: int) -> bool:
        return compose("logs", "--no-color").count("up ") == times

    # A start is answered before its program speaks: one ended sooner has nothing to say.
    wait_until(lambda: said(3), "each said it")
    compose("restart", "-t", "120")
    wait_until(lambda: said(6), "each said it again")
    # In the middle of an exec a command line is empty for a moment.
    wait_until(lambda: compose("top", "made").count("sleep 1000") == 3, "each program")
    compose("stop", "-t", "120")
    assert cove("ps", "-q").out == ""
    # What follows ends with the last of them, and has said all.
    assert compose("logs", "-f", "--no-color").count("up ") == 6
    compose("rm", "-f")
    assert cove("ps", "-aq").out == ""
    compose("down", "-v", "--rmi", "all")
    assert "three_made" not in cove("images").out
