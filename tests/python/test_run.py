"""cove.run: bytes as they were, limits, causes, errors with the command's own words."""

from __future__ import annotations

import io
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

import cove as package
from cove import Client, CoveError
from tests.driver import Cove

EVERY_BYTE = bytes(range(256)) * 40


def test_output_exit_code_and_reason(client: Client) -> None:
    done = client.run("bb", ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.stdout, done.stderr, done.exit_code) == (b"out\n", b"err\n", 3)
    assert done.reason.kind == "exit"
    assert done.duration > 0
    assert not done.ok
    assert (done.text, done.error_text) == ("out\n", "err\n")


def test_bytes_are_kept(client: Client) -> None:
    done = client.run("bb", ["cat"], stdin=EVERY_BYTE)
    assert done.stdout == EVERY_BYTE
    assert client.run("bb", ["sh", "-c", "cat >&2"], stdin=EVERY_BYTE).stderr == EVERY_BYTE


def test_text_of_bytes_that_are_no_text(client: Client) -> None:
    assert client.run("bb", ["printf", r"a\377b"]).text == "a\ufffdb"


@pytest.mark.parametrize("size", [1, 65_536, 8_000_000])
def test_input_of_any_size_comes_back(client: Client, size: int) -> None:
    data = os.urandom(size)
    assert client.run("bb", ["cat"], stdin=data).stdout == data


