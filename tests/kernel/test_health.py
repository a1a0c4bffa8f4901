"""Health checks: what they say is seen in ps, inspect and events, over pauses and daemons that are
killed, and a check that hangs is ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.driver import Cove, wait_until

ASK = "cat /well || { echo sick; exit 3; }"
QUICK = ("--health-interval", "50ms", "--health-retries", "2")


def health(cove: Cove, name: str = "asked") -> dict[str, Any]:
    found: dict[str, Any] = cove.inspect(name)["State"]["Health"]
    return found


def wait_for(cove: Cove, status: str, name: str = "asked") -> dict[str, Any]:
    wait_until(lambda: health(cove, name)["Status"] == status, f"{name} to be {status}")
    return health(cove, name)


def shown(cove: Cove, name: str) -> str:
    return cove("ps", "-a", "-f", f"name={name}", "--format", "{{.Status}}").out.strip()


@pytest.fixture
def asked(cove: Cove) -> Iterator[Cove]:
    yield cove
    cove("rm", "-f", "asked", "hangs", code=None)


def test_a_machine_is_asked_how_it_is(asked: Cove) -> None:
    cove = asked
    begun = time.time()
    cove("run", "-d", "--name", "asked", "--health-cmd", ASK, *QUICK, "bb", "sleep", "1000")
    sick = wait_for(cove, "unhealthy")
    assert sick["FailingStreak"] >= 2 and 2 <= len(sick["Log"]) <= 5
    last = sick["Log"][-1]
    assert last["ExitCode"] == 3 and "sick" in last["Output"] and "/well" in last["Output"]
    assert shown(cove, "asked").endswith(" (unhealthy)")
    assert cove("ps", "-q", "-f", "health=unhealthy").out != ""
    cove("exec", "asked", "sh", "-c", "echo good >/w; mv /w /well")
    well = wait_for(cove, "healthy")
    assert well["FailingStreak"] == 0
    assert (well["Log"][-1]["ExitCode"], well["Log"][-1]["Output"]) == (0, "good\n")
    assert shown(cove, "asked").endswith(" (healthy)")
    words = ("--since", f"{begun}", "--until", f"{time.time()}", "-f", "event=health_status")
    told = cove("events", *words, "-f", "container=asked", "--format", "{{.Status}}").out
    assert told == "health_status: unhealthy\nhealth_status: healthy\n"
    # What stands still is not asked.
    cove("pause", "asked")
    assert shown(cove, "asked").endswith(" (Paused)")
    cove("unpause", "asked")
    cove("stop", "-t", "0", "asked")
    assert health(cove)["Status"] in ("healthy", "unhealthy")
    assert "health" not in shown(cove, "asked")
    # A new start begins anew; the answers of before are kept.
    before = cove("start", "asked") and health(cove)["Log"]
    assert before
    wait_for(cove, "healthy")


def test_a_check_that_hangs_is_ended(asked: Cove) -> None:
    cove = asked
    flags = ("--health-timeout", "200ms", "--health-interval", "50ms", "--health-retries", "1")
    cove(
        "run", "-d", "--name", "hangs", "--health-cmd", "exec sleep 4321", *flags, "bb",
        "sleep", "1000",
    )  # fmt: skip
    sick = wait_for(cove, "unhealthy", "hangs")
    assert sick["Log"][-1]["ExitCode"] == -1
    assert sick["Log"][-1]["Output"] == "Health check exceeded timeout (0.2s)"
    # Each of them was ended: they do not heap up.
    wait_until(lambda: len(health(cove, "hangs")["Log"]) == 5, "five answers")
    wait_until(lambda: cove("exec", "hangs", "ps").out.count("sleep 4321") <= 2, "their ends")


def test_failures_after_a_start_do_not_count_for_a_while(asked: Cove) -> None:
    cove = asked
    flags = ("--health-start-period", "1h", "--health-start-interval", "50ms")
    ask = "head -c 10000 /dev/zero | tr '\\0' x; test -e /well"
    cove("run", "-d", "--name", "asked", "--health-cmd", ask, *flags, "bb", "sleep", "1000")
    wait_until(lambda: len(health(cove)["Log"]) == 5, "five answers")
    seen = health(cove)
    assert (seen["Status"], seen["FailingStreak"]) == ("starting", 0)
    assert seen["Log"][0]["Output"] == "x" * 4096 + "..."
    assert shown(cove, "asked").endswith(" (health: starting)")
    cove("exec", "asked", "touch", "/well")
    wait_for(cove, "healthy")


def test_an_image_says_how_it_is_asked(asked: Cove, bb_tar: Path) -> None:
    cove = asked
    check = 'HEALTHCHECK CMD ["test", "-e", "/well"]'
    cove("image", "import", "-q", "--change", check, str(bb_tar), "asking")
    cove("run", "-d", "--name", "asked", *QUICK, "asking", "sleep", "1000")
    told = cove.inspect("asked")["Config"]["Healthcheck"]
    assert told == {"Test": ["CMD", "test", "-e", "/well"], "Interval": 50_000_000, "Retries": 2}
    wait_for(cove, "unhealthy")
    cove("rm", "-f", "asked")
    cove("run", "-d", "--name", "asked", "--no-healthcheck", "asking", "sleep", "1000")
    assert "Health" not in cove.inspect("asked")["State"]
    assert cove.inspect("asked")["Config"]["Healthcheck"] == {"Test": ["NONE"]}
    assert cove("ps", "-q", "-f", "health=none").out != ""
    cove("rm", "-f", "asked")
    # A check that cannot be started is one that failed.
    cove("image", "import", "-q", "--change", 'HEALTHCHECK CMD ["/nope"]', str(bb_tar), "asking")
    cove("run", "-d", "--name", "asked", *QUICK, "asking", "sleep", "1000")
    last = wait_for(cove, "unhealthy")["Log"][-1]
    assert last["ExitCode"] == -1 and "/nope" in last["Output"]
    cove("rm", "-f", "asked")
    cove("image", "rm", "asking")


def test_the_next_daemon_goes_on_asking(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "-d", "--name", "asked", "--health-cmd", ASK, *QUICK, "bb", "sleep", "1000")
    cove("exec", "asked", "touch", "/well")
    wait_for(cove, "healthy")
    cove.kill_daemon()
    assert health(cove)["Status"] == "healthy"
    cove("exec", "asked", "rm", "/well")
    wait_for(cove, "unhealthy")
    cove.stop_daemon()
    assert health(cove)["Status"] == "unhealthy"
    cove("exec", "asked", "touch", "/well")
    wait_for(cove, "healthy")
    cove("rm", "-f", "asked")
