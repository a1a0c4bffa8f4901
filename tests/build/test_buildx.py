"""What scripts of Docker's users say: ``buildx build``, ``--push`` and ``--metadata-file``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.conftest import Build, images_of
from tests.driver import Cove
from tests.registry.registries import INDEX, MANIFEST, digest, docker_registry
from tests.registry.test_copy import raw
from tests.shared import no_scenario

pytestmark = [
    pytest.mark.usefixtures("tidied"),
    no_scenario("steps of a build are containers"),
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("FROM bb\nRUN echo yes > /made\nCMD cat /made\n")
    return tmp_path


def test_a_line_of_a_script(cove: Cove, context: Path) -> None:
    ids = context / "id"
    cove("buildx", "--builder", "default", "build", "--load", "--provenance=false", "--sbom=false",
         "--attest", "type=provenance,disabled=true", "--builder=default", "--progress=plain",
         "--iidfile", str(ids), "-t", "scripted", str(context))  # fmt: skip
    assert cove("run", "--rm", "scripted").out == "yes\n"
    assert ids.read_text() == cove("image", "inspect", "-f", "{{.Id}}", "scripted").out.strip()
    again = cove("buildx", "b", "-q", str(context)).out
    assert again.strip() == ids.read_text()
    assert "-f, --file" in cove("buildx", "b", "--help").out


def test_push_brings_every_name_there(cove: Cove, context: Path, registry: str) -> None:
    names = [f"{registry}/pushed:1", f"{registry}/also/pushed:2"]
    file = context / "metadata.json"
    said = cove("buildx", "build", "--push", "--metadata-file", str(file), "-t", names[0],
                "-t", names[1], str(context)).err  # fmt: skip
    data = raw(registry, "pushed:1")
    assert raw(registry, "also/pushed:2") == data
    assert f"pushed {names[0]}: {digest(data)}\n" in said
    image = json.loads(data)["config"]["digest"]
    assert json.loads(file.read_text()) == {
        "containerimage.config.digest": image,
        "containerimage.descriptor": {
            "digest": digest(data), "mediaType": MANIFEST, "size": len(data),
        },
        "containerimage.digest": digest(data),
        "image.name": ",".join(names),
    }  # fmt: skip
    assert image in images_of(cove)


@pytest.mark.parametrize(
    "output", ["type=registry", "type=image,push=true", "type=registry,oci-mediatypes=true"]
)
def test_an_output_that_is_a_registry(
    cove: Cove, context: Path, registry: str, output: str
) -> None:
    """The name may be the output's own; with ``-q`` there is nothing but the id."""
    name = f"{registry}/out:1"
    done = cove("build", "-q", "-o", f"{output},name={name}", str(context))
    data = raw(registry, "out:1")
    assert done.out.strip() == json.loads(data)["config"]["digest"] and not done.err
    cove("build", "-q", "-o", f'{output},compression=zstd,"name={name},{registry}/out:2"',
         "--label", "a=b", str(context))  # fmt: skip
    layers = json.loads(raw(registry, "out:2"))["layers"]
    assert raw(registry, "out:1") == raw(registry, "out:2") != data
    assert layers[-1]["mediaType"].endswith("zstd")


def test_nothing_was_pushed(cove: Cove, context: Path) -> None:
    """The digest is the id then, as with Docker's own store; of files there is none."""
    file = context / "metadata.json"
    image = cove("build", "-q", "--metadata-file", str(file), "-t", "here", str(context)).out
    assert json.loads(file.read_text()) == {
        "containerimage.config.digest": image.strip(),
        "containerimage.digest": image.strip(),
        "image.name": "docker.io/library/here:latest",
    }
    cove("build", "--metadata-file", str(file), "-o", str(context / "files"), str(context))
    assert json.loads(file.read_text()) == {}


def test_a_push_that_fails_is_a_build_that_fails(cove: Cove, context: Path) -> None:
    ids = context / "id"
    said = cove("build", "--push", "-t", "127.0.0.1:1/x", "--iidfile", str(ids), str(context),
                code=1).err  # fmt: skip
    assert "cannot push 127.0.0.1:1/x" in said
    assert not ids.exists()


