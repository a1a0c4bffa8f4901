"""What a machine has written is the same question for both kinds."""

from __future__ import annotations

import re

from tests.driver import Cove


def size(cove: Cove, name: str) -> int:
    return int(cove("inspect", "-s", "-f", "{{.SizeRw}}", name).out)


def test_how_much_a_machine_has_written(cove: Cove, isolation: str) -> None:
    script = "head -c 3000000 /dev/urandom >/made"
    cove("create", "--name", "writes", "--isolation", isolation, "bb", "sh", "-c", script)
    assert size(cove, "writes") == 0
    cove("start", "-a", "writes", timeout=120)
    assert size(cove, "writes") >= 2_500_000  # beside what an empty disk has
    listed = cove("ps", "-as", "--filter", "name=writes", "--format", "{{.Size}}").out
    assert re.match(r"[\d.]+MB \(virtual ", listed)
    cove("rm", "writes")
