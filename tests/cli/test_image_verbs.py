"""``tag history system df`` and the prunes: Docker's columns and rules, and numbers that are
true.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pty
import re
import select
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need_root
from tests.driver import Cove, new_cove, wait_until
from tests.images.tars import Tar

STEPS = (
    {"created": "2026-01-02T03:04:05Z", "created_by": "/bin/sh -c #(nop) ADD file:0 in / "},
    {"created": "2026-01-02T03:04:06Z", "created_by": "ENV\tA=b", "empty_layer": True},
    {
        "created": "2026-01-02T03:04:07Z",
        "created_by": "RUN /bin/sh -c a command that is longer than forty-five characters",
        "comment": "buildkit",
    },
)
BASE = Tar().file("base", os.urandom(300_000)).data()


@pytest.fixture(scope="module")
def own() -> Iterator[Cove]:
    """A cove whose images are this module's alone."""
    need_root()
    driver = new_cove()
    try:
        yield driver
    finally:
        driver.close()


def archive(path: Path, layers: list[bytes], tag: str, **config: object) -> Path:
    """A docker-archive."""
    digests = ["sha256:" + hashlib.sha256(data).hexdigest() for data in layers]
    whole = {
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "os": "linux",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": digests},
        **config,
    }
    document = json.dumps(whole).encode()
    files = {f"{n}.tar": data for n, data in enumerate(layers)} | {"config.json": document}
    manifest = [{"Config": "config.json", "RepoTags": [tag] if tag else [],
                 "Layers": [f"{n}.tar" for n in range(len(layers))]}]  # fmt: skip
    with tarfile.open(path, "w") as tar:
        for name, data in (files | {"manifest.json": json.dumps(manifest).encode()}).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def loaded(own: Cove, path: Path, layers: list[bytes], tag: str = "", **config: object) -> str:
    """The id of an image of these layers."""
    said = own("load", "-q", "-i", str(archive(path, layers, tag, **config))).out
    if not tag:
        return said.split()[-1]
    return str(json.loads(own("image", "inspect", tag).out)[0]["Id"])


def rows(text: str) -> list[list[str]]:
    return [re.split(r" {2,}", line) for line in text.rstrip("\n").splitlines()]


# ---- tag ----


def test_tag(own: Cove, tmp_path: Path) -> None:
    one = loaded(own, tmp_path / "one.tar", [BASE], "one:1")
    two = loaded(own, tmp_path / "two.tar", [BASE, Tar().file("b").data()], "two:1")
    done = own("tag", "one:1", "localhost:5000/team/one")
    assert (done.out, done.err) == ("", "")
    own("image", "tag", one[7:19], "other:2")
    form = "{{.Repository}}:{{.Tag}}"
    tags = own("images", "--format", form).out.split()
    assert {"one:1", "localhost:5000/team/one:latest", "other:2"} <= set(tags)
    own("tag", "two:1", "other:2")  # moved
    assert own("images", "-q", "--no-trunc", "other:2").out.strip() == two
    own("tag", two, "two:1")  # what it is called already
    own("rmi", "localhost:5000/team/one", "other:2", "one:1", "two:1")


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (("nosuch", "a"), 'cannot find image "nosuch"', 1),
        (("box:1", "UP"), "must be lowercase", 125),
        (("box:1", "a b"), "it is not [HOST[:PORT]/]NAME", 125),
        (("box:1", "a@sha256:" + "a" * 64), "it has a digest", 125),
        (("box:1", "a" * 64), "64 hexadecimal digits are an image id", 125),
        (("box:1", "host"), '"host" is built in', 125),
        (("host", "mine"), "cannot tag host as mine:latest: it is built in", 125),
        (("box:1",), "NAME is missing", 125),
    ],
)
def test_what_tag_refuses(
    own: Cove, tmp_path: Path, words: tuple[str, ...], message: str, code: int
) -> None:
    loaded(own, tmp_path / "box.tar", [BASE], "box:1")
    before = own("images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").out
    done = own("tag", *words, code=code)
    assert message in done.err
    assert own("images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").out == before
    own("rmi", "box:1")


