"""docker-py's own integration tests against cove.

    git clone https://github.com/docker/docker-py DIR
    make test-docker-py DOCKER_PY=DIR          # python -m tests.docker_py DIR [of pytest...]

docker-py's archive on PyPI has no tests, so its repository is named by whoever has it; the package
that is tested with is the one that is installed. It runs in a network namespace of its own: images
that the tests pull come from a registry that is begun here, and called as Docker Hub is.

``failing.toml`` names each test that fails, with the reason, and those that depend on who is
faster. The run fails where one that is said to fail passes, or another one fails. With words for
pytest behind DIR nothing is compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.driver import ROOT, Cove, busybox_tar, clean_env, new_cove
from tests.registry.registries import docker_registry, listens
from tests.registry.test_certificates import make

FAILING = Path(__file__).with_name("failing.toml")
SWARM = (
    "api_config_test",
    "api_plugin_test",
    "api_secret_test",
    "api_service_test",
    "api_swarm_test",
    "models_nodes_test",
    "models_services_test",
    "models_swarm_test",
)
"""Files whose tests are about swarms and plugins, of which cove has none."""
IMAGES = ("busybox:latest", "alpine:latest", "alpine:3.10")
POSTGRES = "mkdir -p /var/opt && echo postgres:x:70:70::/:/bin/sh >> /etc/passwd"
"""Of Alpine's image: a user and a directory that the tests know."""
BY_TCP = (
    "tests/integration/api_container_test.py::AttachContainerTest::"
    "test_run_container_reading_socket_ws",
)
"""docker-py opens no websocket on a unix socket."""
HUB = "registry-1.docker.io"
PATIENCE = 120
"""Seconds for one test."""


def make_images(cove: Cove, registry: str, place: Path) -> None:
    """What docker-py's tests know by name; ``hello-world`` is pulled and removed by them."""
    tar = busybox_tar(place / "busybox.tar")
    hello = place / "hello"
    hello.write_text("#!/bin/sh\necho hello\n")
    small = busybox_tar(place / "hello.tar", extra={"hello": hello})
    cove("image", "import", str(tar), "bare")
    cove("image", "import", str(small), "small")
    for source, names in (
        (f'FROM bare\nRUN {POSTGRES}\nCMD ["sh"]\n', IMAGES),
        ('FROM small\nCMD ["/hello"]\n', ("hello-world:latest",)),
    ):
        cove("build", "-q", "-t", names[0], "-", stdin=source)
        for name in names:
            if name != names[0]:
                cove("tag", names[0], name)
            cove("tag", name, f"{registry}/library/{name}")
            cove("push", "-q", f"{registry}/library/{name}")
            cove("rmi", f"{registry}/library/{name}")
    cove("rmi", "hello-world:latest", "small", "bare")


@contextmanager
def hub(cove: Cove, place: Path) -> Iterator[None]:
    """Docker Hub, as far as it is known in here: the same images by its own name and port."""
    make(place, HUB, f"DNS:{HUB}")
    known = cove.root / "certs.d" / HUB
    known.mkdir(parents=True)
    shutil.copy(place / f"{HUB}.crt", known / "ca.crt")
    conf = place / "hub.yml"
    conf.write_text(
        f"version: 0.1\nlog: {{level: error}}\n"
        f"storage: {{filesystem: {{rootdirectory: {place}/registry/data}}}}\n"
        f"http: {{addr: '127.0.0.1:443', tls: {{certificate: {place}/{HUB}.crt, "
        f"key: {place}/{HUB}.key}}}}\n"
    )
    with (place / "hub.log").open("wb") as log:
        child = subprocess.Popen(["docker-registry", "serve", conf], stdout=log, stderr=log)
    try:
        assert listens(443, child), (place / "hub.log").read_text()
        yield
    finally:
        child.terminate()
        child.wait()


@contextmanager
def served(place: Path) -> Iterator[Cove]:
    cove = new_cove(network="bridge")
    with docker_registry(place / "registry") as registry, hub(cove, place):
        (cove.root / "registries.json").write_text(json.dumps({"insecure": [registry]}))
        try:
            make_images(cove, registry, place)
            yield cove
        except BaseException:
            print(cove.post_mortem(), file=sys.stderr)
            raise
        finally:
            cove.close()


