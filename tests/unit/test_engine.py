"""The parts of the engine that need no machine: logs, causes, names, events, timers, ends."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from cove.client.verbs import PROTOCOL
from cove.daemon.front import CallerGone
from cove.engine.events import Cancel, Cancelled, Events
from cove.engine.machines import causes
from cove.engine.machines.names import ADJECTIVES, NOUNS, choose_id, choose_name
from cove.engine.reactor import Reactor, Worker
from cove.engine.system import info
from cove.executor.messages import ExitRecord
from cove.spec.machine import Limits


def test_engine_and_client_speak_of_the_same_protocol() -> None:
    assert info.PROTOCOL == PROTOCOL


# ---- causes ----


def ended(code: int = 0, signal: int = 0) -> ExitRecord:
    return ExitRecord(code, signal, False, 1, 2)


@pytest.mark.parametrize(
    ("evidence", "kind", "line"),
    [
        (causes.Evidence(ended(0)), "exit", ""),
        (causes.Evidence(ended(3)), "exit", ""),
        (causes.Evidence(ended(0), oom_kills=1), "exit", ""),
        (causes.Evidence(ended(0), refused=("mount",)), "exit", ""),
        (causes.Evidence(ended(3), refused=("get_mempolicy",)), "exit", ""),
        (
            causes.Evidence(ended(1), refused=("mount", "ptrace")),
            "seccomp",
            "cove: seccomp refused: mount, ptrace\n",
        ),
        (
            causes.Evidence(
                ended(137, 9), oom_kills=1, oom=causes.OutOfMemory("python3", 17, 67318579)
            ),
            "oom",
            "cove: out of memory: python3 (pid 17) used 64.2 MiB of 64 MiB\n",
        ),
        (
            causes.Evidence(ended(137, 9), oom_kills=1),
            "oom",
            "cove: out of memory: a process hit the limit of 64 MiB\n",
        ),
        (
            causes.Evidence(ended(137, 9), asked="timeout", timeout=2.0, oom_kills=1),
            "timeout",
            "cove: timeout: it ran longer than 2 s\n",
        ),
        (
            causes.Evidence(ended(137, 9), asked="storage", storage=10 << 30),
            "storage",
            "cove: storage limit: it wrote more than 10 GiB\n",
        ),
        (
            causes.Evidence(ended(2), forks_refused=1, pids=20),
            "pids",
            "cove: pids limit: fork was refused 1 time at 20 processes\n",
        ),
        (  # what a program tried and did without is not why somebody ended it
            causes.Evidence(ended(137, 9), asked="kill", refused=("io_uring_setup",)),
            "signal",
            "cove: killed by SIGKILL (cove kill)\n",
        ),
        (
            causes.Evidence(ended(139, 11)),
            "signal",
            "cove: killed by SIGSEGV\n",
        ),
        (causes.Evidence(ended(130, 2)), "signal", ""),
        (causes.Evidence(ended(143, 15), asked="stop"), "signal", ""),
        (
            causes.Evidence(ended(137, 9), asked="monitor"),
            "monitor",
            "cove: its monitor ended, and the machine with it\n",
        ),
    ],
)
def test_causes(evidence: causes.Evidence, kind: str, line: str) -> None:
    cause = causes.cause_of(evidence, Limits(memory=64 << 20))
    assert (cause.kind, causes.last_line(cause)) == (kind, line)


# ---- names ----


def test_an_id_whose_beginning_is_a_number_is_no_machines() -> None:
    """It is a host name, too, and one of digits alone is an address to a C library's resolver."""
    made = iter(["123456789012" + "a" * 52, "0" * 64, "12345678901f" + "0" * 52])
    assert choose_id(lambda size: next(made)) == "12345678901f" + "0" * 52
    assert len(choose_id()) == 64


def test_a_name_is_an_adjective_and_a_noun() -> None:
    adjective, noun = choose_name("ab" * 32, lambda name: False).split("_")
    assert adjective in ADJECTIVES and noun in NOUNS


def test_a_taken_name_is_not_chosen() -> None:
    first = choose_name("ab" * 32, lambda name: False)
    assert choose_name("ab" * 32, lambda name: name == first) != first


def test_names_never_run_out() -> None:
    assert choose_name("ab" * 32, lambda name: "_" in name) == "ab" * 6