def test_input_from_everything_that_is_one(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(EVERY_BYTE)
    with open(path, "rb") as file:
        assert client.run("bb", ["cat"], stdin=file).stdout == EVERY_BYTE
    assert client.run("bb", ["cat"], stdin=io.BytesIO(EVERY_BYTE)).stdout == EVERY_BYTE
    assert client.run("bb", ["cat"], stdin=io.StringIO("ä\n")).stdout == "ä\n".encode()
    assert client.run("bb", ["cat"], stdin="ä\n").text == "ä\n"
    with open(os.devnull, "rb") as null:
        assert client.run("bb", ["cat"], stdin=null).stdout == b""


def test_input_from_a_pipe_that_somebody_writes_to(client: Client) -> None:
    reader, writer = os.pipe()

    def write() -> None:
        with open(writer, "wb") as file:
            for _ in range(100):
                file.write(b"line\n")
                file.flush()

    thread = threading.Thread(target=write)
    thread.start()
    with open(reader, "rb") as file:
        assert client.run("bb", ["cat"], stdin=file).stdout == b"line\n" * 100
    thread.join()


def test_a_pipe_that_says_nothing_keeps_nobody_from_ending(client: Client) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as file:
        assert client.run("bb", ["sh", "-c", "echo over"], stdin=file).text == "over\n"
    os.close(writer)


def test_input_that_nobody_reads(client: Client) -> None:
    done = client.run("bb", ["sh", "-c", "exit 4"], stdin=b"x" * 4_000_000)
    assert (done.exit_code, done.reason.kind) == (4, "exit")


def test_without_input_there_is_an_end_at_once(client: Client) -> None:
    assert client.run("bb", ["cat"]).ok


# ---- limits and causes ----


@pytest.mark.parametrize("memory", ["32m", 32 << 20])
def test_memory_that_runs_out(client: Client, memory: int | str) -> None:
    done = client.run("bb", ["dd", "if=/dev/zero", "of=/dev/null", "bs=200M"], memory=memory)
    assert (done.reason.kind, done.exit_code, done.reason.limit) == ("oom", 137, 32 << 20)
    assert done.reason.process == "dd"
    assert "out of memory" in done.reason.text


def test_processes_that_run_out(client: Client) -> None:
    many = "for i in 1 2 3 4 5 6 7 8 9; do sleep 60 & done; wait"
    assert client.run("bb", ["sh", "-c", many], pids=4).reason.kind == "pids"


@pytest.mark.parametrize("timeout", [2, "2000ms"])
def test_time_that_runs_out(client: Client, timeout: float | str) -> None:
    done = client.run("bb", ["sh", "-c", "echo first; sleep 60"], timeout=timeout)
    assert (done.reason.kind, done.exit_code, done.stdout) == ("timeout", 137, b"first\n")


def test_storage_that_runs_out(client: Client) -> None:
    fill = ["sh", "-c", "dd if=/dev/zero of=/f bs=1M count=64; sleep 60"]
    assert client.run("bb", fill, storage="16m").reason.kind == "storage"


def test_a_signal(client: Client) -> None:
    done = client.run("bb", ["sh", "-c", "sh -c 'kill -SEGV $$'; exit $?"])
    assert (done.exit_code, done.reason.kind) == (139, "exit")
    done = client.run("bb", ["sh", "-c", "kill -9 $$"], init=True)
    assert done.exit_code == 137


def test_output_without_an_end(client: Client) -> None:
    done = client.run("bb", ["yes"], max_output="1m", name="talker")
    assert (len(done.stdout), done.reason.kind, done.exit_code) == (1 << 20, "output", 137)
    assert done.reason.limit == 1 << 20
    assert "1m" in done.reason.text
    client.run("bb", ["true"], name="talker")  # the name is free: the machine was ended


def test_stdout_and_stderr_share_the_limit(client: Client) -> None:
    done = client.run("bb", ["sh", "-c", "yes | head -c 600; yes >&2"], max_output=1000)
    assert len(done.stdout) + len(done.stderr) == 1000


def test_as_much_output_as_is_allowed(client: Client) -> None:
    done = client.run("bb", ["head", "-c", "1000", "/dev/zero"], max_output=1000)
    assert (len(done.stdout), done.reason.kind) == (1000, "exit")


def test_options_reach_the_machine(client: Client, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("found\n")
    tmp_path.chmod(0o755)
    done = client.run(
        "bb",
        ["sh", "-c", "echo $A $B; pwd; id -u; cat /shown/here; hostname; touch /x 2>&1"],
        env={"A": "1", "B": b"2"},  # type: ignore[dict-item]
        workdir="/tmp",
        user="ada",
        volumes={str(tmp_path): "/shown:ro"},
        hostname="box",
        read_only=True,
    )
    said = done.text.splitlines()
    assert said[:5] == ["1 2", "/tmp", "1000", "found", "box"]
    assert "ead-only" in said[5]


def test_a_relative_volume_is_the_callers(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/f").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert client.run("bb", ["cat", "/m/f"], volumes=["./sub:/m"]).text == "mine"


def test_a_variable_of_the_caller(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "yes")
    assert client.run("bb", ["sh", "-c", "echo $MINE"], env={"MINE": None}).text == "yes\n"


# ---- errors ----

WRONG: list[tuple[list[str], dict[str, Any], list[str]]] = [
    (["nope"], {}, []),
    (["/etc/passwd"], {}, []),
    (["true"], {"memory": "2k"}, ["-m", "2k"]),
    (["true"], {"memory": "lots"}, ["--memory", "lots"]),
    (["true"], {"user": "nobody-here"}, ["-u", "nobody-here"]),
    (["true"], {"network": "moon"}, ["--network", "moon"]),
    (["true"], {"name": "-"}, ["--name", "-"]),
    (["true"], {"cap_add": ["FLY"]}, ["--cap-add", "FLY"]),
    (["true"], {"volumes": ["/not/here:/x:ro"]}, ["--volume", "/not/here:/x:ro"]),
    (["true"], {"timeout": "soon"}, ["--timeout", "soon"]),
]


@pytest.mark.parametrize(("argv", "options", "flags"), WRONG, ids=lambda v: " ".join(map(str, v)))
def test_an_error_says_what_the_command_says(
    cove: Cove, client: Client, argv: list[str], options: dict[str, Any], flags: list[str]
) -> None:
    said = cove("run", "--rm", *flags, "bb", *argv, code=None)
    try:
        done = client.run("bb", argv, **options)
    except CoveError as error:
        assert error.render() == said.err
        assert error.exit_code == said.returncode
    else:
        assert (done.exit_code, done.stdout.decode()) == (said.returncode, said.out)


def test_an_image_that_is_not_here(cove: Cove, client: Client) -> None:
    with pytest.raises(package.NoSuchImage) as caught:
        client.run("nowhere", ["true"], pull="never")
    said = cove("run", "--rm", "--pull", "never", "nowhere", "true", code=125)
    assert caught.value.render() == said.err


def test_a_program_that_is_not_there_has_its_class(client: Client) -> None:
    with pytest.raises(package.NotFound, match='cannot run "nope"') as caught:
        client.run("bb", ["nope"])
    assert caught.value.exit_code == 127


@pytest.mark.parametrize(
    ("argv", "options", "said"),
    [
        ("ls -l", {}, "a command is a list of words"),
        (["a\0b"], {}, "it contains a NUL character"),
        ([b"\xff"], {}, "is not UTF-8"),
        (["true", 3], {}, "3 is a int, not text"),
        (["true"], {"memori": "5m"}, "no such option"),
        (["true"], {"publish": ["80:99999"]}, 'cannot read published port "80:99999"'),
        (["true"], {"env": {"A": "\0"}}, "it contains a NUL character"),
        (["true"], {"pull": "now"}, "it is missing, always or never"),
        (["true"], {"stdin": 5}, "a int is neither bytes, text nor a file"),
        (["true"], {"tty": True}, "no such option"),
    ],
)
def test_what_cannot_be_asked_for(
    client: Client, argv: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(CoveError, match=said):
        client.run("bb", argv, **options)


@pytest.mark.parametrize("image", ["", "\0", "UPPER", "a b", "\udcff", "x" * 5000, "../../etc"])
def test_hostile_names_of_images(client: Client, image: str) -> None:
    with pytest.raises(CoveError) as caught:
        client.run(image, ["true"], pull="never")
    assert "bug" not in caught.value.message


def test_a_command_line_larger_than_a_message(client: Client) -> None:
    words = ["x" * 100_000] * 5
    assert client.run("bb", ["sh", "-c", "echo $#", "sh", *words]).text == "5\n"
    with pytest.raises(CoveError):
        client.run("bb", ["true", "x" * (20 << 20)])


def test_check_tells_what_happened(client: Client) -> None:
    with pytest.raises(package.Failed, match=r"cannot run sh -c .*: exit code 3") as caught:
        client.run("bb", ["sh", "-c", "echo why >&2; exit 3"], check=True)
    assert caught.value.host == "why"
    assert isinstance(caught.value.result, package.Result)
    assert caught.value.result.stderr == b"why\n"
    assert client.run("bb", ["true"], check=True).ok


def test_a_run_leaves_no_descriptor_and_no_machine(cove: Cove, client: Client) -> None:
    client.run("bb", ["true"])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        client.run("bb", ["true"])
        client.run("bb", ["yes"], max_output=10)
        with pytest.raises(CoveError):
            client.run("bb", ["nope"])
    assert len(os.listdir("/proc/self/fd")) == before
    for machine in client.machines(all=True):
        machine.close()


def test_threads_share_a_client(client: Client) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def one(number: int) -> bool:
        return client.run("bb", ["echo", str(number)]).text == f"{number}\n"

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(200)))


def test_an_open_temporary_file_is_read_from_where_it_stands(client: Client) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"skipped kept")
        file.flush()
        os.lseek(file.fileno(), 8, os.SEEK_SET)
        assert client.run("bb", ["cat"], stdin=file).stdout == b"kept"