# ---- history ----


def test_history(own: Cove, tmp_path: Path) -> None:
    layers = [BASE, Tar().file("more", bytes(5000)).data()]
    image = loaded(own, tmp_path / "h.tar", layers, "hist:1", history=STEPS)
    head, *lines = rows(own("history", "hist:1").out)
    assert head == ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]
    assert [line[0] for line in lines] == [image[7:19], "<missing>", "<missing>"]
    assert [line[3] for line in lines] == ["5kB", "0B", "300kB"]
    assert lines[0][2] == "RUN /bin/sh -c a command that is longer than…"
    assert len(lines[0][2]) == 45 and lines[0][4] == "buildkit"
    assert lines[1][2] == "ENV A=b"
    assert lines[2][1].endswith(" ago")
    full = rows(own("history", "--no-trunc", "hist:1").out)[1]
    assert full[0] == image and full[2] == STEPS[2]["created_by"]
    exact = rows(
        own(
            "history",
            "--human=false",
            "hist:1",
        ).out
    )
    assert exact[0][1] == "CREATED AT"
    assert [line[3] for line in exact[1:]] == ["5000", "0", "300000"]
    zone = {"TZ": "UTC"}
    said = own("history", "-H=false", "--format", "{{.CreatedAt}}", "hist:1", env=zone).out
    assert said.split()[0] == "2026-01-02T03:04:07Z"
    assert own("history", "-q", "hist:1").out.split() == [image[7:19], "<missing>", "<missing>"]
    assert own("image", "history", "-q", "--no-trunc", "hist:1").out.split()[0] == image
    row = json.loads(own("history", "--format", "json", "hist:1").out.splitlines()[0])
    assert sorted(row) == ["Comment", "CreatedAt", "CreatedBy", "CreatedSince", "ID", "Size"]
    assert own("history", "--format", "{{.ID}}|{{.Size}}", image[7:15]).out.splitlines()[2] == (
        "<missing>|300kB"
    )
    assert 'cannot find image "nosuch"' in own("history", "nosuch", code=1).err
    own("rmi", "hist:1")


def test_a_history_that_does_not_fit(own: Cove, tmp_path: Path) -> None:
    """Of strangers: more steps than layers, fewer, and what is no step at all."""
    for number, history in enumerate(
        (None, [], "x", [5, {"created": "never", "created_by": 7}], [*STEPS, *STEPS])
    ):
        name = f"odd:{number}"
        loaded(own, tmp_path / "odd.tar", [BASE], name, history=history)
        out = own("history", "--format", "{{.Size}} {{.CreatedSince}}", name).out.splitlines()
        assert sum(line.startswith("300kB") for line in out) == 1
        own("rmi", name)


def test_a_history_drives_no_terminal(own: Cove, tmp_path: Path) -> None:
    history = [{"created_by": "\x1b]0;owned\x07\nRUN x", "comment": "\x1b[31m"}]
    loaded(own, tmp_path / "esc.tar", [BASE], "esc", history=history)
    for words in ((), ("--no-trunc",), ("--format", "{{.CreatedBy}} {{.Comment}}")):
        assert "\x1b" not in own("history", *words, "esc").out
    own("rmi", "esc")


# ---- df ----


def usage(path: Path) -> int:
    return int(subprocess.check_output(["du", "-s", "-x", "-B1", path]).split()[0])


def parsed(text: str) -> int:
    number, unit = re.fullmatch(r"([0-9.]+)([kMG]?B)", text).groups()  # type: ignore[union-attr]
    return round(float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit])


def layer_bytes(own: Cove) -> int:
    """Of every layer, and of what its archive is made of again."""
    files = sum(path.stat().st_blocks * 512 for path in (own.root / "recipes").iterdir())
    return files + sum(usage(path) for path in (own.root / "roots").glob("l*"))


