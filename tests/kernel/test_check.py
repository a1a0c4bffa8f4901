"""``system check``: what somebody broke by hand is found, and mended where that loses nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.driver import ROOT, Cove, wait_until
from tests.leaks import groups_of
from tests.shared import no_scenario


def findings(cove: Cove, *words: str, code: int = 1) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        cove("system", "check", "--format", "json", *words, code=code).out
    )
    return found


def only(cove: Cove, *words: str, code: int = 1) -> dict[str, Any]:
    found = findings(cove, *words, code=code)
    assert len(found) == 1, found
    return found[0]


def layer_of(cove: Cove) -> Path:
    """The directory of ``bb``'s layer, when it is recorded for sure what it looks like."""
    cove("system", "check")
    (path,) = cove.root.glob("roots/l*/bin/probe")
    return path.parents[1]


def test_nothing_is_wrong(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "-d", "--name", "runs", "bb", "sleep", "1000")
    cove("run", "--name", "ran", "bb", "touch", "/file")
    assert cove("system", "check").out == (
        "nothing was found: the state directory is as it was recorded\n"
    )
    assert findings(cove, code=0) == []
    assert "check" in cove("system", "--help").out
    assert "it is text or json" in cove("system", "check", "--format", "xml", code=125).err


@no_scenario("it harms blobs, layers and records by hand")
def test_a_blob_with_another_byte(fresh_cove: Cove, bb_tar: Path) -> None:
    cove = fresh_cove
    (blob,) = cove.root.glob("blobs/sha256/*")
    data = bytearray(blob.read_bytes())
    data[10] ^= 1
    blob.write_bytes(data)
    found = only(cove)
    assert (found["Kind"], found["Name"]) == ("blob", f"sha256:{blob.name}")
    assert found["Problem"] == "its content is not what its digest says"
    assert "cove pull bb" in found["Hint"] and not found["Mended"]
    text = cove("system", "check", code=1).out
    assert f"blob sha256:{blob.name}: its content is not what its digest says" in text
    assert "cove system check --repair mends what can be mended" in text
    assert only(cove, "--repair", code=0)["Mended"] == "removed"
    assert "missing; image bb:latest needs it" in only(cove)["Problem"]
    assert not only(cove, "--repair")["Mended"]
    assert cove("run", "--rm", "bb", "echo", "runs").out == "runs\n"


@no_scenario("it harms blobs, layers and records by hand")
def test_a_blob_that_nobody_needs(fresh_cove: Cove) -> None:
    cove = fresh_cove
    stray = cove.root / f"blobs/sha256/{'0' * 64}"
    stray.write_text("x")
    assert only(cove)["Problem"] == "no image needs it" and stray.exists()
    cove("system", "check", "--repair")
    assert not stray.exists()


def changed(layer: Path) -> None:
    with open(layer / "bin/probe", "r+b") as file:
        file.seek(100)
        file.write(b"\xff")


def lost_file(layer: Path) -> None:
    (layer / "etc/group").unlink()


def other_owner(layer: Path) -> None:
    os.chown(layer / "etc/passwd", 1000, 1000)


def gone(layer: Path) -> None:
    shutil.rmtree(layer)


@no_scenario("it harms blobs, layers and records by hand")
@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (changed, "an entry was changed since it was unpacked"),
        (lost_file, "entries, not"),
        (other_owner, "an entry was changed since it was unpacked"),
        (gone, "its directory is missing"),
    ],
)
def test_a_layer_that_was_changed(fresh_cove: Cove, bb_tar: Path, harm: Any, problem: str) -> None:
    cove = fresh_cove
    layer = layer_of(cove)
    harm(layer)
    found = only(cove)
    assert found["Kind"] == "layer" and problem in found["Problem"]
    assert found["Means"] == "it is of bb:latest" and "cove pull bb" in found["Hint"]
    assert "marked" in only(cove, "--repair", code=0)["Mended"]
    assert only(cove)["Problem"]  # until it comes again
    cove("image", "import", str(bb_tar), "bb")
    (new,) = [p.parents[1] for p in cove.root.glob("roots/l*/bin/probe") if p.parents[1] != layer]
    assert (new / "etc/group").exists()
    if harm is not gone:
        assert only(cove)["Problem"] == "no record names this layer"
        cove("system", "check", "--repair")
        assert not layer.exists()
    assert findings(cove, code=0) == []
    assert cove("run", "--rm", "bb", "cat", "/etc/group").out.startswith("root:")


@no_scenario("it harms blobs, layers and records by hand")
def test_a_running_machine_keeps_its_layer(fresh_cove: Cove, bb_tar: Path) -> None:
    cove = fresh_cove
    layer = layer_of(cove)
    cove("run", "-d", "--name", "stands", "bb", "sleep", "1000")
    other_owner(layer)
    cove("system", "check", "--repair")
    cove("image", "import", str(bb_tar), "bb")
    found = only(cove, "--repair")
    assert (found["Problem"], found["Mended"]) == ("no record names this layer", "")
    assert "a running machine stands on it" in found["Hint"]
    assert cove("exec", "stands", "cat", "/etc/group").out.startswith("root:")
    cove.kill_daemon()  # the next one leaves it, too
    assert cove("exec", "stands", "cat", "/etc/passwd").out.startswith("root:")
    cove("rm", "-f", "stands")
    assert only(cove, "--repair", code=0)["Mended"] == "removed"


