"""A virtual machine from its start to its end by docker-py alone."""

from __future__ import annotations

import io
import os
import signal
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import docker
import pytest
from docker.types import LogConfig

from tests.api.conftest import docker_host
from tests.conftest import need
from tests.driver import Cove, wait_until
from tests.kernel.conftest import closed_cove
from tests.shared import give_guests

Client = docker.DockerClient
SCRIPT = "echo begun; trap 'echo ended >&2; exit 7' TERM; while :; do sleep 1 & wait $!; done"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cove(bb_tar: object) -> Iterator[Cove]:
    need("qemu-system-x86_64")
    need("mkfs.erofs")
    with closed_cove(bb_tar) as driver:  # type: ignore[arg-type]
        give_guests(driver)
        yield driver


def packed(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def test_docker_py_alone_sees_a_virtual_machine_through(client: Client) -> None:
    box = client.containers.run(
        "bb", ["sh", "-c", SCRIPT], isolation="vm", detach=True, name="guest", mem_limit="256m"
    )
    try:
        box.reload()
        assert box.status == "running" and box.attrs["HostConfig"]["Isolation"] == "vm"
        code, (out, err) = box.exec_run(
            ["sh", "-c", "cat /proc/1/comm; echo wrong >&2; exit 3"], demux=True
        )
        assert (code, err) == (3, b"wrong\n") and out
        assert box.put_archive("/tmp", packed("in", b"by docker-py\n" * 1000))
        assert box.exec_run(["wc", "-l", "/tmp/in"]).output == b"1000 /tmp/in\n"
        pieces, about = box.get_archive("/tmp/in")
        assert about["name"] == "in" and about["size"] == 13000
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
            file = tar.extractfile("in")
            assert file is not None and file.read() == b"by docker-py\n" * 1000
        used = box.stats(stream=False)
        assert used["memory_stats"]["usage"] > 0 and used["pids_stats"]["current"] > 0
        assert box.top()["Processes"][0][-1].split()[:2] == ["sh", "-c"]
        wait_until(lambda: box.logs() == b"begun\n", "its first word")
        box.stop(timeout=100)
        assert box.wait()["StatusCode"] == 7
        assert box.logs(stdout=False) == b"ended\n" and b"begun" in box.logs()
        box.start()
        box.kill()
        assert box.wait()["StatusCode"] == 137
    finally:
        box.remove(force=True)
    assert client.containers.list(all=True) == []
    said = client.containers.run(
        "bb", ["uname", "-n"], isolation="vm", hostname="vm-1", remove=True
    )
    assert said == b"vm-1\n"


def test_its_log_turns_its_health_is_asked_for_and_waits_are_answered(
    cove: Cove, client: Client
) -> None:
    box = client.containers.run(
        "bb",
        ["sh", "-c", "seq 1 60000; exec sleep 100000"],
        isolation="vm",
        detach=True,
        mem_limit="256m",
        log_config=LogConfig(type="json-file", config={"max-size": "64k", "max-file": "2"}),
        healthcheck={"test": ["CMD", "test", "-e", "/ready"], "interval": 10**9, "retries": 1},
    )

    def health() -> str:
        box.reload()
        return str(box.attrs["State"]["Health"]["Status"])

    with ThreadPoolExecutor(2) as pool:
        try:
            ended = pool.submit(_waited, cove, box.id, "next-exit")
            removed = pool.submit(_waited, cove, box.id, "removed")
            wait_until(lambda: health() == "unhealthy", "that it is not ready")
            assert box.exec_run(["touch", "/ready"]).exit_code == 0
            wait_until(lambda: health() == "healthy", "that it is ready")
            wait_until(lambda: box.logs(tail=1) == b"60000\n", "its last word")
            kept = [int(line) for line in box.logs().splitlines()]
            assert kept == list(range(kept[0], 60001)) and kept[0] > 2
            assert not ended.done() and not removed.done()
            box.kill()
            assert ended.result(120) == 137
        finally:
            box.remove(force=True)
        assert removed.result(120) == 137


def _waited(cove: Cove, name: str, condition: str) -> int:
    own = docker.APIClient(base_url=docker_host(cove), timeout=600)
    try:
        return int(own.wait(name, condition=condition)["StatusCode"])
    finally:
        own.close()


def test_what_ends_beside_a_killed_daemon_is_begun_again_or_removed(cove: Cove) -> None:
    with closing(docker.DockerClient(base_url=docker_host(cove), timeout=300)) as client:
        policy = {"Name": "on-failure", "MaximumRetryCount": 1}
        made = [
            client.containers.run(
                "bb", ["sleep", "100000"], isolation="vm", detach=True, mem_limit="256m", **more
            )
            for more in ({"restart_policy": policy}, {"remove": True})
        ]
        again, gone = (each.id for each in made)
        pids = [client.api.inspect_container(each.id)["State"]["Pid"] for each in made]
    cove.kill_daemon()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    with closing(docker.DockerClient(base_url=docker_host(cove), timeout=300)) as client:

        def left() -> list[str]:
            return [each.id for each in client.containers.list(all=True)]

        def seen() -> tuple[int, str]:
            found = client.api.inspect_container(again)
            return found["RestartCount"], found["State"]["Status"]

        wait_until(lambda: left() == [again], "its removal")
        wait_until(lambda: seen() == (1, "running"), "its second start")
        os.kill(client.api.inspect_container(again)["State"]["Pid"], signal.SIGKILL)
        wait_until(lambda: seen() == (1, "exited"), "that it is not begun a third time")
        assert gone not in left()
        client.containers.get(again).remove()