def close(text: str, size: int) -> bool:
    """To the four digits that are shown."""
    return abs(parsed(text) - size) <= max(1, size // 1000)


def test_df(own: Cove, tmp_path: Path) -> None:
    """Shared layers once, what is allocated, and only what nothing is made of can be had back."""
    own("system", "prune", "-af")
    shared, top = Tar().file("s", os.urandom(2_000_000)).data(), os.urandom(700_000)
    loaded(own, tmp_path / "a.tar", [shared], "a:1")
    loaded(own, tmp_path / "b.tar", [shared, Tar().file("t", top).data()], "b:1")
    own("tag", "b:1", "b:2")
    own("create", "--name", "user", "a:1", "x")
    own("images")  # makes the built-in one, if it is not
    form = "{{.Type}}|{{.TotalCount}}|{{.Active}}|{{.Size}}|{{.Reclaimable}}"
    images, machines, volumes, cache = (
        line.split("|") for line in own("system", "df", "--format", form).out.splitlines()
    )
    layers = layer_bytes(own)
    assert images[:3] == ["Images", "3", "1"] and close(images[3], layers)
    free, part = images[4].split()
    (unique,) = [
        line.split()[1]
        for line in own("system", "df", "-v", "--format",
                        "{{range .Images}}{{.Repository}}:{{.Tag}} {{.UniqueSize}}\n{{end}}"
                        ).out.splitlines()
        if line.startswith("b:1")
    ]  # fmt: skip
    assert free == unique and 700_000 <= parsed(free) < 750_000
    assert part == f"({parsed(free) * 100 // layers}%)"
    assert machines[:3] == ["Containers", "1", "0"]
    assert volumes == ["Local Volumes", "0", "0", "0B", "0B"]
    assert cache == ["Build Cache", "0", "0", "0B", "0B"]
    text = own("system", "df", "-v").out
    assert [line for line in text.splitlines() if line.endswith(("usage:", "0B"))][:2] == [
        "Images space usage:",
        "Containers space usage:",
    ]
    table = {tuple(row[:2]): row for row in rows(text.partition("\n\nCont")[0])}
    assert table["REPOSITORY", "TAG"][5:] == ["SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"]
    assert table["a", "1"][6] == "0B" and table["a", "1"][7] == "1"
    assert table["a", "1"][5] == table["b", "1"][5] == table["b", "2"][5]
    head, *lines = own("system", "df").out.splitlines()
    assert head == "TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE"
    assert [line[:16].rstrip() for line in lines] == [
        "Images", "Containers", "Local Volumes", "Build Cache",
    ]  # fmt: skip
    document = json.loads(own("system", "df", "-v", "--format", "json").out)
    assert [row["Names"] for row in document["Containers"]] == ["user"]
    assert (document["Volumes"], document["BuildCache"]) == ([], [])
    own("rm", "user")
    pruned = own("image", "prune", "-af").out
    assert close(pruned.splitlines()[-1].rpartition(" ")[2], layers - host_layer(own))
    assert "untagged: b:2" in pruned.splitlines()


def host_layer(own: Cove) -> int:
    """What is left when nothing else is."""
    return layer_bytes(own)


def test_df_of_what_machines_wrote(cove: Cove) -> None:
    cove("run", "-d", "--name", "df-up", "bb", "sh", "-c",
         "head -c 3000000 /dev/urandom >/big; echo done; exec sleep 1000")  # fmt: skip
    try:
        wait_until(lambda: "done" in cove("logs", "df-up").out)
        form = "{{range .Containers}}{{.Names}} {{.Size}} {{.Image}} {{.LocalVolumes}}\n{{end}}"
        seen = cove("system", "df", "-v", "--format", form).out.splitlines()
        (row,) = [line.split() for line in seen if line.startswith("df-up")]
        assert 3_000_000 <= parsed(row[1]) < 3_300_000 and row[2:] == ["bb", "0"]
        line = cove("system", "df", "--format", "{{.Type}}|{{.Active}}|{{.Reclaimable}}").out
        active = line.splitlines()[1].split("|")[1]
        assert int(active) >= 1
        cove("kill", "df-up")
        cove("wait", "df-up")
        free = cove("system", "df", "--format", "{{.Reclaimable}}").out.splitlines()[1]
        assert parsed(free.split()[0]) >= 3_000_000
    finally:
        cove("rm", "-f", "df-up")


# ---- prune ----

DANGLING = "WARNING! This will remove all dangling images.\n"
ASKED = "Are you sure you want to continue? [y/N] "


def test_prune_asks(own: Cove, tmp_path: Path) -> None:
    image = loaded(own, tmp_path / "p.tar", [BASE, Tar().file("p").data()])
    for answer in ("", "n\n", "yes\n", "\n"):
        assert own("image", "prune", stdin=answer).out == DANGLING + ASKED
    assert image[7:19] in own("images", "-q").out
    said = own("image", "prune", stdin="Y\nignored").out
    assert said.startswith(f"{DANGLING}{ASKED}Deleted Images:\ndeleted: {image}\ndeleted: sha256:")
    lines = said.splitlines()
    assert lines[-2] == "" and lines[-1].startswith("Total reclaimed space: 3")
    assert image[7:19] not in own("images", "-q").out
    assert own("image", "prune", "-f").out == "Total reclaimed space: 0B\n"
    text = own("image", "prune", "-a").out
    assert text.splitlines()[0] == (
        "WARNING! This will remove all images without at least one container associated to them."
    )


def test_the_answer_is_read_from_a_terminal(own: Cove, tmp_path: Path) -> None:
    image = loaded(own, tmp_path / "t.tar", [Tar().file("tty").data()])
    master, slave = pty.openpty()
    child = own.spawn("system", "prune", stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown, answered = b"", False
    try:
        while select.select([master], [], [], 180)[0]:
            shown += os.read(master, 65536)
            if b"[y/N]" in shown and not answered:
                answered = os.write(master, b"y\n") == 2
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(master)
    assert child.wait(180) == 0
    assert image.encode() in shown and b"Total reclaimed space: " in shown


def test_prune_with_filters(own: Cove, tmp_path: Path) -> None:
    plain = loaded(
        own, tmp_path / "1.tar", [Tar().file("1").data()], created="2020-01-01T00:00:00Z"
    )
    web = loaded(own, tmp_path / "2.tar", [Tar().file("2").data()],
                 config={"Labels": {"team": "web"}}, created="2026-01-01T00:00:00Z")  # fmt: skip

    def left() -> set[str]:
        ids = own("images", "-q", "--no-trunc").out.split()
        return {name for name, image in (("plain", plain), ("web", web)) if image in ids}

    for words in (
        ("label=team=db",), ("label=none",), ("until=2019-01-01T00:00:00Z",),
        ("label!=team", "until=2019-01-01T00:00:00Z"),
    ):  # fmt: skip
        given = [part for word in words for part in ("--filter", word)]
        assert own("image", "prune", "-f", *given).out == "Total reclaimed space: 0B\n"
    assert left() == {"plain", "web"}
    own("image", "prune", "-f", "--filter", "until=2025-01-01")
    assert left() == {"web"}
    own("image", "prune", "-f", "--filter", "label!=team")
    assert left() == {"web"}
    own("system", "prune", "-f", "--filter", "label=team=web")
    assert left() == set()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("image", "prune", "-f", "--filter", "foo=bar"), 'cannot filter by "foo"'),
        (("image", "prune", "-f", "--filter", "until=zzz"), "not a moment"),
        (("image", "prune", "-f", "--filter", "until=1h", "--filter", "until=2h"), "one is enough"),
        (("image", "prune", "-f", "--filter", "dangling=maybe"), "maybe"),
        (("system", "prune", "-f", "--filter", "dangling=true"), 'cannot filter by "dangling"'),
        (("system", "prune", "-f", "--volumes", "--filter", "until=1h"), "cannot use --volumes"),
        (("image", "prune", "x"), "takes no more words"),
        (("system", "df", "x"), "takes no more words"),
        (("system", "df", "--format", "{{.Nosuch}}"), "Nosuch"),
    ],
)
def test_what_is_wrong_is_said(own: Cove, words: tuple[str, ...], message: str) -> None:
    done = own(*words, code=125)
    assert message in done.err and done.out == ""


