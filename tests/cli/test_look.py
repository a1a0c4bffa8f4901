"""``ps inspect logs images``: real machines in Docker's columns, filters and templates."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.driver import Cove, wait_until


@pytest.fixture(scope="module")
def two(cove: Cove) -> Iterator[dict[str, str]]:
    """A machine that runs, ``look-up``, and one that ended with 3, ``look-gone``: name to id."""
    up = cove(
        "run", "-d", "--name", "look-up", "-l", "com.example.kind=web", "-m", "64m", "bb",
        "sh", "-c", "echo one; echo two; echo bad >&2; sleep 1000",
    ).out.strip()  # fmt: skip
    wait_until(lambda: cove("logs", "look-up").err == "bad\n", "all that it says")
    gone = cove("run", "-d", "--name", "look-gone", "bb", "sh", "-c", "exit 3").out.strip()
    cove("wait", "look-gone")
    yield {"look-up": up, "look-gone": gone}
    cove("rm", "-f", "look-up", "look-gone")


def names(cove: Cove, *args: str) -> list[str]:
    out = cove("ps", *args, "--format", "{{.Names}}").out.split()
    return [name for name in out if name.startswith("look-")]


def test_ps(cove: Cove, two: dict[str, str]) -> None:
    assert names(cove) == ["look-up"]
    assert names(cove, "-a") == ["look-gone", "look-up"]
    assert names(cove, "-l") == ["look-gone"]
    assert names(cove, "-f", "status=exited") == ["look-gone"]
    assert names(cove, "-a", "-f", "exited=3") == ["look-gone"]
    assert names(cove, "-f", "label=com.example.kind=web") == ["look-up"]
    assert names(cove, "-a", "-f", "ancestor=bb", "-f", "name=look") == ["look-gone", "look-up"]
    assert names(cove, "-a", "-f", "before=look-gone") == ["look-up"]
    head, *rows = cove("ps", "-a", "--filter", "name=look-").out.splitlines()
    columns = ("MACHINE ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES")
    assert [head.index(column) for column in columns] == sorted(head.index(c) for c in columns)
    assert rows[0].startswith(two["look-gone"][:12])
    assert "Exited (3)" in rows[0] and "Up" in rows[1]
    assert rows[1][head.index("NAMES") :] == "look-up"


def test_ps_quiet_json_and_size(cove: Cove, two: dict[str, str]) -> None:
    ids = cove("ps", "-aq", "--no-trunc", "-f", "name=look-").out.split()
    assert ids == [two["look-gone"], two["look-up"]]
    row = json.loads(cove("ps", "--format", "json", "-f", "name=look-up").out)
    assert (row["State"], row["Image"], row["Networks"]) == ("running", "bb", "none")
    assert "virtual" in cove("ps", "-s", "-f", "name=look-up").out
    form = 'table {{.ID}}\\t{{.Label "com.example.kind"}}'
    assert cove("ps", "--format", form, "-f", "name=look-up").out == (
        f"MACHINE ID     kind\n{two['look-up'][:12]}   web\n"
    )


def test_inspect(cove: Cove, two: dict[str, str]) -> None:
    document = cove.inspect("look-up")
    assert document["Id"] == two["look-up"]
    assert document["State"]["Status"] == "running"
    assert document["HostConfig"]["Memory"] == 64 << 20
    assert document["Walls"]
    form = "{{.Name}} {{.State.Running}} {{.Config.Image}} {{json .Args}}"
    assert cove("inspect", "-f", form, "look-up").out.startswith('/look-up true bb ["-c",')
    both = cove("inspect", "-f", "{{.State.ExitCode}}", "look-gone", "look-up").out
    assert both == "3\n0\n"
    assert cove("inspect", "-f", "{{.LogPath}}", "look-up").out.startswith(str(cove.root))
    assert json.loads(cove("inspect", "--type", "image", "bb").out)[0]["RepoTags"] == ["bb:latest"]
    err = cove("inspect", "-f", "{{.Nmaes}}", "look-up", code=125).err
    assert 'there is no field "Nmaes"' in err and "from: --format {{.Nmaes}}" in err


def test_logs(cove: Cove, two: dict[str, str]) -> None:
    done = cove("logs", "look-up")
    assert (done.out, done.err) == ("one\ntwo\n", "bad\n")
    assert (
        cove("logs", "-n", "1", "look-up").out + cove("logs", "-n", "1", "look-up").err == "bad\n"
    )
    stamped = cove("logs", "-t", "look-up").out.splitlines()
    assert [line.split(" ", 1)[1] for line in stamped] == ["one", "two"]
    assert all(line[10] == "T" and line.split()[0].endswith("Z") for line in stamped)
    assert cove("logs", "--since", "1h", "look-up").out == "one\ntwo\n"
    assert cove("logs", "--until", "1h", "look-up").out == ""


def test_logs_follow_to_the_end(cove: Cove) -> None:
    fifo = "mkfifo /tmp/f; echo a; read x < /tmp/f; echo b"
    cove("run", "-d", "--name", "look-on", "bb", "sh", "-c", fifo)
    follow = cove.spawn("logs", "-f", "look-on")
    assert follow.stdout is not None
    assert follow.stdout.readline() == b"a\n"
    cove("exec", "look-on", "sh", "-c", "echo go > /tmp/f", code=None)  # its machine may end first
    assert follow.communicate()[0] == b"b\n"
    assert follow.returncode == 0
    cove("rm", "look-on")


def test_images(cove: Cove) -> None:
    head, *rows = cove("images").out.splitlines()
    assert head.split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert any(row.split()[:2] == ["bb", "latest"] for row in rows)
    assert any(row.split()[:2] == ["host", "built-in"] for row in rows)
    assert cove("images", "--format", "{{.Repository}}:{{.Tag}}", "bb").out == "bb:latest\n"
    assert (
        cove("image", "ls", "-q", "bb").out.strip()
        in cove("image", "inspect", "-f", "{{.Id}}", "bb").out
    )
    assert cove("images", "-f", "reference=b*", "--format", "{{.Repository}}").out == "bb\n"


def test_plan(cove: Cove) -> None:
    text = cove("plan", "--memory", "64m", "bb", "true").out
    assert "execve" in text and "# " in text
    assert json.loads(cove("plan", "--json", "bb", "true").out)


def test_names_and_labels_cannot_drive_the_terminal(cove: Cove) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J"
    cove("create", "--name", "look-evil", "-l", f"k={evil}", "bb", "sh", "-c", evil)
    for words in (
        ("ps", "-a", "--no-trunc", "-f", "name=look-evil"),
        ("ps", "-a", "--format", "{{.Labels}} {{.Command}}", "-f", "name=look-evil"),
    ):
        assert "\x1b" not in cove(*words).out
    assert "\x1b" not in cove("inspect", evil, code=1).err
    cove("rm", "look-evil")