def test_names_can_be_typed() -> None:
    assert all(word.isascii() and word.islower() for word in (*ADJECTIVES, *NOUNS))
    assert len(set(ADJECTIVES)) == len(ADJECTIVES) and len(set(NOUNS)) == len(NOUNS)


# ---- events and cancelling ----


def test_waiting_for_what_already_holds_needs_no_event() -> None:
    assert Events().wait_until(lambda: True)


def test_waiting_ends_with_an_event() -> None:
    events, state = Events(), []
    thread = threading.Thread(target=lambda: (state.append(1), events.publish("die", ("", "", ""))))
    with events.subscribe():
        thread.start()
        assert events.wait_until(lambda: bool(state))
    thread.join()


def test_waiting_too_long() -> None:
    assert not Events().wait_until(lambda: False, timeout=0.01)


@pytest.mark.parametrize("kind", [Cancel, threading.Event])
def test_waiting_is_cancelled(kind: type[threading.Event]) -> None:
    cancel = kind()
    timer = threading.Timer(0.02, cancel.set)
    timer.start()
    with pytest.raises(Cancelled):
        Events().wait_until(lambda: False, cancelled=cancel)
    timer.join()


def test_a_cancel_that_came_before_is_heard() -> None:
    cancel, called = Cancel(), []
    cancel.set()
    with cancel.then(lambda: called.append(1)):
        assert called == [1]


def test_the_past_is_kept_in_order_and_bounded() -> None:
    events = Events()
    for number in range(5000):
        events.publish("start", (str(number), "", ""))
    assert len(events.past) == 1024 and events.past[-1].id == "4999"


# ---- reactor ----


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    made = Reactor()
    made.start()
    yield made
    made.close()


def test_timers_ring_in_order_and_cancelled_ones_do_not(reactor: Reactor) -> None:
    rung: list[int] = []
    done = threading.Event()
    reactor.after(0.03, done.set)
    reactor.after(0.02, lambda: rung.append(2))
    reactor.after(0.01, lambda: rung.append(1))
    reactor.after(0.015, lambda: rung.append(9)).cancel()
    assert done.wait(120) and rung == [1, 2]


def test_a_watched_descriptor_and_one_that_is_forgotten(reactor: Reactor) -> None:
    reader, writer = os.pipe()
    seen = threading.Event()

    def ready(events: int) -> None:
        os.read(reader, 10)
        seen.set()

    reactor.watch(reader, reactor, ready)
    os.write(writer, b"x")
    assert seen.wait(120)
    reactor.forget(reader, reactor)
    os.close(reader)
    os.close(writer)


def test_only_who_watches_forgets(reactor: Reactor) -> None:
    """Somebody who closed his descriptor and forgets its number late does not make the next owner
    of the number deaf.
    """
    reader, writer = os.pipe()
    seen = threading.Event()

    def ready(events: int) -> None:
        reactor.forget(reader, "new")
        seen.set()

    reactor.watch(reader, "old", lambda events: None)
    reactor.watch(reader, "new", ready)
    reactor.forget(reader, "old")
    os.write(writer, b"x")
    assert seen.wait(120)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("_", range(20))
def test_several_who_wait_for_one_caller(reactor: Reactor, _: int) -> None:
    """Whichever leaves first, the others still hear that the caller went away."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gone = CallerGone(ours, reactor)
    heard, all_here = threading.Semaphore(0), threading.Barrier(4)

    def wait(times: int) -> None:
        all_here.wait(120)
        for _ in range(times):
            with gone.then(lambda: None):
                pass
        with gone.then(heard.release):
            all_here.wait(120)
            gone.wait(120)

    threads = [threading.Thread(target=wait, args=(times,)) for times in (0, 1, 200)]
    for thread in threads:
        thread.start()
    all_here.wait(120)
    all_here.wait(120)
    theirs.close()
    for thread in threads:
        assert heard.acquire(timeout=120)
        thread.join()
    ours.close()


def test_a_callback_that_fails_does_not_end_the_reactor(
    reactor: Reactor, capfd: pytest.CaptureFixture[str]
) -> None:
    done = threading.Event()
    reactor.post(lambda: print(1 // 0))
    reactor.post(done.set)
    assert done.wait(120)
    assert "cove: bug: in the reactor" in capfd.readouterr().err


def test_a_worker_does_all_before_it_closes() -> None:
    worker, done = Worker("test"), []
    worker.start()
    for number in range(10):
        worker.do(lambda n=number: done.append(n))  # type: ignore[misc]
    worker.close()
    assert done == list(range(10))
