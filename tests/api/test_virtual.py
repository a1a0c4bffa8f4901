"""A virtual machine from its start to its end by docker-py alone."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import docker
import pytest

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
