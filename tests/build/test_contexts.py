"""``build --build-context``: names that mean directories, images and OCI layouts."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from cove.build.contexts import kind_of, layout_of, parse_context
from cove.errors import UsageError
from tests.build.conftest import Build
from tests.build.test_builds import id_of, says
from tests.driver import Cove


@pytest.fixture(autouse=True)
def _tidied(request: pytest.FixtureRequest) -> None:
    if "cove" in request.fixturenames:
        request.getfixturevalue("tidied")


# ---- words ----


@pytest.mark.parametrize(
    ("text", "name", "kind", "value"),
    [
        ("src=../src", "src", "folder", "../src"),
        ("docker.io/library/alpine:latest=d", "alpine", "folder", "d"),
        ("alpine:3.20=docker-image://bb", "alpine:3.20", "image", "bb"),
        ("a=oci-layout://dir:v1", "a", "layout", "dir:v1"),
        ("a=https://e.org/x.tar.gz", "a", "web", "https://e.org/x.tar.gz"),
        ("a=https://e.org/x.git#main:sub", "a", "git", "https://e.org/x.git#main:sub"),
        ("a=git@e.org:x", "a", "git", "git@e.org:x"),
    ],
)
def test_words_of_a_context(text: str, name: str, kind: str, value: str) -> None:
    found = parse_context(text)
    assert (found.name, found.kind, found.value) == (name, kind, value)
    assert kind_of(value) in (kind, "folder")


def test_which_image_of_a_layout() -> None:
    digest = "sha256:" + "a" * 64
    assert layout_of("d") == ("d", "") and layout_of("/a/d:v1") == ("/a/d", "v1")
    assert layout_of(f"d@{digest}") == ("d", digest)


@pytest.mark.parametrize("text", ["src", "=d", "src=", "Not A Name=d"])
def test_what_is_no_context(text: str) -> None:
    with pytest.raises(UsageError):
        parse_context(text)


# ---- builds ----


def test_a_directory_with_a_name(build: Build, cove: Cove, tmp_path: Path) -> None:
    """It is copied from, mounted, and begun with; of it only what is asked for is read."""
    other = tmp_path / "other"
    (other / "sub").mkdir(parents=True)
    (other / "sub/f").write_text("F\n")
    (other / "kept").write_text("K\n")
    (other / "left").write_text("L\n")
    (other / ".dockerignore").write_text("left\n")
    (other / "link").symlink_to("/etc/passwd")
    text = """\
FROM other AS whole
FROM bb
COPY --from=other sub /got/
COPY --from=other --parents sub/f /parents/
RUN --mount=type=bind,from=other,source=sub,target=/m cat /m/f >/mounted
COPY --from=whole / /whole/
"""
    flag = f"--build-context=other={other}"
    first = id_of(build(text, flag, "-t", "named"))
    script = "cat /got/f /parents/sub/f /mounted; ls -A /whole; readlink /whole/link"
    assert (
        says(cove, "named", script) == "F\n" * 3 + ".dockerignore\nkept\nlink\nsub\n/etc/passwd\n"
    )
    again = build(text, flag, "-t", "named")
    assert id_of(again) == first and again.err.count("CACHED") == 4
    (other / "sub/f").write_text("G\n")
    assert "CACHED" not in build(text, flag, "-t", "named").err.partition("COPY --from=whole")[0]
    assert says(cove, "named", "cat /mounted") == "G\n"
    failed = build("FROM bb\nCOPY --from=other nope /\n", flag, code=1)
    assert '"/nope" is not in the context other' in failed.err and "Dockerfile:2" in failed.err


def test_an_image_in_place_of_another(build: Build, cove: Cove) -> None:
    """Names of images are compared whole, and a stage of the name gives way."""
    build("FROM bb\nRUN echo one >/which\n", "-t", "swap")
    text = "FROM docker.io/library/none:latest AS s\nFROM bb\nCOPY --from=s /which /which\n"
    build(text, "--build-context", "none=docker-image://swap", "-t", "swapped")
    assert says(cove, "swapped", "cat /which") == "one\n"
    stage = "FROM bb AS s\nRUN exit 3\nFROM s\nRUN cat /which >/was\n"
    build(stage, "--build-context", "s=docker-image://swap", "-t", "swapped")
    assert says(cove, "swapped", "cat /was") == "one\n"


def test_an_oci_layout(build: Build, cove: Cove, tmp_path: Path) -> None:
    build("FROM bb\nENV A=1\nRUN echo two >/which\n", "-t", "laid")
    cove("save", "--format", "oci-dir", "-o", str(tmp_path / "oci"), "laid")
    cove("rmi", "laid")
    before = cove("images", "-q").out
    text = "FROM layout\nRUN echo $A >>/which\n"
    build(text, "--build-context", f"layout=oci-layout://{tmp_path}/oci", "-t", "above")
    assert says(cove, "above", "cat /which") == "two\n1\n"
    assert "laid" not in cove("images").out and before is not None
    flag = f"layout=oci-layout://{tmp_path}/none"
    failed = build(text, "--build-context", flag, code=1)
    assert "no such file" in failed.err and "--build-context layout=" in failed.err


def test_beside_an_archive_on_standard_input(build: Build, cove: Cove, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o/f").write_bytes(b"f" * (3 << 20))
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, text in (
            ("Dockerfile", b"FROM bb\nCOPY --from=o f /f\nCOPY g /g\n"),
            ("g", b"g" * (2 << 20)),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    flags = ("--build-context", f"o={tmp_path}/o", "-t", "both", "-")
    cove("build", *flags, stdin=data.getvalue())
    assert says(cove, "both", "stat -c %s /f /g") == f"{3 << 20}\n{2 << 20}\n"
    alone = b"FROM bb\nCOPY --from=o f /f\n"
    cove("build", *flags, stdin=alone)
    assert says(cove, "both", "stat -c %s /f") == f"{3 << 20}\n"


def test_contexts_that_are_not_there(build: Build, tmp_path: Path) -> None:
    failed = build("FROM bb\n", "--build-context", f"o={tmp_path}/none", code=1)
    assert "no such directory" in failed.err and "--build-context o=" in failed.err
    failed = build("FROM bb\n", "--build-context", "o", code=125)
    assert "it is NAME=PATH" in failed.err
