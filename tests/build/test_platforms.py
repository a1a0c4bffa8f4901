"""``build --platform`` with several: one name for all, by emulation, here and in registries."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cove.linux.interpreters import find_interpreter
from cove.linux.probe import probe_facts
from cove.oci.digest import digest_of
from cove.planner.cpus import architectures
from tests.build.conftest import Build, images_of
from tests.conftest import need
from tests.driver import Cove
from tests.foreign import OTHER, PLATFORM
from tests.registry.registries import INDEX, docker_registry
from tests.registry.test_copy import raw
from tests.shared import no_scenario

HERE = f"linux/{architectures(os.uname().machine)[0]}"
BOTH = f"{HERE},{PLATFORM}"

pytestmark = [
    pytest.mark.usefixtures("tidied"),
    pytest.mark.skipif(not probe_facts("/").binfmt, reason="needs Linux 6.7 with binfmt_misc"),
    pytest.mark.skipif(not find_interpreter(OTHER), reason="needs qemu-user-static"),
    no_scenario("steps of a build are containers"),
]

DOCKERFILE = f"""
FROM --platform=$BUILDPLATFORM scratch AS tool
COPY {HERE[6:]} /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox uname -m > /built-on"]
FROM scratch
ARG TARGETARCH TARGETPLATFORM BUILDPLATFORM
COPY $TARGETARCH /bin/busybox
COPY --from=tool /built-on /built-on
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox uname -m > /made-on"]
RUN --mount=from=tool,target=/t ["/bin/busybox", "sh", "-c", "echo $TARGETPLATFORM > /for"]
CMD ["/bin/busybox", "cat", "/made-on", "/built-on", "/for"]
"""


@pytest.fixture
def programs(tmp_path: Path, other_busybox: Path) -> None:
    """The context: busybox for both."""
    shutil.copy(shutil.which("busybox") or "/bin/busybox", tmp_path / HERE[6:])
    shutil.copy(other_busybox, tmp_path / PLATFORM[6:])


@pytest.fixture
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


def says(cove: Cove, image: str, *flags: str) -> list[str]:
    return cove("run", "--rm", "--pull", "never", *flags, image).out.split()


def check_both(cove: Cove, image: str) -> None:
    here, other = os.uname().machine, OTHER
    assert says(cove, image) == says(cove, image, "--platform", HERE) == [here, here, HERE]
    assert says(cove, image, "--platform", PLATFORM) == [other, here, PLATFORM]


def skopeo(*words: str) -> None:
    need("skopeo")
    flags = ("--src-tls-verify=false", "--dest-tls-verify=false")
    done = subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", *flags, *words],
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def listed(data: bytes) -> list[tuple[str, str]]:
    """Platforms and digests of an index."""
    document: dict[str, Any] = json.loads(data)
    assert document["mediaType"] == INDEX
    return [
        (f"{one['platform']['os']}/{one['platform']['architecture']}", one["digest"])
        for one in document["manifests"]
    ]


@pytest.mark.usefixtures("programs")
def test_one_name_for_two_platforms(
    cove: Cove, build: Build, registry: str, tmp_path: Path
) -> None:
    ids = tmp_path / "ids"
    first = f"{registry}/first:1"
    said = build(DOCKERFILE, "--platform", BOTH, "-t", first, "--iidfile", str(ids)).err
    assert said.count(" tool 3/3] RUN") == said.count(f"[{HERE} tool 3/3] RUN") == 1, said
    assert f"[{PLATFORM} stage-1 4/5] RUN" in said and f"naming to {first}" in said
    here, other = ids.read_text().split()
    assert cove("images", "-q", "--no-trunc", first).out.split() in ([here, other], [other, here])
    assert cove("image", "inspect", "-f", "{{.Id}}", first).out.strip() == here
    shown = cove("image", "inspect", "-f", "{{.Id}}", "--platform", PLATFORM, first).out
    assert shown.strip() == other
    steps = cove("history", "-q", "--no-trunc", "--platform", PLATFORM, first).out.split()
    assert steps[0] == other
    check_both(cove, first)

    # Again, nothing is done; for one of them alone neither, and the name means that alone.
    again = build(DOCKERFILE, "--platform", BOTH, "-q", "-t", first)
    assert again.out.split() == [here, other]
    said = build(DOCKERFILE, "--platform", PLATFORM, "-t", "alone").err
    assert said.count("CACHED") == 6, said
    assert cove("image", "inspect", "-f", "{{.Id}}", "alone").out.strip() == other

    # Into a registry, and from there, byte by byte.
    pushed = cove("push", first).out.split("digest: ")[1].split()[0]
    index = raw(registry, "first:1")
    assert digest_of(index) == pushed
    assert [platform for platform, _ in listed(index)] == [HERE, PLATFORM]
    skopeo("--all", f"docker://{first}", f"oci-archive:{tmp_path}/first.tar:{first}")
    cove("rmi", first, "alone")
    assert here not in images_of(cove) and other not in images_of(cove)
    assert f"Loaded image: {first}" in cove("load", "-i", str(tmp_path / "first.tar")).out
    check_both(cove, first)
    cove("tag", first, f"{registry}/second:1")
    assert pushed in cove("push", f"{registry}/second:1").out
    assert raw(registry, "second:1") == index

    # As archives: others find all of it, and Docker's own document names what fits this host.
    cove("save", "-o", str(tmp_path / "saved.tar"), first)
    skopeo("--all", f"oci-archive:{tmp_path}/saved.tar", f"docker://{registry}/third:1")
    assert {platform for platform, _ in listed(raw(registry, "third:1"))} == {HERE, PLATFORM}
    skopeo(f"docker-archive:{tmp_path}/saved.tar:{first}", f"docker://{registry}/fourth:1")
    assert json.loads(raw(registry, "fourth:1"))["config"]["digest"] == here
    cove("push", "--platform", PLATFORM, f"{registry}/second:1")
    assert json.loads(raw(registry, "second:1"))["config"]["digest"] == other
    said = cove("rmi", other, code=1).err
    assert "it is one of 2 that" in said and "--force" in said
    cove("rmi", first, f"{registry}/second:1")

    # What it stands on is fetched for both, and its name goes on meaning what runs here.
    text = f'FROM {first}\nRUN ["/bin/busybox", "sh", "-c", "/bin/busybox uname -m > /again"]\n'
    build(text, "--platform", BOTH, "-t", "onit")
    cove("run", "--rm", first)
    for platform, machine in ((HERE, os.uname().machine), (PLATFORM, OTHER)):
        words = ("--platform", platform, "onit", "/bin/busybox", "cat", "/again")
        assert cove("run", "--rm", *words).out == f"{machine}\n"
    assert len(cove("images", "-q", first).out.split()) == 2


@pytest.mark.usefixtures("programs")
def test_as_a_file_without_a_name(cove: Cove, build: Build, tmp_path: Path) -> None:
    before = images_of(cove)
    target = tmp_path / "out.tar"
    build("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /b\n", "--platform", BOTH,
          "-o", f"type=oci,dest={target}")  # fmt: skip
    assert images_of(cove) == before
    skopeo("--all", f"oci-archive:{target}", f"oci:{tmp_path}/layout:x")
    (outer,) = json.loads((tmp_path / "layout/index.json").read_text())["manifests"]
    index = (tmp_path / "layout/blobs/sha256" / outer["digest"][7:]).read_bytes()
    assert [platform for platform, _ in listed(index)] == [HERE, PLATFORM]
    build("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /b\n", "--platform", BOTH,
          "-o", f"type=oci,tar=false,dest={tmp_path}/directory")  # fmt: skip
    with tarfile.open(target) as tar:
        whole = {one.name: tar.extractfile(one) for one in tar if one.isfile()}
        for name, file in whole.items():
            assert file is not None
            assert (tmp_path / "directory" / name).read_bytes() == file.read(), name
    skopeo("--all", f"oci:{tmp_path}/directory", f"oci:{tmp_path}/again")


@pytest.mark.usefixtures("programs")
def test_what_fails_for_one_names_nothing(cove: Cove, build: Build) -> None:
    before = images_of(cove)
    text = (
        "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /bin/busybox\n"
        f'RUN ["/bin/busybox", "sh", "-c", "test $TARGETARCH = {HERE[6:]}"]\n'
    )
    said = build(text, "--platform", BOTH, "-t", "both", code=1).err
    assert f"[{PLATFORM} 3/3] RUN" in said and "RUN ended with exit code 1" in said
    assert images_of(cove) == before


@pytest.mark.usefixtures("programs")
def test_what_cannot_be_is_refused_by_name(cove: Cove, build: Build, tmp_path: Path) -> None:
    text = "FROM scratch\nCOPY Dockerfile /\n"
    said = build(text, "--platform", BOTH, code=1).err
    assert "they have no name" in said and "-t NAME" in said
    for output in ("local", "tar", "docker"):
        said = build(text, "--platform", BOTH, "-o", f"type={output},dest={tmp_path}/o", code=1).err
        assert f"cannot write images for several platforms as {output}" in said
    assert not (tmp_path / "o").exists()
    said = build(text, "--platform", f"{HERE},windows/amd64", "-t", "x", code=125).err
    assert "cove knows images for Linux alone" in said
    runs = (
        f"FROM scratch\nARG TARGETARCH\nCOPY {HERE[6:]} /bin/busybox\n"
        'RUN ["/bin/busybox", "true"]\n'
    )
    said = build(runs, "--platform", f"{HERE},linux/mips", "-t", "x", code=125).err
    assert "it is for linux/mips" in said and "what can be emulated" in said
    assert "x:latest" not in cove("images").out
    cove("tag", "bb", "here:alone")
    said = build("FROM here:alone\n", "--platform", BOTH, "-t", "x", code=1).err
    assert "cannot pull here:alone: " in said
    assert f"from: --platform {PLATFORM}\n" in said
    assert f"host: the image here:alone that is here is for {HERE}\n" in said
    # The same twice is one, and then it is an image like any other.
    build(text, "--platform", HERE, "--platform", f"{HERE},{HERE}", "-t", "plain")
    assert len(cove("images", "-q", "plain").out.split()) == 1
