"""Images that a Dockerfile names and that cannot be had."""

from __future__ import annotations

import pytest

from tests.build.conftest import Build
from tests.shared import no_scenario

pytestmark = [
    pytest.mark.usefixtures("tidied"),
    no_scenario("no step runs"),
]

MISSING = "127.0.0.1:1/base:1"
"""Nobody listens there."""


@pytest.mark.parametrize("line", [f"FROM {MISSING}", f"COPY --from={MISSING} /a /a"])
def test_the_line_that_names_them_is_told(build: Build, line: str) -> None:
    said = build(f"FROM bb AS one\n{line}\n", code=1).err
    assert f"cannot pull {MISSING}: " in said
    assert f"\n  from: Dockerfile:2  {line}\n" in said