def test_system_prune(own: Cove, tmp_path: Path) -> None:
    """What it warns of, and that a machine's image goes with the machine."""
    own("system", "prune", "-af")
    image = loaded(own, tmp_path / "s.tar", [BASE], "s:1")
    machine = own("create", "--name", "idle", "s:1", "x").out.strip()
    assert own("system", "prune", "-a", "--volumes", "--filter", "label=x").out == (
        "WARNING! This will remove:\n"
        "  - all stopped containers\n"
        "  - all networks not used by at least one container\n"
        "  - all anonymous volumes not used by at least one container\n"
        "  - all images without at least one container associated to them\n"
        "  - all build cache\n\n"
        "  Items to be pruned will be filtered with:\n"
        "  - label=x\n\n" + ASKED
    )
    first = own("system", "prune").out
    assert "  - all dangling images\n  - unused build cache\n\n" + ASKED in first
    assert own("ps", "-aq", "--no-trunc").out.strip() == machine
    assert own("image", "prune", "-af").out == "Total reclaimed space: 0B\n"
    said = own("system", "prune", "-af").out
    assert said.startswith(
        f"Deleted Containers:\n{machine}\n\nDeleted Images:\nuntagged: s:1\ndeleted: {image}\n"
    )
    assert own("images", "-q").out.split() == ["host"]


