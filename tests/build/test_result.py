"""The config of a built image, without building one."""

from __future__ import annotations

from typing import Any

from cove.build.graph.data import SCRATCH, Origin, StagePlan
from cove.build.result import COMMENT, Past, image_config
from cove.oci.config import ImageConfig
from cove.oci.manifest import Platform

LINUX = Platform("amd64", "linux")
STAGE = StagePlan(
    0, "", Origin(SCRATCH), LINUX, (), ImageConfig(cmd=("x",), architecture="amd64", os="linux")
)


def config(base: dict[str, Any], *pasts: Past) -> dict[str, Any]:
    return image_config(STAGE, base, pasts, ["sha256:a"])


def times(found: dict[str, Any]) -> list[str | None]:
    return [entry.get("created") for entry in found["history"]]


def test_what_has_no_layer_has_the_time_of_the_layer_before() -> None:
    one, two = Past("RUN 1", "2", layer=True), Past("RUN 2", "3", layer=True)
    found = config({}, Past("ENV A"), one, Past("ENV B"), two, Past("CMD x"))
    assert times(found) == ["2", "2", "2", "3", "3"] and found["created"] == "3"
    assert [entry.get("empty_layer", False) for entry in found["history"]] == [
        True, False, True, False, True,
    ]  # fmt: skip
    assert {entry["comment"] for entry in found["history"]} == {COMMENT}


def test_what_stands_in_front_of_the_first_layer_has_its_time_not_the_base_images() -> None:
    base = {"history": [{"created": "1", "created_by": "base"}], "os.version": "7"}
    found = config(base, Past("ENV A"), Past("RUN 1", "2", layer=True))
    assert times(found) == ["1", "2", "2"] and found["os.version"] == "7"
    assert times(config(base, Past("ENV A"))) == ["1", "1"]


def test_without_any_time_there_is_none() -> None:
    found = config({}, Past("CMD x"))
    assert times(found) == [None] and "created" not in found
    assert found["config"] == {"Cmd": ["x"]} and found["architecture"] == "amd64"
