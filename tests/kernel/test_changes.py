"""restart, pause, rename, update and prune of machines that exist, what Docker calls the same."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cove.engine import calls
from cove.engine.engine import Engine
from cove.errors import Conflict
from cove.spec.machine import MachineSpec
from tests.driver import Cove, wait_until
from tests.kernel.conftest import open_engine
from tests.kernel.settled import settled
from tests.kernel.test_life import SERVE, detached, wait_for_output
from tests.shared import container_only, no_scenario

__all__ = ["settled"]
pytestmark = pytest.mark.usefixtures("settled")

HOLD = "x=$(head -c 24000000 /dev/zero | tr '\\0' x); echo held; sleep 1000; echo $x"
"""A shell that holds 24 MB."""


def state(cove: Cove, name: str) -> dict[str, object]:
    found: dict[str, object] = cove.inspect(name)["State"]
    return found


def frozen(cove: Cove, name: str) -> bool:
    """What the kernel says of the machine's first process."""
    for line in Path(f"/proc/{state(cove, name)['Pid']}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for top in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
            events = Path(f"{top}{path}/cgroup.events")
            if not controllers and events.exists() and "frozen 1" in events.read_text():
                return True
        freezer = Path(f"/sys/fs/cgroup/freezer{path}/freezer.state")
        if controllers == "freezer" and freezer.exists() and "FROZEN" in freezer.read_text():
            return True
    return False


def says(cove: Cove, name: str, text: str, times: int) -> None:
    wait_until(lambda: cove("logs", name).out.count(text) == times, f"{times} times {text}")


# ---- pause ----


def test_a_paused_machine_stands_still(cove: Cove) -> None:
    with detached(cove, "still", "sh", "-c", SERVE):
        assert cove("pause", "still").out == "still\n"
        assert frozen(cove, "still")
        listed = cove("ps", "--filter", "name=still", "--format", "{{.State}} {{.Status}}").out
        assert re.fullmatch(r"paused Up .* \(Paused\)\n", listed)
        seen = state(cove, "still")
        assert (seen["Status"], seen["Running"], seen["Paused"]) == ("paused", True, True)
        assert cove("info", "--format", "{{.ContainersPaused}}").out == "1\n"
        cove("unpause", "still")
        assert not frozen(cove, "still")
        assert state(cove, "still")["Status"] == "running"


def test_what_a_paused_machine_refuses(cove: Cove) -> None:
    with detached(cove, "held", "sleep", "1000"):
        cove("pause", "held")
        refused = {
            "exec in": ("exec", "held", "true"),
            "attach to": ("attach", "held"),
            "start": ("start", "held"),
        }
        for verb, words in refused.items():
            done = cove(*words, code=1)
            assert f"cannot {verb} held: it is paused" in done.err
            assert "hint: unpause it first: cove unpause held" in done.err
        assert "cannot remove held: it is paused" in cove("rm", "held", code=1).err
        assert "cannot pause held: it is paused already" in cove("pause", "held", code=1).err
        assert frozen(cove, "held")


def test_only_what_runs_is_paused(cove: Cove) -> None:
    cove("create", "--name", "idle", "bb", "true")
    assert "cannot pause idle: it is not running" in cove("pause", "idle", code=1).err
    assert "cannot unpause idle: it is not running" in cove("unpause", "idle", code=1).err
    cove("rm", "idle")
    with detached(cove, "awake", "sleep", "1000"):
        assert "cannot unpause awake: it is not paused" in cove("unpause", "awake", code=1).err


def test_several_names_and_one_that_is_nobodys(cove: Cove) -> None:
    with detached(cove, "left", "sleep", "1000"), detached(cove, "right", "sleep", "1000"):
        for verb in ("pause", "unpause", "restart"):
            done = cove(verb, *(("-t0",) if verb == "restart" else ()), "left", "nobody", "right",
                        code=1)  # fmt: skip
            assert done.out == "left\nright\n"
            assert 'cannot find machine "nobody"' in done.err
        assert not frozen(cove, "left") and not frozen(cove, "right")


def test_a_paused_machine_hears_its_stop_signal(cove: Cove) -> None:
    with detached(cove, "polite", "sh", "-c", SERVE):
        wait_for_output(cove, "polite", "up")
        cove("pause", "polite")
        cove("stop", "polite")
        assert state(cove, "polite")["ExitCode"] == 5


def test_a_signal_wakes_a_paused_machine(cove: Cove) -> None:
    with detached(cove, "roused", "sh", "-c", SERVE):
        wait_for_output(cove, "roused", "up")
        cove("pause", "roused")
        cove("kill", "-s", "USR1", "roused")
        wait_for_output(cove, "roused", "got usr1")
        assert state(cove, "roused")["Status"] == "running"


def test_a_paused_machine_is_killed(cove: Cove) -> None:
    with detached(cove, "frozen", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"):
        for time, words in enumerate((("kill",), ("stop", "-t", "0"), ("rm", "-f"))):
            if time:
                cove("start", "frozen")
            says(cove, "frozen", "up", time + 1)
            cove("pause", "frozen")
            cove(*words, "frozen")
            if words[0] != "rm":
                assert state(cove, "frozen")["ExitCode"] == 137


def test_time_runs_out_for_a_paused_machine(cove: Cove) -> None:
    with detached(cove, "late", "sleep", "1000", flags=("--timeout", "1s")):
        cove("pause", "late")
        assert cove("wait", "late").out == "137\n"
        assert "time" in str(state(cove, "late")["Cause"])


def test_the_next_daemon_knows_of_the_pause(fresh_cove: Cove) -> None:
    cove = fresh_cove
    with detached(cove, "asleep", "sh", "-c", SERVE), detached(cove, "other", "sleep", "1000"):
        wait_for_output(cove, "asleep", "up")
        cove("pause", "asleep")
        cove.kill_daemon()
        assert state(cove, "asleep")["Status"] == "paused"
        assert state(cove, "other")["Status"] == "running"
        assert frozen(cove, "asleep")
        cove("unpause", "asleep")
        cove("stop", "asleep")
        assert state(cove, "asleep")["ExitCode"] == 5


# ---- restart ----


def test_restart_asks_waits_and_starts_again(cove: Cove) -> None:
    with detached(cove, "again", "sh", "-c", SERVE):
        wait_for_output(cove, "again", "up")
        before = cove.inspect("again")
        log = os.stat(before["LogPath"]).st_ino
        assert cove("restart", "again").out == "again\n"
        says(cove, "again", "up", 2)
        after = cove.inspect("again")
        assert after["State"]["Pid"] != before["State"]["Pid"]
        assert after["State"]["Running"] and after["Id"] == before["Id"]
        assert os.stat(after["LogPath"]).st_ino == log
        assert cove("logs", "again").out == "up\ngot term\nup\n"


def test_restart_with_a_signal_and_a_time(cove: Cove) -> None:
    with detached(cove, "deaf", "sh", "-c", SERVE):
        wait_for_output(cove, "deaf", "up")
        cove("restart", "-s", "USR1", "-t", "1", "deaf")
        says(cove, "deaf", "up", 2)
        assert cove("logs", "deaf").out == "up\ngot usr1\nup\n"


@pytest.mark.parametrize("first", ["create", "wait", "pause"])
def test_restart_of_what_does_not_run(cove: Cove, first: str) -> None:
    words = ("sh", "-c", "echo on >> /f; wc -l < /f; test -e /stay && exec sleep 1000; touch /stay")
    if first == "pause":
        words = ("sh", "-c", "echo on >> /f; wc -l < /f; exec sleep 1000")
    cove("create", "--name", "cold", "bb", *words)
    if first != "create":
        cove("start", "cold")
    if first == "pause":
        wait_for_output(cove, "cold", "1")
    if first != "create":
        cove(first, "cold")
    cove("restart", "-t", "0", "cold")
    wait_for_output(cove, "cold", "1" if first == "create" else "2")
    cove("rm", "-f", "cold")


@container_only("what a virtual machine writes with --rm is on no disk: no restart, by name")
def test_a_restart_keeps_an_ephemeral_machine(cove: Cove) -> None:
    words = (
        "sh",
        "-c",
        "echo on >> /f; wc -l < /f; trap 'exit 0' TERM; while :; do sleep 0.02; done",
    )
    id_ = cove("run", "-d", "--rm", "--name", "brief", "bb", *words).out.strip()
    wait_for_output(cove, "brief", "1")
    cove("restart", "brief")
    wait_for_output(cove, "brief", "2")
    assert cove.inspect("brief")["Id"] == id_
    cove("stop", "brief")
    wait_until(lambda: not cove("ps", "-aq", "--filter", "name=brief").out, "its removal")


def test_who_is_attached_sees_the_end_that_a_restart_brings(cove: Cove) -> None:
    process = cove.spawn("run", "--name", "seen", "bb", "sh", "-c", SERVE)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    cove("restart", "seen")
    out, _ = process.communicate(timeout=180)
    assert (out, process.returncode) == (b"got term\n", 5)
    assert state(cove, "seen")["Running"]
    cove("rm", "-f", "seen")


def test_a_start_of_what_just_starts_is_no_attach(cove: Cove) -> None:
    """The end may be known to a caller before the start is to the daemon."""
    cove("create", "--name", "quick", "bb", "sh", "-c", "echo x >> /f; wc -l < /f")
    for time in range(1, 21 if cove.isolation == "container" else 4):
        assert cove("start", "-a", "quick").out == f"{time}\n"
    cove("rm", "quick")


def test_restarts_at_the_same_time(cove: Cove) -> None:
    ephemeral = ("--rm",) if cove.isolation == "container" else ()
    with detached(cove, "dizzy", "sleep", "1000", flags=ephemeral):
        with ThreadPoolExecutor(6) as pool:
            done = list(pool.map(lambda _: cove("restart", "-t0", "dizzy", code=None), range(6)))
        assert [d.returncode for d in done] == [0] * 6, [d.err for d in done]
        assert state(cove, "dizzy")["Running"]


def test_a_removal_beside_restarts(cove: Cove) -> None:
    """It does not wait for a run that a restart has begun meanwhile: that goes too."""
    words = [("restart", "-t0", "doomed")] * 3 + [("rm", "-f", "doomed")]
    for _ in range(4):
        cove("run", "-d", "--name", "doomed", "bb", "sleep", "1000")
        with ThreadPoolExecutor(4) as pool:
            *restarts, removal = list(pool.map(lambda verb: cove(*verb, code=None), words))
        assert removal.returncode == 0, removal.err
        for done in restarts:
            known = ("no such machine", "before it began", "it is running")
            assert done.returncode == 0 or any(text in done.err for text in known), done.err
        wait_until(lambda: not cove("ps", "-aq", "--filter", "name=doomed").out, "its removal")


# ---- rename ----


def test_rename(cove: Cove) -> None:
    with detached(cove, "before", "sleep", "1000"):
        host = cove("exec", "before", "hostname").out
        assert cove("rename", "before", "after").out == ""
        assert cove("exec", "after", "hostname").out == host
        assert cove("inspect", "-f", "{{.Name}}", "after").out == "/after\n"
        assert 'cannot find machine "before"' in cove("logs", "before", code=1).err
        cove("create", "--name", "before", "bb", "true")
        done = cove("rename", "before", "after", code=1)
        assert 'cannot use the name "after"' in done.err and "from: rename before after" in done.err
        assert "it has this name already" in cove("rename", "before", "before", code=1).err
        assert 'cannot read name "a/b"' in cove("rename", "before", "a/b", code=125).err
        assert "the new name is empty" in cove("rename", "before", "", code=125).err
        assert 'cannot find machine "nobody"' in cove("rename", "nobody", "x1", code=1).err
        cove("rm", "-f", "after", "before")


def test_a_new_name_is_there_after_a_crash(fresh_cove: Cove) -> None:
    with detached(fresh_cove, "old", "sleep", "1000"):
        fresh_cove("rename", "old", "new")
        fresh_cove.kill_daemon()
        assert fresh_cove("ps", "--format", "{{.Names}}").out == "new\n"
        fresh_cove("rm", "-f", "new")


# ---- update ----


def test_update_is_felt_at_once_and_after_the_next_start(cove: Cove) -> None:
    forks = ("exec", "grown", "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo all")
    hog = ("exec", "grown", "sh", "-c", "head -c 60000000 /dev/zero | tail | wc -c")
    with detached(cove, "grown", "sleep", "1000", flags=("-m", "256m")):
        assert "all" in cove(*forks).out
        assert cove(*hog).out == "60000000\n"
        cove("restart", "-t0", "grown")
        assert cove("update", "-m", "32m", "--pids-limit", "4", "grown").out == "grown\n"
        for _ in range(2):
            assert "all" not in cove(*forks, code=None).out
            assert cove(*hog, code=None).out != "60000000\n"
            config = cove.inspect("grown")["HostConfig"]
            assert (config["Memory"], config["PidsLimit"]) == (32 << 20, 4)
            cove("restart", "-t0", "grown")
        cove("update", "-m", "256m", "--pids-limit", "-1", "grown")
        assert "all" in cove(*forks).out
        assert cove(*hog).out == "60000000\n"


@container_only("a guest has CPUs of its own: the host's are its emulator's")
def test_update_moves_a_running_machine_to_other_cpus(cove: Cove) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    allowed = "grep Cpus_allowed_list /proc/1/status /proc/self/status | sed 's/.*\\t//'"
    with detached(cove, "moved", "sleep", "1000"):
        cove("update", "--cpuset-cpus", "1", "moved")
        assert cove("exec", "moved", "sh", "-c", allowed).out == "1\n1\n"
        cove("update", "--cpuset-cpus", "0", "moved")
        cove("restart", "-t0", "moved")
        assert cove("exec", "moved", "sh", "-c", allowed).out == "0\n0\n"


def test_memory_in_use_is_not_taken_away(cove: Cove) -> None:
    flags = ("-m", "256m", "--memory-swap", "256m", "--pids-limit", "50")
    with detached(cove, "full", "sh", "-c", HOLD, flags=flags):
        wait_for_output(cove, "full", "held")
        done = cove(
            "update", "--pids-limit", "3", "-m", "16m", "--memory-swap", "16m", "full", code=1
        )
        assert re.search(r"cannot limit memory to 16m: [\d.]+ MiB are in use", done.err)
        config = cove.inspect("full")["HostConfig"]
        assert (config["Memory"], config["PidsLimit"]) == (256 << 20, 50)
        assert state(cove, "full")["Running"]
        more = "for i in 1 2 3 4 5 6 7 8; do sleep 0 & done; echo all"
        assert "all" in cove("exec", "full", "sh", "-c", more).out
        for size in ("300m", "128m"):  # up and down: the order of the kernel's files differs
            cove("update", "-m", size, "--memory-swap", size, "full")


def test_update_of_a_machine_that_does_not_run(cove: Cove) -> None:
    cove("create", "--name", "later", "bb", "sh", "-c", "head -c 60000000 /dev/zero | tail | wc -c")
    cove("update", "-m", "16m", "--memory-swap", "16m", "--cpus", "0.5", "later")
    config = cove.inspect("later")["HostConfig"]
    assert (config["Memory"], config["NanoCpus"]) == (16 << 20, 500_000_000)
    assert cove("start", "-a", "later", code=None).out != "60000000\n"
    cove("rm", "later")


def test_what_update_refuses(cove: Cove) -> None:
    with detached(cove, "same", "sleep", "1000", flags=("-m", "64m", "--memory-swap", "64m")):
        before = cove.inspect("same")["HostConfig"]
        for flags, code, message in REFUSED:
            assert message in cove("update", *flags, "same", code=code).err
            assert cove.inspect("same")["HostConfig"] == before


REFUSED = (
    ((), 125, "cannot update: nothing is named that changes"),
    (("--restart", "on-failure:x"), 125, 'cannot read restart policy "on-failure:x"'),
    (("--blkio-weight", "5"), 1, "cannot use --blkio-weight 5: it is not between 10 and 1000"),
    (("--kernel-memory", "20m"), 125, "cannot use --kernel-memory"),
    (("--cpu-period", "1000"), 125, "cannot use --cpu-period without --cpu-quota"),
    (("--cpus", "1", "--cpu-quota", "1000"), 125, "--cpus sets the same limit"),
    (("-m", "4m"), 1, "cannot limit memory to 4m: the minimum is 6m"),
    (("-m", "4m", "--restart", "always"), 1, "cannot limit memory to 4m: the minimum is 6m"),
    (("--cpus", "4096", "--restart", "always"), 1, "cannot limit CPUs to 4096: this host has"),
    (("-m", "1g"), 1, "cannot limit memory and swap together to 64m: memory alone may be 1g"),
    (("--memory-reservation", "100m"), 1, "cannot reserve 100m: memory is limited to 64m"),
    (("--cpuset-cpus", "4095"), 1, "cannot use cpus 4095 of this host's"),
    (("--cpus", "4096"), 1, "cannot limit CPUs to 4096: this host has"),
    (("--cpu-shares", "1"), 1, "cannot use --cpu-shares 1: the minimum is 2"),
)


def test_update_without_a_change(cove: Cove) -> None:
    with detached(cove, "same", "sleep", "1000"):
        assert cove("update", "--restart", "no", "same").out == "same\n"
        assert cove("update", "--restart", "no", "nobody", code=1).out == ""


# ---- port ----


def test_port(cove: Cove) -> None:
    with detached(cove, "closed", "sleep", "1000"):
        assert cove("port", "closed").out == ""
        for port, shown in (("80", "80/tcp"), ("53/udp", "53/udp")):
            done = cove("port", "closed", port, code=1)
            assert f"no public port '{shown}' published for closed" in done.err
        assert '"http" is no port' in cove("port", "closed", "http", code=125).err
    assert 'cannot find machine "nobody"' in cove("port", "nobody", code=1).err


# ---- prune ----


def test_prune_removes_what_does_not_run(fresh_cove: Cove) -> None:
    cove = fresh_cove
    ids = {n: cove("create", "--name", n, "-l", f"n={n}", "bb", "true").out for n in ("aa", "bb")}
    cove("run", "--name", "cc", "bb", "sh", "-c", "head -c 3000000 /dev/zero > /file")
    with detached(cove, "up", "sleep", "1000"), detached(cove, "held", "sleep", "1000"):
        cove("pause", "held")
        nothing = "Total reclaimed space: 0B\n"
        assert cove("container", "prune", "-f", "--filter", "until=10m").out == nothing
        assert cove("container", "prune", "-f", "--filter", "label=n=cc").out == nothing
        done = cove("container", "prune", "-f", "--filter", "label=n=aa")
        assert done.out == f"Deleted Containers:\n{ids['aa']}\n{nothing}"
        done = cove("machine", "prune", "-f", "--filter", "label!=m", "--filter", "label=n")
        assert done.out == f"Deleted Containers:\n{ids['bb']}\n{nothing}"
        assert re.search(
            r"Total reclaimed space: 3(\.\d+)?MB\n$", cove("container", "prune", "-f").out
        )
        assert set(cove("ps", "-a", "--format", "{{.Names}}").out.split()) == {"up", "held"}


def test_labels_of_the_image_count_as_the_machines(fresh_cove: Cove, bb_tar: Path) -> None:
    cove = fresh_cove
    cove("image", "import", "-c", "LABEL keep=image", str(bb_tar), "kept")
    cove("create", "--name", "ofimage", "kept", "true")
    cove("create", "--name", "own", "-l", "keep=own", "kept", "true")
    for wrong in ("label!=keep", "label!=keep=image", "label=keep=none"):
        out = cove("container", "prune", "-f", "--filter", wrong).out
        assert "Deleted" not in out or wrong == "label!=keep=image", out
    assert cove("ps", "-a", "--format", "{{.Names}}").out == "ofimage\n"
    assert "Deleted" in cove("container", "prune", "-f", "--filter", "label=keep=image").out


def test_prune_asks(cove: Cove) -> None:
    cove("create", "--name", "asked", "bb", "true")
    question = (
        "WARNING! This will remove all stopped containers.\n"
        "Are you sure you want to continue? [y/N] "
    )
    for answer in ("", "n\n", "yes\n"):
        assert cove("container", "prune", stdin=answer).out == question
    cove("inspect", "asked")
    done = cove("container", "prune", stdin="Y\n")
    assert done.out.startswith(f"{question}Deleted Containers:\n")
    assert "no machine or image" in cove("inspect", "asked", code=1).err


@no_scenario("no machine is made")
def test_filters_of_prune(cove: Cove) -> None:
    assert "no such filter" in cove("container", "prune", "-f", "--filter", "x=1", code=125).err
    assert "not a moment" in cove("container", "prune", "-f", "--filter", "until=x", code=125).err
    assert "takes no more words" in cove("container", "prune", "-f", "all", code=125).err


def test_prune_beside_starts_and_removals(fresh_cove: Cove) -> None:
    """A machine is started or removed, never half of both."""
    cove = fresh_cove
    names = [f"m{n}" for n in range(16)]
    for name in names:
        cove("create", "--name", name, "bb", "sleep", "1000")

    def act(place: int) -> tuple[str, int, str]:
        if place % 5 == 4:
            return "", cove("container", "prune", "-f").returncode, ""
        name = names[place % 16]
        verb = ("start", "rm", "restart")[place % 3]
        done = cove(verb, name, code=None)
        return name if verb != "rm" else "", done.returncode, done.err

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(act, range(40 if cove.isolation == "container" else 16)))
    running = set(cove("ps", "--format", "{{.Names}}").out.split())
    for name, code, err in done:
        expected = ("no such machine", "it is running", "was killed before it began")
        assert code == 0 or any(text in err for text in expected), err
        assert code or not name or name in running, f"{name} was started and is gone"
    cove("container", "prune", "-f")
    assert set(cove("ps", "-a", "--format", "{{.Names}}").out.split()) == running


# ---- events, and the table of verbs ----


@pytest.fixture
def engine(bb_tar: Path) -> Iterator[Engine]:
    with open_engine(bb_tar) as made:
        yield made


def test_each_verb_is_an_event(engine: Engine) -> None:
    nothing = calls.Call()
    engine.run(calls.Run(MachineSpec(image="bb", command=("sleep", "1000"), name="old")), nothing)
    engine.pause(calls.Pause("old"), nothing)
    engine.unpause(calls.Unpause("old"), nothing)
    engine.update(calls.Update("old", memory=64 << 20), nothing)
    engine.rename(calls.Rename("old", "new"), nothing)
    engine.restart(calls.Restart("new", timeout=0), nothing)
    with pytest.raises(Conflict):
        engine.unpause(calls.Unpause("new"), nothing)
    engine.remove(calls.Remove("new", force=True), nothing)
    past = [e for e in engine.home.events.past if e.attributes["name"] in ("old", "new")]
    kinds = [event.action for event in past if event.action != "kill"]
    expected = ["create", "start", "pause", "unpause", "update", "rename", "die", "stop"]
    assert kinds == [*expected, "start", "restart", "die", "destroy"]
    assert past[5].attributes["oldName"] == "/old"