@pytest.mark.parametrize(
    ("flags", "why", "code"),
    [
        (("--push",), "it has no name", 1),
        (("--push", "-t", "x", "-o", "type=tar,dest=x"), "written as files: --output type=tar", 1),
        (("--output=type=image,push-by-digest=true",), 'cannot use "push-by-digest=true"', 125),
        (("--output=type=registry,compression=estargz",), 'compress layers as "estargz"', 125),
        (("--output=type=registry,dest=x",), "an image goes into the store", 125),
        (("-o", "type=docker", "-o", "type=tar"), "cannot write a result twice", 125),
        (("--builder", "ci"), 'cannot use builder "ci": cove has one', 125),
        (("--attest", "type=sbom"), "cannot make attestations", 125),
        (("--annotation", "a=b"), "cannot use --annotation", 125),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_built(
    build: Build, flags: tuple[str, ...], why: str, code: int
) -> None:
    said = build("FROM bb\nRUN echo built\n", *flags, code=code).err
    assert why in said and "RUN" not in said


# ---- the builder ----


def test_the_builder_that_there_is(cove: Cove, context: Path) -> None:
    assert cove("buildx", "version").out == cove("--version").out
    assert cove("buildx", "ls").out.splitlines()[1].startswith("default*")
    assert cove("buildx", "ls", "--format", "{{.Name}} {{.Status}}").out == "default running\n"
    assert "Platforms:     linux/" in cove("buildx", "inspect", "--bootstrap", "default").out
    cove("buildx", "use", "default")
    cove("build", "-t", "kept", str(context))
    head, *rows = cove("buildx", "du").out.splitlines()
    assert head.split() == ["ID", "RECLAIMABLE", "SIZE", "LAST", "ACCESSED"]
    assert [row.split()[1] for row in rows[:-2]] == ["true"]
    assert rows[-2].startswith("Reclaimable:") and rows[-1].startswith("Total:")
    assert "Deleted build cache objects:" in cove("buildx", "prune", "-f").out
    assert cove("buildx", "du", "--format", "{{.ID}}").out == ""


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("create", "--use", "--name", "ci"), "cove has one builder, called default"),
        (("rm", "ci"), "cove has one builder, called default"),
        (("bake", "-f", "x.hcl"), "cove reads no bake files"),
        (("history", "ls"), "no records of builds"),
        (("use", "ci"), 'cannot use builder "ci"'),
        (("inspect", "ci"), 'cannot use builder "ci"'),
        (("--builder", "ci", "ls"), 'cannot use builder "ci"'),
    ],
)
def test_others_are_refused_by_name(cove: Cove, words: tuple[str, ...], why: str) -> None:
    said = cove("buildx", *words, code=125).err
    assert why in said and "  hint: " in said


# ---- images in registries ----


def test_images_of_a_registry(cove: Cove, context: Path, registry: str) -> None:
    """Looked at, put together under one name, and copied, as they are."""
    one, two = f"{registry}/tools/one:1", f"{registry}/tools/two:1"
    cove("build", "--push", "-q", "-t", one, str(context))
    cove("build", "--push", "-q", "--label", "a=b", "-t", two, str(context))
    data = raw(registry, "tools/one:1")
    assert cove("buildx", "imagetools", "inspect", "--raw", one).out.encode() == data
    shown = cove("buildx", "imagetools", "inspect", one).out
    assert f"Name:      {one}\nMediaType: {MANIFEST}\nDigest:    {digest(data)}\n" == shown
    both = f"{registry}/tools/both:1"
    said = cove("buildx", "imagetools", "create", "-t", both, one, two).err
    index = raw(registry, "tools/both:1")
    assert f"pushed {both}: {digest(index)}\n" in said
    document = json.loads(index)
    assert [entry["digest"] for entry in document["manifests"]] == [
        digest(raw(registry, f"tools/{name}:1")) for name in ("one", "two")
    ]
    form = "{{.Manifest.Digest}} {{len .Manifest.Manifests}} {{json .Manifest}}"
    first, count, whole = cove("buildx", "imagetools", "inspect", "--format", form, both).out.split(
        " ", 2
    )
    assert (first, count) == (digest(index), "2")
    assert json.loads(whole) == {**document, "digest": digest(index), "size": len(index)}
    shown = cove("buildx", "imagetools", "inspect", both).out
    assert INDEX in shown and f"  Name:      {registry}/tools/both@{digest(data)}\n" in shown
    assert "  Platform:  linux/" in shown
    cove("buildx", "imagetools", "create", "-t", f"{registry}/tools/copy:1", both)
    assert raw(registry, "tools/copy:1") == index
    third = f"{registry}/tools/third:1"
    cove("build", "--push", "-q", "--label", "c=d", "-t", third, str(context))
    cove("buildx", "imagetools", "create", "--append", "-t", both, third)
    entries = json.loads(raw(registry, "tools/both:1"))["manifests"]
    assert len(entries) == 3 and entries[:2] == document["manifests"]
    said = cove("buildx", "imagetools", "create", "--dry-run", "-t", both, one, code=125).err
    assert "cannot use --dry-run" in said
    assert "no name" in cove("buildx", "imagetools", "create", one, code=125).err
