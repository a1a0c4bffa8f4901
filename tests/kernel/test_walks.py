"""The crash walk and the fault walk: a start that is interrupted at any step, or any op of which
fails, loses nothing and leaves nothing.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cove.engine import calls
from cove.engine.engine import Engine
from cove.engine.machines import start
from cove.engine.slots import READY
from cove.errors import CoveError
from cove.plan.ops import Chdir, Plan
from cove.spec.machine import Limits, MachineSpec, Mount
from tests.driver import ROOT, Cove, wait_end, wait_until
from tests.kernel.conftest import open_engine
from tests.shared import no_scenario

pytestmark = no_scenario(
    "it kills the daemon between its steps: tests/vm walks through the steps of virtual machines"
)

STRIDE = int(os.environ.get("COVE_WALK", "8").replace("all", "1"))
"""Every step takes two starts of a daemon; ``COVE_WALK=all`` walks them all (``make
test-walks``), 8 every eighth."""

NOWHERE = "/cove-fault-walk"

# ---- crash walk ----


class Crashing:
    """A daemon that dies before its Nth effect; gone or not, its process is collected."""

    def __init__(
        self, cove: Cove, last: int, report: Path, verb: str = "cove.engine.machines.life:run"
    ) -> None:
        self.report = report
        report.unlink(missing_ok=True)
        reader, writer = os.pipe()
        words = [sys.executable, "-P", str(ROOT / "tests/kernel/crashing.py"), str(last)]
        words += [str(report), verb, "--root", str(cove.root), "--ready-fd", str(writer)]
        env = cove.env | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(words, env=env, pass_fds=(writer,))
        os.close(writer)
        answer = os.read(reader, 4096)
        os.close(reader)
        assert answer == b"\0", answer.decode()

    def died(self) -> bool:
        """Whether it met its end, also in what the command left to be done; one that went on to
        idle is ended in order.
        """
        fd = os.pidfd_open(self.process.pid)
        select.select([fd], [], [], 0.4)
        met = self.report.exists()
        if not met:
            self.process.terminate()
        wait_end(fd)
        self.process.wait()
        return met


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kept", [False, True], ids=["ephemeral", "kept"])
def test_a_daemon_killed_at_any_step_of_a_run(fresh_cove: Cove, tmp_path: Path, kept: bool) -> None:
    cove, report = fresh_cove, tmp_path / "where"
    flags = ("--name", "walker") if kept else ("--rm", "--name", "walker")
    cove.stop_daemon()
    last, steps = 1, 0
    while True:
        daemon = Crashing(cove, last, report)
        done = cove("run", *flags, "bb", "sh", "-c", "echo out > /file", code=None)
        assert done.returncode in (0, 125), done
        if not daemon.died():
            break
        where = report.read_text()
        steps += 1
        check_consistent(cove, kept=kept, where=where, code=done.returncode)
        cove.stop_daemon()
        last += STRIDE
    assert steps > 5, "the walk never began"
    cove("rm", "-f", "walker", code=None)


def check_consistent(cove: Cove, *, kept: bool, where: str, code: int) -> None:
    """By a daemon that came after the crash."""
    names = cove("ps", "-a", "--format", "{{.Names}}").out.split()
    if not kept or code != 0:
        # A command that was told of success must be remembered; one that was not may be.
        assert names in ([], ["walker"]), where
    else:
        assert names == ["walker"], where
    if names:
        cove("wait", "walker", code=None)
    if names and kept:
        assert cove.inspect("walker")["State"]["Status"] in ("created", "exited"), where
        cove("rm", "walker")

    def swept() -> bool:
        return not cove("ps", "-aq").out and len(list(cove.root.glob("roots/u*"))) <= READY

    wait_until(swept, f"what a daemon left that was killed before {where}")
    cove("run", "--rm", "bb", "true")


# ---- fault walk ----


@pytest.fixture
def engine(bb_tar: Path) -> Iterator[Engine]:
    with open_engine(bb_tar) as made:
        yield made


def failing_at(plan: Plan, side: str, index: int) -> Plan:
    """The plan with an op in front of op ``index`` that fails, for the same reason it is there."""
    parts: dict[str, Any] = {"host": plan.host, "machine": plan.machine}
    ops = parts[side]
    fault = Chdir(NOWHERE, why=ops[index].why)
    parts[side] = (*ops[:index], fault, *ops[index:])
    return Plan(**parts)


FULL = MachineSpec(
    image="bb",
    command=("true",),
    remove=True,
    hostname="walked",
    mounts=(Mount("tmpfs", "/t", origin="--tmpfs /t"),),
    limits=Limits(memory=64 << 20),
)


def test_any_op_may_fail(engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bind = Mount("bind", "/data", str(tmp_path), origin=f"-v {tmp_path}:/data")
    spec = msgspec.structs.replace(FULL, mounts=(*FULL.mounts, bind))
    real = start.plan_machine
    plans: list[Plan] = []
    monkeypatch.setattr(start, "plan_machine", lambda *a: plans.append(real(*a)) or plans[-1])
    engine.run(calls.Run(spec), calls.Call())
    settle(engine)
    whole = plans[-1]
    before = open_fds()
    for side, ops in (("host", whole.host), ("machine", whole.machine)):
        for index, op in enumerate(ops):
            monkeypatch.setattr(
                start, "plan_machine", lambda *a, s=side, i=index: failing_at(real(*a), s, i)
            )
            with pytest.raises(CoveError) as caught:
                engine.run(calls.Run(spec), calls.Call())
            expected = "" if op.why.startswith("default:") else op.why
            assert caught.value.origin == expected, f"{side} {index} {op.NAME}"
            assert NOWHERE in caught.value.message
            settle(engine)
            assert engine.home.store.machines() == [], f"{side} {index} {op.NAME}"
    settle(engine)
    assert len(open_fds()) <= len(before) + 2
    monkeypatch.setattr(start, "plan_machine", real)
    engine.run(calls.Run(spec), calls.Call())
    settle(engine)


def settle(engine: Engine) -> None:
    """Wait until every machine is put away, and as many slots are ready as there ever are: each
    has descriptors of its own."""
    assert engine.home.events.wait_until(lambda: not engine.home.lives, timeout=180)
    engine.home.worker.do(engine.home.slots.refill)
    engine.home.worker.settle()
    engine.home.remover.wait_idle(60)


def open_fds() -> list[str]:
    return os.listdir("/proc/self/fd")