def test_a_running_machine_keeps_its_image(cove: Cove) -> None:
    cove("run", "-d", "--name", "prune-up", "bb", "sleep", "1000")
    try:
        cove("image", "prune", "-af")
        assert cove("exec", "prune-up", "echo", "here").out == "here\n"
        cove("rmi", "-f", "bb")
        assert cove("exec", "prune-up", "echo", "here").out == "here\n"
        image = cove.inspect("prune-up")["Image"]
        assert cove("images", "-q", "--no-trunc", "--filter", "dangling=true").out.split() == [
            image
        ]
        cove("tag", image, "bb")
    finally:
        cove("rm", "-f", "prune-up")
    assert cove("run", "--rm", "bb", "echo", "again").out == "again\n"


# ---- events ----


def test_events_of_images(own: Cove, tmp_path: Path) -> None:
    """Docker's names, who they are about, and the image's labels."""
    since = str(int(time.time()))
    labels = {"team": "web"}
    image = loaded(own, tmp_path / "e.tar", [Tar().file("e").data()], config={"Labels": labels})
    own("tag", image, "ev:1")
    own("rmi", "ev:1")
    (tmp_path / "i.tar").write_bytes(Tar().file("i").data())
    made = own("image", "import", "-q", str(tmp_path / "i.tar"), "ev:2").out.strip()
    own("rmi", made)
    own("image", "prune", "-f")
    words = ("--since", since, "--until", str(int(time.time()) + 1), "--filter", "type=image")
    said = [json.loads(line) for line in own("events", *words, "--format", "json").out.splitlines()]
    seen = [
        (event["Action"], event["Actor"]["ID"], event["Actor"]["Attributes"])
        for event in said
        if event["Actor"]["ID"] in (image, made, "")
    ]
    whole = [event for event in seen if event[0] != "prune"]
    assert whole == [
        ("load", image, {"name": image} | labels),
        ("tag", image, {"name": "ev:1"} | labels),
        ("untag", image, {"name": image} | labels),
        ("delete", image, {"name": image}),
        ("tag", made, {"name": "ev:2"}),
        ("import", made, {"name": made}),
        ("untag", made, {"name": made}),
        ("delete", made, {"name": made}),
    ]
    *_, pruned = [event for event in seen if event[0] == "prune"]
    assert pruned[1:] == ("", {"reclaimed": "0"})
