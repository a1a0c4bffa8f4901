"""The same command line gets the answer Docker gave, or one whose difference is meant and written
down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import as_docker
from tests.clients.as_docker import Case
from tests.conftest import need_root
from tests.driver import Cove, front_path, new_cove

EVERY = [case for topic in as_docker.TOPICS for case in as_docker.cases(topic)]


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cove]:
    """A cove with the images the answers were recorded with."""
    need_root()
    driver = new_cove()
    try:
        tar = as_docker.root_tar(tmp_path_factory.mktemp("box"))
        as_docker.images(str(front_path()), Path(tar), driver.env)
        yield driver
    finally:
        driver.close()


@pytest.mark.parametrize("case", EVERY, ids=lambda case: f"{case.topic}: {case.name}")
def test_the_answer_is_dockers(boxed: Cove, case: Case) -> None:
    given = as_docker.answer(case, str(front_path()), boxed.env)
    said = given.pop("said")
    assert given == case.cove, f"{case.do}\n--- stderr\n{said}"


def test_each_difference_has_its_reason() -> None:
    keys = as_docker.reasons()
    assert {case.why for case in EVERY if case.why} == set(keys)
    for case in EVERY:
        assert bool(case.why) == (case.cove != case.docker), case.name


def test_names_are_not_used_twice() -> None:
    names = [(case.topic, case.name) for case in EVERY]
    assert len(names) == len(set(names))


def test_the_document_is_fresh() -> None:
    assert as_docker.DOCUMENT.read_text() == as_docker.document(), (
        "docs/docker.md is stale: python -m tests.clients.as_docker docs"
    )
