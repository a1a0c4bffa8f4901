"""One thread at a time makes a disk, and nothing is kept of it."""

from __future__ import annotations

import threading

from cove.engine.images.disks import Disks
from tests.driver import wait_until


def test_locks_go_with_the_last_that_wants_them() -> None:
    disks, inside, told = Disks(), threading.Event(), []

    def second() -> None:
        with disks._one("a"):
            told.append(inside.is_set())

    with disks._one("a"), disks._one("b"):
        thread = threading.Thread(target=second)
        thread.start()
        wait_until(lambda: disks._making["a"][1] == 2, "another who wants it")
        assert not told
        inside.set()
    thread.join(120)
    assert told == [True]
    assert disks._making == {}
