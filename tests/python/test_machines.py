"""cove.machine and the machines that are there: programs in them, files, looking, their end."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import pytest

import cove as package
from cove import Client
from tests.driver import Cove, wait_until


def test_a_machine_is_there_during_the_block(cove: Cove, client: Client) -> None:
    with client.machine("bb", ["sleep", "1000"]) as machine:
        assert machine.exec(["echo", "in"]).text == "in\n"
        assert [m.id for m in client.machines()] == [machine.id]
        assert machine.name in cove("ps").out
    assert client.machines(all=True) == []


def test_a_shell_of_the_image_waits(client: Client) -> None:
    with client.machine("bb", ["sh"]) as machine:
        assert machine.inspect().record.state == "running"


def test_it_is_removed_when_the_block_fails(client: Client) -> None:
    with pytest.raises(ZeroDivisionError), client.machine("bb", ["sleep", "1000"]):
        _ = 1 / 0
    with pytest.raises(KeyboardInterrupt), client.machine("bb", ["sleep", "1000"]):
        raise KeyboardInterrupt
    assert client.machines(all=True) == []


def test_one_that_has_ended_or_is_gone_makes_no_trouble(client: Client) -> None:
    with client.machine("bb", ["true"]) as machine:
        assert machine.wait().exit_code == 0
    with client.machine("bb", ["sleep", "1000"]) as machine:
        machine.remove(force=True)
    with client.machine("bb", ["sleep", "1000"]) as machine:
        machine.close()
        machine.close()
    with pytest.raises(package.NotFound):
        machine.exec(["true"])


def test_one_that_cannot_start_is_an_error(client: Client) -> None:
    with pytest.raises(package.NotFound, match='cannot run "nope"'), client.machine("bb", ["nope"]):
        raise AssertionError("the block began")
    wait_until(lambda: client.machines(all=True) == [], "the end of the machine")


def test_the_reason_of_an_end(client: Client) -> None:
    with client.machine("bb", ["sleep", "1000"], timeout=0.3) as machine:
        ended = machine.wait()
        assert (ended.reason.kind, ended.exit_code) == ("timeout", 137)


# ---- programs ----


def test_exec_takes_what_run_takes(client: Client) -> None:
    with client.machine("bb", ["sleep", "1000"]) as machine:
        done = machine.exec(
            ["sh", "-c", "cat; echo $A; pwd; id -u; exit 5"],
            stdin="in\n",
            env={"A": "1"},
            workdir="/tmp",
            user="ada",
        )
        assert done.text.splitlines() == ["in", "1", "/tmp", "1000"]
        assert (done.exit_code, done.reason.kind) == (5, "exit")
        with pytest.raises(package.Failed):
            machine.exec(["false"], check=True)
        with pytest.raises(package.NotFound):
            machine.exec(["nope"])
        with pytest.raises(package.UsageError):
            machine.exec([])


def test_exec_ends_in_time(client: Client) -> None:
    with client.machine("bb", ["sleep", "1000"]) as machine:
        done = machine.exec(["sh", "-c", "echo first; exec sleep 777"], timeout=2)
        assert (done.reason.kind, done.stdout, done.exit_code) == ("timeout", b"first\n", 137)
        wait_until(lambda: len(machine.top().rows) == 1, "the end of sleep")
        done = machine.exec(["yes"], max_output="64k")
        assert (done.reason.kind, len(done.stdout)) == ("output", 64 << 10)
        wait_until(lambda: len(machine.top().rows) == 1, "the end of yes")


def test_output_as_it_comes(client: Client) -> None:
    with client.machine("bb", ["sleep", "1000"]) as machine:
        found = list(machine.exec_stream(["sh", "-c", "echo a; echo b >&2"]))
        assert {chunk.stream: chunk.data for chunk in found} == {
            "stdout": b"a\n",
            "stderr": b"b\n",
        }
        for chunk in machine.exec_stream(["yes"]):
            assert chunk.data.startswith(b"y")
            break
        wait_until(lambda: len(machine.top().rows) == 1, "the end of yes")


def test_a_program_to_talk_to(client: Client) -> None:
    with client.machine("bb", ["sleep", "1000"]) as machine:
        with machine.popen(["cat"], stdin=True) as process:
            process.write("one\n")
            assert next(iter(process)).data == b"one\n"
            process.write(b"two\n")
            process.close_stdin()
            done = process.wait()
            assert (done.stdout, done.exit_code) == (b"two\n", 0)
            assert process.wait().exit_code == 0
        process.close()


def test_patience_with_a_program_ends_without_harm(client: Client) -> None:
    with client.popen("bb", ["sh", "-c", "echo a; read x; echo $x"], stdin=True) as process:
        with pytest.raises(TimeoutError):
            process.wait(0.3)
        process.write("b\n")
        assert process.wait().stdout == b"a\nb\n"


def test_signals_to_a_program(client: Client) -> None:
    trap = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.01; done"
    with client.popen("bb", ["sh", "-c", trap]) as process:
        assert next(iter(process)).data == b"ready\n"
        process.send_signal("TERM")
        done = process.wait()
        assert (done.stdout, done.exit_code) == (b"caught\n", 9)
    with client.popen("bb", ["sleep", "1000"]) as process:
        process.kill()
        done = process.wait()
        assert (done.exit_code, done.reason.kind, done.reason.signal) == (137, "signal", 9)


def test_a_program_ends_with_its_block(client: Client) -> None:
    with client.popen("bb", ["sleep", "1000"]):
        wait_until(lambda: len(client.machines()) == 1, "the machine to run")
    wait_until(lambda: client.machines(all=True) == [], "the end of the machine")


def test_reader_and_writer_are_two_threads(client: Client) -> None:
    data = b"x" * 3_000_000
    with client.popen("bb", ["cat"], stdin=True) as process:

        def write() -> None:
            process.write(data)
            process.close_stdin()

        thread = threading.Thread(target=write)
        thread.start()
        assert b"".join(chunk.data for chunk in process) == data
        thread.join()


# ---- files ----


def test_trees_go_in_and_out(client: Client, tmp_path: Path) -> None:
    (tmp_path / "src/deep").mkdir(parents=True)
    (tmp_path / "src/deep/file").write_bytes(b"\0\xff")
    with client.machine("bb", ["sleep", "1000"]) as machine:
        machine.put(tmp_path / "src", "/made")
        assert machine.exec(["ls", "/made/deep"]).text == "file\n"
        machine.get("/made", tmp_path / "back")
    assert (tmp_path / "back/deep/file").read_bytes() == b"\0\xff"


def test_bytes_go_in_and_out(client: Client) -> None:
    with client.machine("bb", ["sleep", "1000"]) as machine:
        machine.put(b"\0data\xff", "/tmp/new")
        assert machine.get("/tmp/new") == b"\0data\xff"
        assert machine.exec(["stat", "-c", "%a %u %s", "/tmp/new"]).text == "644 0 6\n"
        machine.put(b"", "/tmp/new")
        assert machine.get("/tmp/new") == b""
        machine.exec(["ln", "-s", "/tmp/new", "/tmp/link"])
        assert machine.get("/tmp/link") == b""


def test_files_that_cannot_be_read_or_written(client: Client, tmp_path: Path) -> None:
    with client.machine("bb", ["sleep", "1000"]) as machine:
        with pytest.raises(package.NotFound):
            machine.get("/tmp/none")
        with pytest.raises(package.UsageError, match="is not a file"):
            machine.get("/tmp")
        with pytest.raises(package.UsageError, match="it is a directory"):
            machine.put(b"x", "/tmp")
        machine.exec(["mkfifo", "/tmp/fifo"])
        with pytest.raises(package.UsageError, match="is not a file"):
            machine.get("/tmp/fifo")
        machine.exec(["dd", "if=/dev/zero", "of=/tmp/big", "bs=1M", "count=2"])
        with pytest.raises(package.UsageError, match="more than 1m"):
            machine.get("/tmp/big", max_size="1m")
        assert len(machine.get("/tmp/big", max_size="2m")) == 2 << 20
        with pytest.raises(package.CoveError):
            machine.put(tmp_path / "none", "/tmp/x")


# ---- looking and acting ----


def test_logs_stats_and_processes(client: Client) -> None:
    with client.machine("bb", ["sh", "-c", "echo said; exec sleep 1000"]) as machine:
        entry = next(machine.logs(follow=True))
        assert (entry.stream, entry.data) == (1, b"said\n")
        assert [e.data for e in machine.logs(tail=1)] == [b"said\n"]
        stats = machine.stats()
        assert stats.pids == 1
        assert stats.memory > 0
        assert next(machine.watch()).id == machine.id
        assert "sleep 1000" in " ".join(machine.top().rows[0])


def test_a_machine_that_outlives_its_caller(cove: Cove, client: Client) -> None:
    machine = client.start("bb", ["sh", "-c", "echo said; exec sleep 1000"], name="longer")
    try:
        assert client.get("longer").id == machine.id
        assert next(machine.logs(follow=True)).data == b"said\n"
        machine.pause()
        assert machine.inspect().record.state == "paused"
        machine.unpause()
        machine.rename("other")
        assert client.get("other").id == machine.id
        machine.restart(0)
        machine.kill()
        ended = machine.wait()
        assert (ended.exit_code, ended.reason.kind) == (137, "signal")
        machine.start()
        machine.stop(0)
        assert {entry.data for entry in machine.logs()} == {b"said\n"}
    finally:
        machine.remove(force=True)
    with pytest.raises(package.NotFound):
        client.get("other")


def test_events(client: Client) -> None:
    begun = time.time()
    client.run("bb", ["true"], name="told")
    with contextlib.closing(client.events(since=begun, filters={"container": ["told"]})) as found:
        acts = (event.action for event in found if event.action != "attach")
        assert [next(acts) for _ in range(3)] == ["create", "start", "die"]
    once = client.events(since=begun, until=time.time(), filters={"container": ["told"]})
    assert "create" in {event.action for event in once}


def test_images(client: Client, bb_tar: Path) -> None:
    steps: list[str] = []
    done = client.images.import_tar(bb_tar, "mine:1", changes=['CMD ["echo", "own command"]'])
    assert done.tags == ("mine:1",)
    assert client.run("mine:1").text == "own command\n"
    client.images.tag("mine:1", "mine:2")
    assert client.images.get("mine:2").record.id == done.image
    assert "mine:1" in {tag for image in client.images.list() for tag in image.tags}
    client.images.remove("mine:2")
    client.images.remove("mine:1")
    with pytest.raises(package.NoSuchImage):
        client.images.get("mine:1")
    with open(bb_tar, "rb") as file:
        client.images.import_tar(file, "mine:3")
    client.images.remove("mine:3")
    with pytest.raises(package.CoveError, match="no such file"):
        client.images.load("/not/here.tar", progress=lambda step: steps.append(step.stage))


def test_about_the_daemon(cove: Cove, client: Client) -> None:
    assert client.info().root == str(cove.root)
    assert client.version().version == package.__version__
