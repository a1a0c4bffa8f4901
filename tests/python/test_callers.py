"""Who calls may be killed, fork, live elsewhere, be many at once; the daemon may die meanwhile."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import cove as package
from cove import Client
from tests.conftest import need
from tests.driver import Cove, new_cove, wait_until


def python(cove: Cove, program: str, *before: str, code: int = 0, **env: str) -> str:
    """A program of a process of its own; what it printed."""
    done = subprocess.run(
        [*before, sys.executable, "-X", "dev", "-W", "error", "-c", program],
        env=cove.env | env,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout


# ---- what an import costs ----


def test_import_loads_nothing() -> None:
    program = (
        "import sys; before = set(sys.modules); import cove; print(*set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) <= {"cove", "__future__"}


def test_nobody_pays_for_asyncio_who_does_not_use_it(cove: Cove) -> None:
    program = "import cove, sys; cove.run('bb', ['true']); print('asyncio' in sys.modules)"
    assert python(cove, program) == "False\n"


def test_the_module_speaks_to_the_daemon_that_the_command_would(cove: Cove) -> None:
    assert python(cove, "import cove; print(cove.info().root)") == f"{cove.root}\n"
    there = f"import cove; print(cove.connect({str(cove.root)!r}).info().root)"
    assert python(cove, there, COVE_ROOT="/nowhere") == f"{cove.root}\n"


# ---- the daemon ----


def test_a_daemon_is_started_where_there_is_none() -> None:
    driver = new_cove()
    try:
        assert package.connect(str(driver.root)).run("host", ["echo", "hi"]).text == "hi\n"
    finally:
        driver.close()


def test_a_daemon_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(package.HostError, match="cannot start the daemon") as caught:
        package.connect(str(tmp_path / "file")).run("host", ["true"])
    assert caught.value.hint


def test_the_result_arrives_although_the_daemon_was_killed(fresh_cove: Cove) -> None:
    client = package.connect(str(fresh_cove.root))
    with client.popen("bb", ["sh", "-c", "echo ready; read x; echo $x; exit 7"], stdin=True) as p:
        assert next(iter(p)).data == b"ready\n"
        fresh_cove.kill_daemon()
        p.write("still\n")
        done = p.wait()
    assert (done.stdout, done.exit_code) == (b"still\n", 7)
    assert client.run("bb", ["true"]).ok
    wait_until(lambda: client.machines(all=True) == [], "the end of the machine")


def test_a_limit_holds_although_the_daemon_was_killed(fresh_cove: Cove) -> None:
    client = package.connect(str(fresh_cove.root))
    with client.popen("bb", ["sh", "-c", "echo ready; sleep 1000"], timeout=5) as p:
        assert next(iter(p)).data == b"ready\n"
        fresh_cove.kill_daemon()
        done = p.wait()
    assert (done.exit_code, done.reason.kind) == (137, "timeout")


def test_a_monitor_that_was_killed_is_told(client: Client, cove: Cove) -> None:
    with client.popen("bb", ["sleep", "1000"], name="orphan") as process:
        pid = client.get("orphan").inspect().record.pid
        with open(f"/proc/{pid}/status") as file:
            parent = next(int(line.split()[1]) for line in file if line.startswith("PPid:"))
        os.kill(parent, signal.SIGKILL)
        with pytest.raises(package.HostError, match="lost the machine's monitor"):
            process.wait()
    wait_until(lambda: client.machines(all=True) == [], "the end of the machine")


# ---- the caller ----

HELD = """
import cove, sys
with cove.{what}:
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    "what", ["machine('bb', ['sleep', '1000'])", "popen('bb', ['sleep', '1000'])"]
)
def test_nothing_outlives_a_caller_that_was_killed(cove: Cove, client: Client, what: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HELD.format(what=what)],
        env=cove.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin and child.stdout
    assert child.stdout.readline() == b"ready\n"
    wait_until(lambda: len(client.machines()) == 1, "the machine")
    child.kill()
    child.wait()
    wait_until(lambda: client.machines(all=True) == [], "the end of the machine")
    child.stdin.close()
    child.stdout.close()


def test_an_interrupt_ends_the_machine(cove: Cove, client: Client) -> None:
    program = "import cove; cove.run('bb', ['sleep', '1000'])"
    child = subprocess.Popen(
        [sys.executable, "-c", program], env=cove.env, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(client.machines()) == 1, "the machine")
    child.send_signal(signal.SIGINT)
    assert child.stderr
    assert "KeyboardInterrupt" in child.stderr.read()
    child.wait()
    child.stderr.close()
    wait_until(lambda: client.machines(all=True) == [], "the end of the machine")


FORKS = """
import cove, os
with cove.machine("bb", ["sleep", "1000"]) as machine:
    child = os.fork()
    if not child:
        print(cove.run("bb", ["echo", "of the child"]).text, end="", flush=True)
        machine.exec(["true"], check=True)
        machine.close()
        raise SystemExit(3)  # leaves the with block too
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    print(machine.exec(["echo", "still there"]).text, end="")
assert cove.machines(all=True) == []
"""


def test_a_fork_ends_nothing_of_its_parents(cove: Cove) -> None:
    assert python(cove, FORKS) == "of the child\nstill there\n"


def test_a_childs_copy_of_the_link_keeps_no_machine(cove: Cove) -> None:
    program = """
import cove, os
r, w = os.pipe()
process = cove.popen("bb", ["sleep", "1000"])
child = os.fork()
if not child:
    os.close(w)
    os.read(r, 1)
    os._exit(0)
process.close()
while cove.machines(all=True):
    pass
os.write(w, b"x")
os.waitpid(child, 0)
os.close(r); os.close(w)
print("gone")
"""
    assert python(cove, program) == "gone\n"