def run(cove: Cove, tree: Path, place: Path, words: list[str]) -> dict[str, str]:
    """What became of each test: passed, failed or skipped."""
    suite = place / "suite"
    shutil.copytree(tree / "tests", suite / "tests")
    report = place / "report.xml"
    chosen = words or [
        str(file.relative_to(suite))
        for file in sorted(
            (suite / "tests/integration").glob("*_test.py"),
            key=lambda file: (file.stem in SWARM, file.stem),
        )
    ]
    home = place / "home"
    home.mkdir()
    env = clean_env()
    env |= {"DOCKER_HOST": cove("system", "docker-socket").out.strip(), "HOME": str(home)}
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider",
               f"--timeout={PATIENCE}", "-c", "/dev/null", f"--rootdir={suite}",
               f"--junitxml={report}"]  # fmt: skip
    apart = [] if words else [f"--deselect={name}" for name in BY_TCP]
    subprocess.run([*command, *apart, *chosen], cwd=suite, env=env, check=False)
    found = dict(outcomes(report))
    if not words:
        with by_tcp(env["DOCKER_HOST"]) as address:
            env["DOCKER_HOST"] = address
            subprocess.run([*command, *BY_TCP], cwd=suite, env=env, check=False)
        found |= outcomes(report)
    return found


@contextmanager
def by_tcp(host: str) -> Iterator[str]:
    """The daemon's socket, by a port of this network namespace, which is nobody else's."""
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            daemon = socket.socket(socket.AF_UNIX)
            daemon.connect(host.removeprefix("unix://"))
            for pair in ((client, daemon), (daemon, client)):
                threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with listener:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def outcomes(report: Path) -> Iterator[tuple[str, str]]:
    for case in ElementTree.parse(report).iter("testcase"):
        names = case.get("classname", "").split(".")
        inside = "::".join((*names[3:], case.get("name", "")))
        kinds = {child.tag for child in case}
        bad = bool(kinds & {"failure", "error"})
        yield (
            f"{names[2]}::{inside}",
            "failed" if bad else "skipped" if kinds & {"skipped"} else "passed",
        )


def judge(found: dict[str, str], swarm: dict[str, str]) -> int:
    tables: dict[str, dict[str, str]] = tomllib.loads(FAILING.read_text())
    known, unsteady = set(tables["failing"]), set(tables["unsteady"])
    failed = {name for name, end in found.items() if end == "failed"}
    wrong = [
        f"fails, and is not in {FAILING.name}: {name}" for name in sorted(failed - known - unsteady)
    ]
    wrong += [
        f"is in {FAILING.name}, but {found.get(name, 'is not there')}: {name}"
        for name in sorted(known - failed)
    ]
    print("\n".join(wrong))
    ends = list(found.values())
    print(f"{len(ends)} tests without a swarm or plugins: {counted(ends)}")
    others = list(swarm.values())
    print(f"{len(others)} about swarms, plugins and secrets: {counted(others)}")
    print(f"{len(ends) + len(others)} in all: {counted([*ends, *others])}")
    return bool(wrong)


def by_file(found: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The results of the others, and those about swarms."""
    swarm = {name: end for name, end in found.items() if name.partition("::")[0] in SWARM}
    return {name: end for name, end in found.items() if name not in swarm}, swarm


def counted(ends: list[str]) -> str:
    return (
        f"{ends.count('passed')} passed, {ends.count('failed')} failed, "
        f"{ends.count('skipped')} skipped by docker-py itself"
    )


def main() -> int:
    if len(sys.argv) < 2 or not Path(sys.argv[1], "tests/integration").is_dir():
        print(
            "docker-py's archive on PyPI has no tests. Get its repository, and name it:\n"
            "  git clone https://github.com/docker/docker-py DIR\n"
            "  make test-docker-py DOCKER_PY=DIR",
            file=sys.stderr,
        )
        return 2
    tree, words = Path(sys.argv[1]).resolve(), sys.argv[2:]
    if os.environ.get("COVE_DOCKER_PY") != "inside":
        inside = os.environ | {"COVE_DOCKER_PY": "inside"}
        again = [
            "unshare",
            "--net",
            "--mount",
            sys.executable,
            "-m",
            "tests.docker_py",
            str(tree),
            *words,
        ]
        return subprocess.run(again, env=inside, cwd=ROOT, check=False).returncode
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        hosts = Path(scratch, "hosts")
        hosts.write_text(f"127.0.0.1 localhost {HUB}\n")
        subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
        with served(Path(scratch)) as cove:
            found = run(cove, tree, Path(scratch), words)
    return 0 if words else judge(*by_file(found))


if __name__ == "__main__":
    raise SystemExit(main())
