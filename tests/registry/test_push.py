"""``cove push``: what arrives is what skopeo and Docker read, nothing is sent twice, and a registry
that cuts, forgets or lies is survived or named.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cove.errors import CoveError
from cove.image.importing import import_rootfs
from cove.image.layers import Step
from cove.image.pushing import Pushed, push
from cove.oci import uploading
from cove.oci.endpoint import endpoint_of
from cove.oci.reference import parse_reference
from cove.oci.registry import open_registry
from cove.oci.web import Patience, Web
from cove.store.db import Store
from tests.conftest import need
from tests.driver import Cove, kill_process, wait_until
from tests.images.tars import Tar, memory_file
from tests.registry.depots import Depot, Fault, hang_up, say, take_part
from tests.registry.registries import PASSWORD, USER, digest, mortal_registry
from tests.registry.test_verbs import fresh

__all__ = ["fresh"]

NOISE = random.Random(7).randbytes(10_000_000)
"""Longer than a chunk."""
SOON = Patience(connect=60, read=60, pause=0.001, longest=0.01)


@pytest.fixture
def depot() -> Iterator[Depot]:
    server = Depot()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "DOCKER_CONFIG": ""}


def add(store: Store, name: str, data: bytes = NOISE) -> None:
    with memory_file(Tar().file("noise", data).data()) as fd:
        import_rootfs(store, fd, name)


def send(store: Store, depot: Depot, steps: list[str] | None = None) -> Pushed:
    def told(step: Step) -> None:
        if steps is not None:
            steps.append(step.stage)

    add(store, f"{depot.host}/x:1")
    return push(store, f"{depot.host}/x:1", patience=SOON, progress=told)


def image(cove: Cove, name: str, text: str = "x") -> None:
    cove("image", "import", "-q", "-c", "CMD sh", "-", name,
         stdin=Tar().file("some", text.encode() * 5000).data())  # fmt: skip


def inspected(host: str, name: str) -> bytes:
    need("skopeo")
    return subprocess.check_output(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{host}/{name}"],
        timeout=120,
    )


# ---- Debian's registry ----


def test_there_and_back(fresh: Cove, plain: str, env: dict[str, str], tmp_path: Path) -> None:
    image(fresh, f"{plain}/there:1")
    first = fresh("push", f"{plain}/there:1", env=env)
    raw = inspected(plain, "there:1")
    found = "sha256:" + hashlib.sha256(raw).hexdigest()
    assert first.out == (
        f"The push refers to repository [{plain}/there]\n1: digest: {found} size: {len(raw)}\n"
    )
    assert "pushed" in first.err
    image(fresh, f"{plain}/there")
    untagged = fresh("push", f"{plain}/there", env=env)
    assert untagged.out.startswith(
        f"Using default tag: latest\nThe push refers to repository [{plain}/there]\nlatest: "
    )
    again = fresh("push", f"{plain}/there:1", env=env)
    assert again.out == first.out
    assert "layer already exists" in again.err
    assert "compressing" not in again.err
    assert fresh("push", "-q", f"{plain}/there:1", env=env).out == f"{plain}/there:1\n"
    form = "{{.Id}} {{json .RepoDigests}}"
    ours = fresh("image", "inspect", "-f", form, f"{plain}/there:1").out
    assert found in ours
    fresh("rmi", f"{plain}/there:1")
    fresh("pull", "-q", f"{plain}/there:1", env=env)
    assert fresh("image", "inspect", "-f", form, f"{plain}/there:1").out == ours
    for name in ("elsewhere:1", "elsewhere:2"):  # from a repository of the same registry
        fresh("tag", f"{plain}/there:1", f"{plain}/{name}")
    mounted = fresh("push", "--all-tags", f"{plain}/elsewhere", env=env)
    assert mounted.out.count(found) == 2
    assert "mounted from there" in mounted.err
    assert "compressing" not in mounted.err
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false",
         f"docker://{plain}/elsewhere:2", f"dir:{tmp_path}/dir"], check=True, timeout=120,
    )  # fmt: skip
    config = json.loads(raw)["config"]["digest"]
    assert ours.startswith(config)


def test_what_was_pushed_is_mounted_into_another_repository(
    fresh: Cove, plain: str, env: dict[str, str]
) -> None:
    """Of an image that was made here, too, and never pulled."""
    image(fresh, f"{plain}/made:1")
    first = fresh("push", f"{plain}/made:1", env=env)
    fresh("tag", f"{plain}/made:1", f"{plain}/again:1")
    again = fresh("push", f"{plain}/again:1", env=env)
    assert "mounted from made" in again.err
    assert "compressing" not in again.err and "pushing " not in again.err.partition("\n")[2]
    assert again.out.splitlines()[1] == first.out.splitlines()[1]
    assert inspected(plain, "again:1") == inspected(plain, "made:1")


def test_who_is_not_there_is_asked_before_anything_is_compressed(store: Store, nobody: str) -> None:
    add(store, f"{nobody}/x:1")
    steps: list[Step] = []
    with pytest.raises(CoveError, match="cannot be reached"):
        push(store, f"{nobody}/x:1", patience=SOON, progress=steps.append)
    assert steps and not [step for step in steps if step.stage == "compressing"]


def test_zstd(fresh: Cove, plain: str, env: dict[str, str]) -> None:
    image(fresh, f"{plain}/zstd:1")
    fresh("push", "--compression", "zstd", f"{plain}/zstd:1", env=env)
    (layer,) = json.loads(inspected(plain, "zstd:1"))["layers"]
    assert layer["mediaType"].endswith("tar+zstd")
    fresh("rmi", f"{plain}/zstd:1")
    fresh("pull", "-q", f"{plain}/zstd:1", env=env)
    said = fresh("push", "--compression", "lzma", f"{plain}/zstd:1", env=env, code=125).err
    assert 'no such compression: "lzma"' in said


@pytest.mark.parametrize("setup", ["basic", "guarded"])
def test_with_a_login(
    fresh: Cove, env: dict[str, str], setup: str, request: pytest.FixtureRequest
) -> None:
    host = request.getfixturevalue(setup)
    image(fresh, f"{host}/a:1")
    said = fresh("push", f"{host}/a:1", env=env, code=1).err
    assert f"cannot push {host}/a:1: access denied" in said
    assert f"cove login {host}" in said
    fresh("login", "-u", USER, "--password-stdin", host, stdin=PASSWORD, env=env)
    fresh("push", f"{host}/a:1", env=env)
    fresh("rmi", f"{host}/a:1")
    fresh("pull", f"{host}/a:1", env=env)
    fresh("tag", f"{host}/a:1", f"{host}/b:1")
    assert "mounted from a" in fresh("push", f"{host}/b:1", env=env).err


def test_what_cannot_be_pushed(fresh: Cove, plain: str, env: dict[str, str]) -> None:
    def refused(*words: str, code: int = 1) -> str:
        return fresh("push", *words, env=env, code=code).err

    assert f"cannot push {plain}/no:1: no image here has that name" in refused(f"{plain}/no:1")
    assert "no image here has that name" in refused("-a", f"{plain}/no")
    assert "no image here has that name" in refused("host")
    said = refused(f"{plain}/no@sha256:{'0' * 64}", code=125)
    assert "a digest is no place to push to" in said
    image(fresh, f"{plain}/own:1")
    said = refused("--platform", "linux/s390x", f"{plain}/own:1")
    assert "not for linux/s390x" in said
    image(fresh, "127.0.0.1:1/x:1")
    assert "cannot be reached" in refused("127.0.0.1:1/x:1")


# ---- one that cuts, forgets and lies ----


def test_all_of_it_arrives(store: Store, depot: Depot) -> None:
    done = send(store, depot)
    kind, data = depot.manifests["/v2/x/manifests/1"]
    assert "sha256:" + hashlib.sha256(data).hexdigest() == done.digest
    assert kind == json.loads(data)["mediaType"]
    layer = json.loads(data)["layers"][0]
    assert len(depot.blobs[layer["digest"]]) == layer["size"] > 8 << 20
    assert len(depot.sent("PATCH")) == 2  # the layer in one, and the config
    assert os.listdir(store.layout.tmp) == []
    before = len(depot.requests)
    assert push(store, f"{depot.host}/x:1", patience=SOON) == done
    assert {method for method, _, _ in depot.requests[before:]} == {"GET", "HEAD", "PUT"}


CUTS = [
    ("HEAD", "/blobs/sha256"), ("POST", "uploads"), ("PATCH", "uploads"), ("PUT", "uploads"),
    ("PUT", "manifests"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "part"), CUTS)
@pytest.mark.parametrize(
    "fault", [hang_up, say(503), say(429, Retry_After="0")], ids=["cut", "503", "429"]
)
def test_once_is_not_the_end(
    store: Store, depot: Depot, method: str, part: str, fault: Fault
) -> None:
    depot.fault(method, part, fault, fault)
    done = send(store, depot)
    assert done.digest in str(depot.manifests)
    assert len(depot.blobs) == 2
    assert os.listdir(store.layout.tmp) == []


@pytest.mark.parametrize(("method", "part"), CUTS)
def test_always_is(store: Store, depot: Depot, method: str, part: str) -> None:
    depot.fault(method, part, *[hang_up] * 60)
    with pytest.raises(CoveError, match=f"cannot push {depot.host}/x:1: .*the connection was cut"):
        send(store, depot)
    assert depot.manifests == {}
    assert os.listdir(store.layout.tmp) == []


def begins(depot: Depot) -> list[int]:
    """Where each part of an upload began."""
    return [int(h["content-range"].partition("-")[0]) for h in depot.sent("PATCH")]


def test_one_that_is_cut_goes_on_in_chunks_where_it_was_cut(store: Store, depot: Depot) -> None:
    """Also where the registry kept nothing of a request: no more than a chunk is lost then."""
    depot.fault("PATCH", "uploads", take_part(1000), lambda *_: False, hang_up)
    done = send(store, depot)
    chunk = 8 << 20
    assert begins(depot)[:4] == [0, 1000, 1000 + chunk, 1000 + chunk]
    assert len(depot.sent("POST")) == 2
    assert done.digest in str(depot.manifests)


def test_an_upload_that_is_forgotten_begins_anew(store: Store, depot: Depot) -> None:
    depot.fault("PATCH", "uploads", take_part(1000), say(404))
    send(store, depot)
    assert begins(depot)[:3] == [0, 1000, 0]


def test_a_blob_that_is_larger_than_a_request(
    store: Store, depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "WHOLE", 5 << 20)
    done = send(store, depot)
    assert begins(depot)[:2] == [0, 5 << 20]
    assert done.digest in str(depot.manifests)


def test_a_file_that_ends_too_soon_is_no_endless_upload(depot: Depot) -> None:
    reference = parse_reference(f"{depot.host}/x:1")
    endpoint = endpoint_of(reference)
    with (
        open_registry(reference, endpoint, Web(endpoint, SOON), kind=uploading.Upload) as opened,
        pytest.raises(CoveError, match="it ends at byte 5 here"),
    ):
        assert isinstance(opened, uploading.Upload)
        opened.send_blob(digest(b"x" * 9), 9, lambda at, size: b"x" * (5 - at), lambda at: None)


@pytest.mark.parametrize("at", [0, 8 << 20], ids=["first", "second"])
@pytest.mark.parametrize("away", [False, True], ids=["quick", "away"])
def test_a_registry_that_is_restarted(store: Store, tmp_path: Path, at: int, away: bool) -> None:
    """Before a chunk: what it knew of the upload is no longer good, as it signs with another
    secret. One that is away is waited for.
    """
    with mortal_registry(tmp_path / "registry") as registry:
        ended: list[Step] = []
        waits: list[Step] = []

        def told(step: Step) -> None:
            if not ended and step.stage == "pushing" and step.current == at:
                ended.append(step)
                registry.end()
                if not away:
                    registry.again()
            elif ended and not waits and registry.child.poll() is not None:
                waits.append(step)
                registry.again()

        add(store, f"{registry.host}/x:1")
        done = push(store, f"{registry.host}/x:1", patience=SOON, progress=told)
        assert ended and bool(waits) == away
        found = inspected(registry.host, "x:1")
        assert "sha256:" + hashlib.sha256(found).hexdigest() == done.digest


def test_a_slow_way_takes_as_long_as_it_takes(store: Store, depot: Depot) -> None:
    """What a chunk may take in all is not what may pass between two of its parts."""
    pace = threading.Event()

    def slow(depot: Depot, request: BaseHTTPRequestHandler) -> bool:
        size = left = int(request.headers["Content-Length"])
        name = urlsplit(request.path).path.rpartition("/")[2]
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        while left:
            pace.wait(0.1 if left > size - (2 << 20) else 0)
            data = request.rfile.read(min(left, 64 << 10))
            depot.uploads[name] += data
            left -= len(data)
        depot.tell(request, 202, name)
        return True

    depot.fault("PATCH", "uploads", slow)
    add(store, f"{depot.host}/x:1")
    patience = Patience(connect=2, read=2, attempts=1)
    assert push(store, f"{depot.host}/x:1", patience=patience).digest in str(depot.manifests)


LIES = {
    "a circle": ("POST", say(307, Location="/v2/x/blobs/uploads/"), "more than 5 times"),
    "nothing of it arrives": ("PATCH", say(202, Location="/v2/x/blobs/uploads/u0", Range="0-0"),
                              "it says that it has 0"),
    "more of it than was sent": ("PATCH", say(202, Location="/v2/x/blobs/uploads/u0",
                                              Range="0-99999999"), "it says that it has 100000000"),
    "it is never done": ("PUT", say(202, Location="/v2/x/blobs/uploads/u0"), "answers 202"),
    "another digest": ("PUT", say(201, Docker_Content_Digest="sha256:" + "0" * 64),
                       "it is kept as sha256:0000"),
    "metadata": ("POST", say(202, Location="http://169.254.169.254/latest"), "is not followed"),
    "no web": ("POST", say(202, Location="file:///etc/passwd"), "is not followed"),
    "nowhere": ("POST", say(202), "does not say where to"),
    "too big": ("POST", say(413), "answers 413"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_lies_are_named(store: Store, depot: Depot, name: str) -> None:
    method, fault, said = LIES[name]
    depot.fault(method, "uploads", *[fault] * 60)
    with pytest.raises(CoveError) as caught:
        send(store, depot)
    assert f"cannot push {depot.host}/x:1" in str(caught.value.message)
    assert said in f"{caught.value.message} {caught.value.host}"
    assert depot.manifests == {}


def test_a_manifest_that_became_another(store: Store, depot: Depot) -> None:
    depot.fault("PUT", "manifests", say(201, Docker_Content_Digest="sha256:" + "0" * 64))
    with pytest.raises(CoveError, match="it is kept as sha256:0000"):
        send(store, depot)


def test_another_host_is_told_no_secret(store: Store, depot: Depot) -> None:
    """An upload may go elsewhere; who we are is nothing for there."""
    from cove.oci.auth import Credentials

    other = Depot()
    try:
        other.uploads["u0"] = bytearray()
        where = f"http://{other.host}/v2/x/blobs/uploads/u0"
        depot.fault("HEAD", "blobs", say(401, WWW_Authenticate='Basic realm="x"'))
        depot.fault("POST", "uploads", say(202, Location=where))
        add(store, f"{depot.host}/x:1")
        push(store, f"{depot.host}/x:1", credentials=Credentials("me", "secret"), patience=SOON)
        assert len(other.sent("PATCH")) == 1
        assert not any("authorization" in headers for _, _, headers in other.requests)
        assert all("authorization" in headers for headers in depot.sent("PUT", "manifests"))
    finally:
        other.close()


def test_a_daemon_that_is_killed_leaves_nothing(
    fresh: Cove, depot: Depot, env: dict[str, str]
) -> None:
    asked, go = threading.Event(), threading.Event()

    def stall(depot: Depot, request: object) -> bool:
        asked.set()
        go.wait(180)
        return False

    image(fresh, f"{depot.host}/x:1")
    depot.fault("PATCH", "uploads", stall)
    child = fresh.spawn("push", f"{depot.host}/x:1")
    try:
        assert asked.wait(180)
        kill_process(fresh.daemon_pid())
        child.communicate(timeout=180)
        assert child.returncode != 0
    finally:
        go.set()
    assert depot.manifests == {}
    fresh("push", f"{depot.host}/x:1", env=env)
    assert len(depot.manifests) == 2
    wait_until(lambda: os.listdir(fresh.root / "tmp") == [], "what was half made is gone")
    assert fresh("system", "check").out.startswith("nothing was found")


def test_ctrl_c(fresh: Cove, depot: Depot) -> None:
    asked, go = threading.Event(), threading.Event()

    def stall(depot: Depot, request: object) -> bool:
        asked.set()
        go.wait(180)
        return False

    image(fresh, f"{depot.host}/x:1")
    depot.fault("PUT", "uploads", stall)
    child = fresh.spawn("push", f"{depot.host}/x:1")
    try:
        assert asked.wait(180)
        child.send_signal(2)
        child.communicate(timeout=180)
        assert child.returncode in (130, -2)
        assert depot.manifests == {}
    finally:
        go.set()
