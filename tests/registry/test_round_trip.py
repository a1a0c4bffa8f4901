"""From a root file system to a machine by way of a registry: a Debian that cove bootstrapped,
pushed by skopeo to Debian's registry in its three set-ups, pulled and run; the tree is what umoci
unpacks.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need, need_root
from tests.driver import Cove, new_cove
from tests.images.tars import tree
from tests.registry.registries import MANIFEST, PASSWORD, USER, TokenServer, push

CODED = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SETUPS = ("plain", "basic", "tokens")


@pytest.fixture
def setup(request: pytest.FixtureRequest) -> str:
    """HOST:PORT of a registry in this set-up."""
    names = {"plain": "plain", "basic": "basic", "tokens": "guarded"}
    host: str = request.getfixturevalue(names[request.param])
    return host


@pytest.fixture
def other() -> Iterator[Cove]:
    """A cove that has nothing yet."""
    need_root()
    driver = new_cove()
    try:
        yield driver
    finally:
        driver.close()


def oci_layout(tar: Path, target: Path) -> Path:
    """An image of one layer, made without any tool of ours."""
    blobs = target / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"digest": f"sha256:{name}", "size": len(data)}

    plain = tar.read_bytes()
    kind = "application/vnd.oci.image"
    layer = put(gzip.compress(plain, 1)) | {"mediaType": f"{kind}.layer.v1.tar+gzip"}
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[subprocess.getoutput("uname -m")]
    config = {
        "architecture": machine,
        "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(plain).hexdigest()]},
        "history": [{"created_by": "tests", "created": "2026-01-01T00:00:00Z"}],
    }
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": put(json.dumps(config).encode()) | {"mediaType": f"{kind}.config.v1+json"},
        "layers": [layer],
    }
    manifest = put(json.dumps(document).encode()) | {
        "mediaType": MANIFEST,
        "annotations": {"org.opencontainers.image.ref.name": "1"},
    }
    (target / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (target / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    return target


def round_trip(
    layout: Path, host: str, name: str, driver: Cove, tmp_path: Path, command: tuple[str, ...]
) -> str:
    """Pushed, pulled, compared and run: what the command printed."""
    reference = f"{host}/{name}:1"
    push(f"oci:{layout}:1", reference, "--dest-creds", f"{USER}:{PASSWORD}")
    place = tmp_path / "docker"
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"auths": {host: {"auth": CODED}}}))
    said = driver("pull", reference, env={"DOCKER_CONFIG": str(place)}, timeout=300).out
    assert "Status: Downloaded newer image" in said
    umoci = ["umoci", "unpack", "--image", f"{layout}:1", str(tmp_path / "theirs")]
    subprocess.run(umoci, check=True, capture_output=True)
    (layer,) = list((driver.root / "roots").glob("l*"))
    ours, theirs = tree(layer), tree(tmp_path / "theirs/rootfs")
    assert ours.keys() == theirs.keys()
    different = {
        entry: (ours[entry], theirs[entry]) for entry in ours if ours[entry] != theirs[entry]
    }
    assert not different, list(different.items())[:5]
    assert len(ours) > 200
    return driver("run", "--rm", "--pull", "never", reference, *command).out


@pytest.mark.parametrize("setup", SETUPS, indirect=True)
def test_busybox(
    setup: str, other: Cove, bb_tar: Path, tmp_path: Path, tokens: TokenServer
) -> None:
    need("umoci")
    layout = oci_layout(bb_tar, tmp_path / "layout")
    assert round_trip(layout, setup, "trip/bb", other, tmp_path, ("echo", "here")) == "here\n"


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory, cove: Cove) -> Path:
    """The layout of a Debian, out of the layer that bootstrap made of it."""
    need("mmdebstrap")
    need("umoci")
    made = cove(
        "image", "bootstrap", "-q", "debian:bookworm", "-t", "trip:1", timeout=600, code=None
    )
    if "cannot be reached" in made.err or "no package sources" in made.err:
        pytest.skip("needs package sources: those of this machine cannot be reached")
    assert made.returncode == 0, made.err
    place = tmp_path_factory.mktemp("debian")
    form = "{{range .RootFS.Layers}}{{.}}{{end}}"
    (diff_id,) = cove("image", "inspect", "-f", form, "trip:1").out.split()
    assert diff_id.startswith("sha256:")
    layers = sorted((cove.root / "roots").glob("l*"), key=lambda path: int(path.name[1:]))
    tar = place / "root.tar"
    words = ["tar", "-C", str(layers[-1]), "--numeric-owner", "--xattrs", "--xattrs-include=*"]
    subprocess.run([*words, "--format=pax", "-cf", str(tar), "."], check=True)
    cove("rmi", "trip:1")
    return oci_layout(tar, place / "layout")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("setup", SETUPS, indirect=True)
def test_debian(setup: str, other: Cove, debian: Path, tmp_path: Path, tokens: TokenServer) -> None:
    command = (
        "sh",
        "-c",
        "grep ^ID= /etc/os-release; dpkg -l | grep -c ^ii; su --version | head -1",
    )
    said = round_trip(debian, setup, "trip/debian", other, tmp_path, command).splitlines()
    assert said[0] == "ID=debian" and int(said[1]) > 50 and "util-linux" in said[2]
