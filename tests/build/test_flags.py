"""Flags of ``build`` that people have in their scripts, and that ask for what is so anyway."""

from __future__ import annotations

import pytest

from tests.build.conftest import Build

pytestmark = pytest.mark.usefixtures("tidied")


def test_what_is_so_anyway(build: Build) -> None:
    flags = ("--provenance=false", "--sbom", "false", "--force-rm", "--compress", "--rm=true")
    assert build("FROM bb\nLABEL a=b\n", *flags, "-t", "anyway").returncode == 0


def test_call_is_check(build: Build) -> None:
    text = "FROM bb\nMAINTAINER me\nRUN false\n"
    assert "MaintainerDeprecated" in build(text, "--call", "check", code=1).out
    build(text.replace("false", "true"), "--call=build")


@pytest.mark.parametrize(
    ("flag", "why"),
    [
        ("--provenance=mode=max", "cannot make attestations"),
        ("--sbom=true", "cannot make attestations"),
        ("--call=outline", 'cannot do "outline"'),
    ],
)
def test_what_is_refused_by_name(build: Build, flag: str, why: str) -> None:
    assert why in build("FROM bb\n", flag, code=125).err


def test_a_check_knows_what_it_cannot_know(build: Build) -> None:
    """Of an image that is not here nothing is fetched, and its variables are nobody's mistake."""
    text = "FROM not.here/at/all:1\nVOLUME $DATA\nUSER $WHO\nMAINTAINER me\n"
    checked = build(text, "--check", code=1)
    assert "MaintainerDeprecated" in checked.out and "UndefinedVar" not in checked.out
    assert "not.here/at/all:1 is not here: its ONBUILD and variables are not known" in checked.err
    assert "UndefinedVar" in build("FROM bb\nUSER $WHO\n", "--check", code=1).out
