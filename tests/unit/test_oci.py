"""Digests, configs, manifests and the index of a tar, from honest and from broken JSON."""

from __future__ import annotations

import json
import os
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cove.errors import BadArchive, UsageError
from cove.oci.config import ImageConfig, config_from_json, parse_config
from cove.oci.digest import check, digest_of, parse_digest
from cove.oci.manifest import (
    Descriptor,
    Index,
    Manifest,
    Platform,
    choose,
    host_platform_of,
    parse_document,
    parse_platform,
    platforms,
)
from cove.oci.tarindex import Member, find_member, index_tar
from tests.images.tars import Tar, memory_file

SHA = "sha256:" + "a" * 64


def test_digests() -> None:
    assert parse_digest(digest_of(b"x")) == ("sha256", digest_of(b"x")[7:])
    assert parse_digest(digest_of(b"x", algorithm="sha512"))[0] == "sha512"
    check(b"x", digest_of(b"x"), "it")
    with pytest.raises(BadArchive, match="cannot read it: wrong digest: sha256:"):
        check(b"y", digest_of(b"x"), "it")


@pytest.mark.parametrize("text", ["", "sha256", "sha256:", "sha256:../x", "sha1:" + "a" * 40])
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(UsageError, match="cannot use digest"):
        parse_digest(text)


def test_a_config_of_docker_with_nulls_and_unknown_fields() -> None:
    data = {
        "architecture": "arm64",
        "os": "linux",
        "variant": "v8",
        "config": {
            "Cmd": None,
            "Entrypoint": ["/bin/x", "y"],
            "Env": ["A=b"],
            "User": "1:2",
            "WorkingDir": "/w",
            "Volumes": {"/v": {}},
            "Labels": None,
            "ExposedPorts": {"80/tcp": {}},
            "StopSignal": "SIGQUIT",
            "Healthcheck": {"Test": ["NONE"]},
            "ArgsEscaped": True,
        },
        "container_config": {"Cmd": ["/bin/sh"]},
        "history": [{"created_by": "x", "empty_layer": True}],
        "rootfs": {"type": "layers", "diff_ids": [SHA]},
    }
    parsed = parse_config(json.dumps(data).encode())
    assert parsed.config == ImageConfig(
        entrypoint=("/bin/x", "y"),
        env=("A=b",),
        user="1:2",
        workdir="/w",
        volumes=("/v",),
        exposed_ports=("80/tcp",),
        stop_signal="SIGQUIT",
        healthcheck={"Test": ["NONE"]},
        architecture="arm64",
        os="linux",
        variant="v8",
    )
    assert parsed.diff_ids == (SHA,) and parsed.raw == data
    assert config_from_json(parsed.raw) == parsed.config


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot read it"),
        (b"[]", "cannot read it"),
        (b"{}", "has no rootfs"),
        (b'{"rootfs": {"type": "windows"}}', 'type "windows"'),
        (b'{"rootfs": {"diff_ids": ["x"]}}', "cannot use digest"),
        (b'{"rootfs": {}, "config": {"Env": "x"}}', "Expected|expected"),
        (b"[" * 100_000, "cannot read it"),
        (b'{"rootfs": "\xff"}', "cannot read it"),
    ],
)
def test_what_is_no_config(data: bytes, reason: str) -> None:
    with pytest.raises(BadArchive, match=reason):
        parse_config(data, "it")


@given(st.recursive(st.none() | st.text() | st.integers(), st.lists) | st.dictionaries(
    st.sampled_from(["config", "rootfs", "os", "manifests", "layers", "schemaVersion"]),
    st.none() | st.text() | st.integers() | st.dictionaries(st.text(), st.text()),
))  # fmt: skip
def test_any_json_is_read_or_refused(value: object) -> None:
    data = json.dumps(value).encode()
    for read in (parse_config, parse_document):
        try:
            read(data, "it")
        except BadArchive:
            pass


def descriptor(kind: str = "", **fields: object) -> dict[str, object]:
    return {"mediaType": kind, "digest": SHA, "size": 3, **fields}


def test_manifest_and_index_are_told_apart() -> None:
    config = descriptor("application/vnd.docker.container.image.v1+json")
    layer = descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip")
    manifest = {"schemaVersion": 2, "config": config, "layers": [layer]}
    parsed = parse_document(json.dumps(manifest).encode(), "it")
    assert isinstance(parsed, Manifest) and parsed.layers[0].size == 3
    index = {"schemaVersion": 2, "manifests": [descriptor()]}
    assert isinstance(parse_document(json.dumps(index).encode(), "it"), Index)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "schema version 0"),
        ({"schemaVersion": 1, "fsLayers": []}, "schema version 1"),
        ({"schemaVersion": 2}, "neither an image manifest nor an index"),
        ({"schemaVersion": 2, "manifests": [{"digest": "x", "size": 1}]}, "cannot use digest"),
        ({"schemaVersion": 2, "manifests": [{"digest": SHA, "size": -1}]}, "negative size"),
        ({"schemaVersion": 2, "manifests": [{"digest": SHA}]}, "size"),
    ],
)
def test_what_is_no_manifest(document: object, reason: str) -> None:
    with pytest.raises(BadArchive, match=reason):
        parse_document(json.dumps(document).encode(), "it")


def test_choice_of_a_platform() -> None:
    def entry(digit: str, *platform: str) -> Descriptor:
        return Descriptor("sha256:" + digit * 64, 1, platform=Platform(*platform))

    index = Index(
        (entry("1", "arm", "linux", "v6"), entry("2", "arm", "linux", "v7"),
         entry("3", "amd64", "linux"), entry("4", "unknown", "unknown"))
    )  # fmt: skip
    for text, digit in (("linux/arm/v7", "2"), ("amd64", "3"), ("x86_64", "3"), ("armhf", "2")):
        found = choose(index, parse_platform(text))
        assert found is not None and found.digest[7] == digit
    assert choose(index, parse_platform("s390x")) is None
    assert platforms(index) == "linux/amd64, linux/arm/v6, linux/arm/v7"
    assert str(host_platform_of("aarch64")) == "linux/arm64/v8"


# ---- tar index ----


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_where_tarfile_finds_them(format: int) -> None:
    tar = Tar(format).file("./a", b"1" * 600).dir("d").file("d/" + "n" * 90, b"2").file("a", b"3")
    tar.symlink("s", "d/../a").link("h", "a")
    with memory_file(tar.data()) as fd:
        members = index_tar(fd, "it")
        found = find_member(members, "s")
        assert found is not None and os.pread(fd, found.size, found.offset) == b"3"
        assert find_member(members, "h") == find_member(members, "/./a") == found
        assert set(members) == {"a", "d/" + "n" * 90, "s", "h"}


def test_links_that_lead_nowhere() -> None:
    members = {"a": Member(0, 0, "b"), "b": Member(0, 0, "a"), "c": Member(0, 0, "../../etc/x")}
    assert find_member(members, "a") is None and find_member(members, "c") is None


@given(st.binary(max_size=2000), st.integers(0, 3000))
def test_a_damaged_tar_is_read_or_refused(noise: bytes, at: int) -> None:
    data = bytearray(Tar().file("a" * 120, b"1" * 600).file("b", b"2").data())
    data[at : at + len(noise)] = noise
    with memory_file(bytes(data)) as fd:
        try:
            members = index_tar(fd, "it")
        except BadArchive:
            return
    assert all(m.offset >= 0 and m.offset + m.size <= len(data) for m in members.values())