# ---- elsewhere ----


def test_another_namespace_is_served_over_http(cove: Cove, client: Client) -> None:
    need("unshare")
    program = """
import cove
print(cove.run("bb", ["cat"], stdin=b"x" * 100000).stdout == b"x" * 100000)
with cove.machine("bb", ["sleep", "1000"]) as m:
    print(m.exec(["sh", "-c", "echo in; exit 3"]))
    m.put(b"data", "/tmp/f")
    print(m.get("/tmp/f"), m.stats().pids)
    print([c.data for c in m.exec_stream(["echo", "s"])])
try:
    cove.run("bb", ["nope"])
except cove.NotFound as error:
    print(error)
print(cove.run("bb", ["dd", "if=/dev/zero", "of=/dev/null", "bs=200M"], memory="32m").reason.kind)
print(cove.run("bb", ["yes"], max_output=100).reason.kind)
"""
    said = python(cove, program, "unshare", "--mount").splitlines()
    assert said[0] == "True"
    assert said[1].startswith("Result(stdout=b'in\\n', stderr=b'', exit_code=3")
    assert said[2:4] == ["b'data' 1", "[b's\\n']"]
    assert said[4].startswith('cannot run "nope"')
    assert said[5:] == ["oom", "output"]
    wait_until(lambda: client.machines(all=True) == [], "the end of the machines")


def test_a_host_is_a_socket_of_the_api(cove: Cove) -> None:
    client = package.connect(host=f"unix://{cove.root}/run/api.sock")
    assert client.run("bb", ["echo", "hi"]).text == "hi\n"
    with pytest.raises(package.Unsupported, match="only unix sockets"):
        package.connect(host="tcp://1.2.3.4:5")
    with pytest.raises(package.HostError, match="cannot connect to the daemon"):
        package.connect(host=f"unix://{cove.root}/none.sock").run("bb", ["true"])


def test_who_may_not_is_told(cove: Cove) -> None:
    need("setpriv")
    if shutil.which("python3", path="/usr/bin") is None:
        pytest.skip("needs /usr/bin/python3")
    program = (
        "import cove, sys\ntry: cove.run('bb', ['true'])\nexcept cove.CoveError as e: print(e)"
    )
    path = os.path.dirname(os.path.dirname(package.__file__))
    packages = os.path.dirname(os.path.dirname(__import__("msgspec").__file__))
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", program],
        env=cove.env | {"PYTHONPATH": f"{path}:{packages}"},
        capture_output=True,
        text=True,
    )
    if "Permission denied" in done.stderr:
        pytest.skip("needs a tree that everybody may read")
    assert "permission denied" in done.stdout


# ---- many ----


def test_many_at_once(client: Client) -> None:
    done: list[bool] = []

    def one() -> None:
        done.append(client.run("bb", ["true"]).ok)

    threads = [threading.Thread(target=one) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [True] * 200


def test_too_many_for_ones_descriptors_is_said(cove: Cove) -> None:
    program = """
import asyncio, cove, cove.aio, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
async def main():
    runs = (cove.aio.run("bb", ["sleep", "2"]) for _ in range(100))
    return await asyncio.gather(*runs, return_exceptions=True)
found = asyncio.run(main())
errors = [e for e in found if isinstance(e, BaseException)]
assert errors and len(errors) < 100
assert all(isinstance(e, cove.HostError) for e in errors), errors
print(errors[0].message.rpartition(": ")[2], "|", errors[0].hint)
"""
    said = python(cove, program)
    assert said.startswith("too many open files | ")
    assert "ulimit -n" in said


def test_a_daemon_that_does_not_answer_can_be_left(cove: Cove, tmp_path: Path) -> None:
    """Somebody else's socket in its place: an interrupt ends the waiting."""
    import socket

    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "run/front.sock"))
        listener.listen()
        program = f"import cove; cove.connect({str(tmp_path)!r}).run('bb', ['true'])"
        child = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
        conn, _ = listener.accept()
        with conn:
            select.select([conn], [], [], 180)
            child.send_signal(signal.SIGINT)
            assert child.stderr
            assert "KeyboardInterrupt" in child.stderr.read()
            child.wait()
            child.stderr.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "the daemon ended before it answered"),
        (b"short", "the daemon ended before it answered"),
        (b"\x44\0\0\0" + bytes(12) + b"{}", "it is not an error of cove"),
        (b"\x44\0\0\0" + bytes(12) + b"not json", "cannot read the daemon's answer"),
        (b"\x43\0\0\0" + bytes(12) + b"[1]", "cannot read the daemon's answer"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, answer: bytes, said: str) -> None:
    import socket

    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "run/front.sock"))
        listener.listen()

        def serve() -> None:
            conn, _ = listener.accept()
            with conn:
                conn.recv(65536)
                if answer:
                    conn.send(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(package.HostError, match=said):
            package.connect(str(tmp_path)).version()
        thread.join()


def test_a_daemon_that_makes_way_costs_nobody_a_run(fresh_cove: Cove) -> None:
    client = package.connect(str(fresh_cove.root))
    failed: list[BaseException] = []
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            try:
                assert client.run("bb", ["echo", "x"]).text == "x\n"
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=go_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        pid = fresh_cove.daemon_pid()
        fd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGHUP)
        select.select([fd], [], [], 180)
        os.close(fd)
        wait_until(lambda: client.run("bb", ["true"]).ok, "the next daemon")
    over.set()
    for thread in threads:
        thread.join()
    assert failed == []
