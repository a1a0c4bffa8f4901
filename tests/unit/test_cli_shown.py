"""What commands print of machines and images: ps, logs, inspect, images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cove.engine import calls
from cove.errors import NotFound
from cove.spec.machine import MachineSpec
from cove.store.records import Endpoint, ImageRecord, Published
from tests.unit.commands import Cove, machine

SERVES: dict[str, Any] = {
    "published": (Published(1, "127.0.0.1", 8086, 80), Published(2, "127.0.0.1", 5300, 53, "udp")),
    "exposed": ("90/tcp",),
    "endpoints": (Endpoint("n", "bridge", "cv1", 0, "10.0.0.2/24", "10.0.0.1", "02::1"),),
}
MACHINES = (
    machine(4, state="exited", exit_code=3, spec=MachineSpec("debian:12", labels={"a": "1"})),
    machine(3, state="created", name="web-api", exposed=("90/tcp",)),
    machine(2, spec=MachineSpec("busybox:latest", labels={"a": "1", "b": "2"})),
    machine(1, **SERVES),
)


def listed(params: calls.List) -> calls.Listed:
    running = ("running", "paused")
    return calls.Listed(tuple(m for m in MACHINES if params.all or m.state in running))


PS = [
    ((), "m2 m1"),
    (("-a",), "m4 web-api m2 m1"),
    (("-l",), "m4"),
    (("-n", "2"), "m4 web-api"),
    (("-f", "status=created"), "web-api"),
    (("-f", "status=created", "-f", "status=exited"), "m4 web-api"),
    (("-a", "-f", "name=web"), "web-api"),
    (("-a", "-f", "name=^/m"), "m4 m2 m1"),
    (("-a", "-f", "label=a"), "m4 m2"),
    (("-a", "-f", "label=a=1", "-f", "label=b"), "m2"),
    (("-a", "-f", "exited=3"), "m4"),
    (("-a", "-f", "ancestor=busybox"), "web-api m2 m1"),
    (("-a", "-f", "ancestor=debian:12"), "m4"),
    (("-a", "-f", "before=m2"), "m1"),
    (("-a", "-f", "since=m2"), "m4 web-api"),
    (("-f", "since=m1"), "m2"),
    (("-a", "-f", "id=000000000003"), "web-api"),
    (("-a", "-f", "network=none", "-f", "isolation=container"), "m4 web-api m2 m1"),
    (("-a", "-f", "id="), ""),
    (("-a", "-f", "publish=8086"), "m1"),
    (("-a", "-f", "publish=8080-8090/tcp"), "m1"),
    (("-a", "-f", "publish=8086/udp"), ""),
    (("-a", "-f", "publish=80", "-f", "publish=53/udp"), ""),
    (("-a", "-f", "expose=90"), "m1"),
    (("-a", "-f", "expose=53/udp"), "m1"),
    (("-a", "-f", "expose=8086"), ""),
]


@pytest.mark.parametrize(("args", "names"), PS)
def test_ps_filters(cove: Cove, args: tuple[str, ...], names: str) -> None:
    ran = cove("ps", *args, "--format", "{{.Names}}", answers={"machine.list": listed})
    assert ran.out.split() == names.split(), ran.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-f", "stats=x"), "did you mean status?"),
        (("-f", "status=runing"), "did you mean running?"),
        (("-f", "running"), 'cannot read filter "running": not NAME=VALUE'),
        (("-a", "-f", "exited=x"), "the value is an exit code"),
        (("-f", "before=nobody"), "no such machine"),
        (("-f", "publish=x"), '"x" is no port'),
        (("--format", "{{.Nmaes}}"), "did you mean Names?"),
        (("extra",), 'cannot read "extra": cove ps takes no more words'),
    ],
)
def test_ps_says_what_is_wrong(cove: Cove, args: tuple[str, ...], message: str) -> None:
    ran = cove("ps", *args, answers={"machine.list": listed})
    assert ran.code == 125
    assert message in ran.err


def test_ps_quiet_and_whole(cove: Cove) -> None:
    answers = {"machine.list": listed}
    assert cove("ps", "-q", answers=answers).out.split() == [m.id[:12] for m in MACHINES[2:]]
    whole = cove("ps", "-q", "--no-trunc", answers=answers).out.split()
    assert whole == [m.id for m in MACHINES[2:]]
    assert cove("ps", answers=answers).out.splitlines()[0].startswith("MACHINE ID")


def imaged(params: calls.ImageList) -> calls.Images:
    one = ImageRecord("sha256:" + "1" * 64, {}, (), 5, 2.0)
    two = ImageRecord("sha256:" + "2" * 64, {}, (), 5, 1.0)
    return calls.Images(
        (calls.Image(one, ("oci:1", "web:1", "web:2")), calls.Image(two, ("web:0",)))
    )


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (("web",), "web:1 web:2 web:0"),
        (("web:1",), "web:1"),
        (("o*",), "oci:1"),
        (("-f", "reference=web", "-f", "since=web:0"), "web:1 web:2"),
        (
            (
                "-f",
                "before=oci:1",
            ),
            "web:0",
        ),
    ],
)
def test_images_are_shown_by_the_names_asked_for(
    cove: Cove, args: tuple[str, ...], shown: str
) -> None:
    ran = cove(
        "images", *args, "--format", "{{.Repository}}:{{.Tag}}", answers={"image.list": imaged}
    )
    assert ran.out.split() == shown.split(), ran.err


def entries(params: calls.Logs) -> Iterator[calls.LogEntry]:
    yield calls.LogEntry(1_700_000_000_000_000_000, 1, b"one\ntw")
    yield calls.LogEntry(1_700_000_001_000_000_000, 2, b"err\xff\n")
    yield calls.LogEntry(1_700_000_002_500_000_000, 1, b"o\n\x1b[31mred\x1b[0m\x1b]0;x\x07\n")


def test_logs(cove: Cove) -> None:
    answers = {"machine.logs": entries}
    ran = cove("logs", "--tail", "5", "-f", "m", answers={"machine.logs": lambda p: iter(())})
    asked = calls.Logs("m", follow=True, tail=5, notes=True, merged=True, positions=True)
    assert ran.asked == [("machine.logs", asked)]
    stamped = cove(
        "logs", "-t", "m", "--raw", answers={"machine.logs": lambda p: [*entries(p)][::2]}
    )
    assert stamped.out.splitlines()[:2] == [
        "2023-11-14T22:13:20.000000000Z one",
        "2023-11-14T22:13:20.000000000Z two",
    ]
    tame = cove("logs", "m", terminals=2, answers={"machine.logs": lambda p: [*entries(p)][::2]})
    assert tame.out == "one\ntwo\n\x1b[31mred\x1b[0m^[]0;x\\x07\n"
    assert "not a moment" in cove("logs", "--since", "yesterday", "m", answers=answers).err


def test_inspect_machines_and_images(cove: Cove) -> None:
    def find(params: calls.Inspect) -> calls.Inspected:
        if params.machine == "m":
            return calls.Inspected(machine())
        raise NotFound(f"cannot find {params.machine}")

    def image(params: calls.ImageInspect) -> calls.Image:
        if params.image == "i":
            return calls.Image(ImageRecord("sha256:aa", {}, (), 5, 0.0), ("i:latest",))
        raise NotFound(f"cannot find the image {params.image}")

    answers: dict[str, Callable[[Any], Any]] = {"machine.inspect": find, "image.inspect": image}
    both = cove("inspect", "m", "i", "--format", "{{.Id}}", answers=answers)
    assert both.out.split() == [machine().id, "sha256:aa"]
    ran = cove("inspect", "m", "nobody", answers=answers)
    assert msgspec.json.decode(ran.out)[0]["Name"] == "/m1"
    assert "cannot inspect nobody: no machine or image has this name" in ran.err
    assert ran.code == 1
    assert cove("inspect", "--type", "image", "m", answers=answers).out == "[]\n"
    assert (
        cove("image", "inspect", "i", "-f", "{{.RepoTags}}", answers=answers).out == "[i:latest]\n"
    )


def test_images_load_import_rmi(cove: Cove, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x")

    def loaded(params: Any) -> Iterator[calls.Progress]:
        yield calls.Progress("unpacking", "abc", 1, 2)
        yield calls.Progress("unpacking", "abc", 2, 2)
        yield calls.Progress("done", image="sha256:aa", tags=("i:1",))

    answers: dict[str, Callable[[Any], Any]] = {"image.load": loaded, "image.import": loaded}
    ran = cove("load", "-i", "a.tar", answers=answers)
    assert (ran.out, ran.err) == ("Loaded image: i:1\n", "abc: unpacking\n")
    assert cove("load", "-q", "a.tar", answers=answers).err == ""
    ran = cove("image", "import", "-c", "CMD sh", "a.tar", "i:1", answers=answers)
    assert ran.out == "sha256:aa\n"
    assert ran.asked[0][1].changes == ("CMD sh",)
    assert "no such file or directory" in cove("load", "-i", "b.tar", answers=answers).err
    assert "cannot load from your terminal" in cove("load", terminals=1, answers=answers).err
    assert "does not download" in cove("import", "http://x/y.tar", answers=answers).err
    removed = {"image.remove": lambda p: calls.ImageRemoved(("i:1",), ("sha256:aa",))}
    assert cove("rmi", "i", answers=removed).out == "Untagged: i:1\nDeleted: sha256:aa\n"


def test_dockers_other_spellings(cove: Cove) -> None:
    answers = {"machine.list": listed}
    ps = cove("ps", "-a", answers=answers).out
    for argv in (("container", "ls", "-a"), ("container", "ps", "-a"), ("machine", "list", "-a")):
        assert cove(*argv, answers=answers).out == ps
    assert cove("container", "run", "host").asked[0][0] == "machine.run+"
    assert cove("image", "ls").asked == cove("images").asked