@no_scenario("it harms blobs, layers and records by hand")
def test_what_nobody_records(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "-d", "--name", "runs", "bb", "sleep", "1000")
    pid = cove.inspect("runs")["State"]["Pid"]
    for name in ("roots/l999999", "roots/u999998/fs", "machines/999997", "roots/other"):
        (cove.root / name).mkdir(parents=True)
    (cove.root / "run/999996.sock").touch()
    (cove.root / "partial/sha256-0").touch()
    groups = list(groups_of(cove.root))
    for group in groups:
        (group / "999995").mkdir()
    names = {found["Name"]: found for found in findings(cove)}
    expected = {
        "roots/l999999", "roots/u999998", "machines/999997", "roots/other", "run/999996.sock",
        "partial/sha256-0", "999995",
    }  # fmt: skip
    assert set(names) == expected
    left = {f["Name"]: f for f in findings(cove, "--repair") if not f["Mended"]}
    assert set(left) == {"roots/other"}  # whoever made it may need it
    (cove.root / "roots/other").rmdir()
    wait_until(lambda: not (cove.root / "roots/u999998").exists(), "the removal")
    assert findings(cove, code=0) == []
    assert not any((group / "999995").exists() for group in groups)
    assert cove.inspect("runs")["State"]["Pid"] == pid


@no_scenario("it harms blobs, layers and records by hand")
def test_a_machine_that_lost_what_it_wrote(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "--name", "writer", "bb", "touch", "/file")
    (upper,) = [p.parents[1] for p in cove.root.glob("roots/u*/fs/file")]
    shutil.rmtree(upper)
    found = only(cove, "--repair")
    assert (found["Kind"], found["Name"], found["Mended"]) == ("machine", "writer", "")
    assert "its writable layer is missing" in found["Problem"]


@no_scenario("it harms blobs, layers and records by hand")
def test_names_and_layers_without_a_record(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "--name", "ran", "bb", "true")
    cove.stop_daemon()
    with closing(sqlite3.connect(cove.root / "cove.db")) as db:
        db.execute("DELETE FROM layer")
        db.execute("INSERT INTO tag VALUES ('docker.io/library/lost:latest', 'sha256:00')")
        db.commit()
    found = {f["Kind"]: f for f in findings(cove)}
    assert "has no record" in found["image"]["Problem"]
    assert found["image"]["Means"] == "no machine can be made of it"
    assert found["tag"]["Name"] == "lost:latest"
    left = [f["Kind"] for f in findings(cove, "--repair") if not f["Mended"]]
    assert left == ["image"]


@no_scenario("it harms blobs, layers and records by hand")
def test_a_truncated_database_is_named_and_left_alone(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove.stop_daemon()
    path = cove.root / "cove.db"
    whole = path.read_bytes()
    os.truncate(path, len(whole) // 2)
    done = cove("system", "check", code=125)
    assert "cove.db is damaged" in done.err
    assert path.stat().st_size == len(whole) // 2
    path.write_bytes(whole)
    assert cove("run", "--rm", "bb", "echo", "back").out == "back\n"


@no_scenario("it harms blobs, layers and records by hand")
def test_progress_on_a_terminal(fresh_cove: Cove) -> None:
    script = subprocess.run(
        ["script", "-qec", f"{cove_command()} system check", "/dev/null"],
        env=fresh_cove.env, capture_output=True, timeout=180, stdin=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    assert b"\rchecking" in script.stdout.replace(b"\x1b[K", b"")
    assert b"nothing was found" in script.stdout


def cove_command() -> str:
    from tests.driver import front_path

    return str(front_path())


def documented() -> list[re.Pattern[str]]:
    """The paths in the first column of docs/state.md."""
    text = (ROOT / "docs/state.md").read_text().partition("## ")[0]
    patterns = []
    for line in text.splitlines():
        cell = line.partition(" | ")[0]
        directory = ""
        for name in re.findall(r"`([^`]+)`", cell if line.startswith("| `") else ""):
            full = name if "/" in name or not directory else f"{directory}/{name}"
            if name.startswith(("cove.db", "v")) and "/" not in name and "roots" not in cell:
                full = name
            directory = full.rstrip("/").rpartition("/")[0]
            pattern = re.escape(full.rstrip("/"))
            pattern = (
                pattern.replace("<key>", r"\d+")
                .replace("<n>", r"\d+")
                .replace("<hex>", "[0-9a-f]+")
            )
            pattern = pattern.replace("<name>", "[^/]+")
            patterns.append(re.compile(pattern + "(/.*)?" if name.endswith("/") else pattern))
    return patterns


@no_scenario("it harms blobs, layers and records by hand")
def test_every_file_of_a_used_state_directory_is_documented(fresh_cove: Cove) -> None:
    cove = fresh_cove
    script = "i=0; while [ $i -lt 9000 ]; do echo line $i of a log; i=$((i+1)); done"
    cove("run", "--name", "logs", "--log-opt", "max-size=64k", "bb", "sh", "-c", script)
    cove("run", "-d", "--name", "runs", "host", "sleep", "1000")
    cove("run", "--name", "fails", "bb", "/no/such/program", code=127)
    patterns = documented()
    assert len(patterns) > 20
    unknown = []
    for path in cove.root.rglob("*"):
        name = str(path.relative_to(cove.root))
        if re.match(r"roots/[lu]\d+/(fs/|work|[vw]\d|[^w])|roots/l\d+/", name):
            continue  # what images and machines wrote
        parents = any(p.pattern.startswith(re.escape(name) + "/") for p in patterns)
        tops = {"machines", "roots", "run", "blobs", "partial", "tmp", "kernels"}
        inside = re.fullmatch(r"roots/v[0-7]|machines/\d+|roots/[lu]\d+|blobs/sha256", name)
        if not (parents or inside or name in tops or any(p.fullmatch(name) for p in patterns)):
            unknown.append(name)
    assert not unknown
