"""The two that are asked: cove's daemon and Debian's dockerd, each in a network namespace and with
a state directory of its own. Both end with the run.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.clients import as_docker
from tests.driver import front_path, new_cove, wait_end, wait_until
from tests.shared import give_guests

PROGRAMS = ("docker", "dockerd", "containerd", "runc", "tmux")


def missing() -> list[str]:
    places = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=places) is None]


@contextmanager
def namespace() -> Iterator[list[str]]:
    """The words that put a command into a network of its own."""
    words = ["unshare", "--net", "sh", "-c", "ip link set lo up; echo; exec sleep infinity"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None and other.stdout.read(1)
            yield ["nsenter", "-t", str(other.pid), "-n"]
        finally:
            other.kill()


@contextmanager
def dockerd(scratch: Path) -> Iterator[str]:
    socket = f"unix://{scratch}/sock"
    words = ["--data-root", f"{scratch}/data", "--exec-root", f"{scratch}/exec"]
    words += ["-p", f"{scratch}/pid", "-H", socket]
    env = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    with namespace() as enter, (scratch / "log").open("wb") as log:
        daemon = subprocess.Popen([*enter, "dockerd", *words], stdout=log, stderr=log, env=env)
        try:
            ask = ["docker", "-H", socket, "version"]

            def answers() -> bool:
                assert daemon.poll() is None, (scratch / "log").read_text()[-3000:]
                return not subprocess.run(ask, capture_output=True, check=False).returncode

            wait_until(answers, "dockerd")
            yield socket
        finally:
            if daemon.poll() is None:
                fd = os.pidfd_open(daemon.pid)
                daemon.send_signal(signal.SIGTERM)
                wait_end(fd)
            daemon.wait()


def _version(host: str) -> str:
    ask = ["docker", "-H", host, "version", "--format", "{{.Server.APIVersion}}"]
    return subprocess.run(ask, capture_output=True, check=True, text=True).stdout.strip()


@contextmanager
def both() -> Iterator[dict[str, dict[str, str]]]:
    """The environments in which ``docker`` speaks to each; ``$VM`` asks for a virtual machine."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("COVE_", "DOCKER_"))}
    keep |= {
        "DOCKER_CONFIG": "/nonexistent",
        "DOCKER_BUILDKIT": "0",
        "TMUX": "",
        "LC_ALL": "C.UTF-8",
    }
    cove = new_cove(network="bridge")
    scratch = Path(tempfile.mkdtemp(prefix="beside-", dir="/var/tmp"))
    try:
        give_guests(cove)
        with namespace() as enter:
            begin = [*enter, str(front_path()), "ps"]
            subprocess.run(begin, check=True, env=cove.env, stdout=subprocess.DEVNULL)
            host = cove("system", "docker-socket").out.strip()
            with dockerd(scratch) as other:
                # The same version for both: that is what there is to compare.
                keep["DOCKER_API_VERSION"] = _version(other)
                envs = {
                    "docker": keep | {"DOCKER_HOST": other, "VM": ""},
                    "cove": keep | {"DOCKER_HOST": host, "VM": "--isolation vm"},
                }
                tar = as_docker.root_tar(scratch)
                for env in envs.values():
                    as_docker.images("docker", tar, env)
                yield envs
    finally:
        cove.close()
        shutil.rmtree(scratch, ignore_errors=True)
