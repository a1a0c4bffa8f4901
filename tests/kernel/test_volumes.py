"""Volumes of containers: who makes them, what is in them at first, and when they go."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, wait_until
from tests.kernel.settled import settled
from tests.kernel.volumes import IMAGE, LISTING, inspect, make_image, sh, volumes
from tests.shared import container_only, no_scenario

__all__ = ["settled"]

pytestmark = pytest.mark.usefixtures("settled")

HOSTILE = {
    "up": [("../../escaped", tarfile.REGTYPE, "", 0)],
    "link": [("l", tarfile.SYMTYPE, "/etc", 0), ("l", tarfile.DIRTYPE, "", 0)],
    "hard": [("h", tarfile.LNKTYPE, "/etc/shadow", 0)],
    "device": [("d", tarfile.BLKTYPE, "", 0)],
    "id": [("f", tarfile.REGTYPE, "", 65536)],
}


@pytest.fixture(scope="module")
def cove(cove: Cove, bb_tar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cove]:
    make_image(cove, bb_tar, tmp_path_factory.mktemp("keeper"))
    yield cove
    cove("rmi", "-f", IMAGE)


def test_a_volume_outlives_its_machines(cove: Cove) -> None:
    assert cove("volume", "create", "--label", "of=ada", "kept").out == "kept\n"
    assert cove("volume", "create", "kept").out == "kept\n"
    sh(cove, "echo one > /x/a; chown 1000:1000 /x/a; chmod 640 /x/a", "-v", "kept:/x")
    look = "stat -c '%u:%g %a' /x/a; cat /x/a"
    assert sh(cove, look, "-v", "kept:/x") == "1000:1000 640\none\n"
    assert sh(cove, look, "--mount", "source=kept,target=/x") == "1000:1000 640\none\n"
    assert sh(cove, look, "--privileged", "-v", "kept:/x") == "1000:1000 640\none\n"
    found = inspect(cove, "kept")
    assert found["Labels"] == {"of": "ada"} and found["Driver"] == "local"
    on_disk = os.stat(f"{found['Mountpoint']}/a")
    assert (on_disk.st_uid, on_disk.st_gid) == (1000, 1000)
    listed = cove("volume", "ls", "--format", "{{.Driver}} {{.Name}} {{.Mountpoint}}").out
    assert listed == f"local kept {found['Mountpoint']}\n"
    assert cove("volume", "ls").out == "DRIVER    VOLUME NAME\nlocal     kept\n"
    assert volumes(cove, "-f", "label=of=bob") == volumes(cove, "-f", "dangling=false") == []
    assert cove("volume", "rm", "kept").out == "kept\n"
    assert not os.path.exists(found["Mountpoint"])
    gone = cove("volume", "inspect", "kept", code=1)
    assert gone.out == "[]\n" and 'cannot find volume "kept": no such volume' in gone.err


def test_read_only_is_so(cove: Cove) -> None:
    sh(cove, "echo kept > /x/a", "-v", "ro:/x")
    for flags in (("-v", "ro:/x:ro"), ("--mount", "type=volume,src=ro,dst=/x,readonly")):
        out = sh(cove, "cat /x/a; echo no > /x/a || echo refused; rm /x/a || echo kept", *flags)
        assert out == "kept\nrefused\nkept\n"
    cove("volume", "rm", "ro")


def test_an_empty_volume_gets_what_the_image_has(cove: Cove) -> None:
    """Owners, modes, links, holes, the directory itself; and only once."""
    plain = sh(cove, LISTING, "--mount", "type=tmpfs,target=/elsewhere", image=IMAGE)
    assert ". directory 750 999:998" in plain and "/etc/passwd" in plain
    assert sh(cove, LISTING, "-v", "filled:/data", image=IMAGE) == plain
    holes = os.stat(inspect(cove, "filled")["Mountpoint"] + "/sparse")
    assert holes.st_size == 8 << 20 and holes.st_blocks * 512 < 1 << 20
    sh(cove, "rm -r /data/*; echo mine > /data/own", "-v", "filled:/data", image=IMAGE)
    assert sh(cove, "ls /data", "-v", "filled:/data", image=IMAGE) == "own\n"
    empty = sh(cove, "ls /data", "-v", "bare:/data:nocopy", image=IMAGE)
    bare = sh(cove, "ls /data", "--mount", "source=bare,target=/data,volume-nocopy", image=IMAGE)
    assert empty == bare == ""
    assert sh(cove, "ls /data", "-v", "bare:/data:ro,z", image=IMAGE).split() == [
        "deep", "file", "hard", "link", "sparse",
    ]  # fmt: skip
    assert "passwd" in sh(cove, "ls /x", "-v", "other:/x") + sh(cove, "ls /etc", "-v", "e:/etc")
    cove("volume", "rm", "filled", "bare", "other", "e")


@container_only("an image's volumes are parts of a virtual machine's disk")
def test_what_an_image_says_is_a_volume_is_the_machines_own(cove: Cove) -> None:
    cove("run", "-d", "--name", "own", IMAGE, "sleep", "1000")
    (mount,) = cove.inspect("own")["Mounts"]
    name = mount["Name"]
    assert mount == {
        "Type": "volume", "Name": name, "Source": f"{cove.root}/volumes/{name}/_data",
        "Destination": "/data", "Driver": "local", "Mode": "z", "RW": True, "Propagation": "",
    }  # fmt: skip
    assert len(name) == 64 and volumes(cove) == [name]
    assert cove("exec", "own", "cat", "/data/file").out == "of the image\n"
    cove("exec", "own", "sh", "-c", "echo mine > /data/file")
    shared = sh(cove, "cat /data/file; echo no > /data/x || echo refused",
                "--volumes-from", "own:ro")  # fmt: skip
    assert shared == "mine\nrefused\n"
    cove("restart", "-t", "0", "own")
    assert cove("exec", "own", "cat", "/data/file").out == "mine\n"
    in_use = cove("volume", "rm", name, code=1)
    assert f"cannot remove volume {name}: own has it" in in_use.err
    cove("rm", "-f", "own")
    assert volumes(cove) == [name], "as Docker: rm alone keeps them"
    pruned = cove("volume", "prune", "-f").out
    assert pruned.startswith(f"Deleted Volumes:\n{name}\n\nTotal reclaimed space: ")
    cove("run", "-d", "--name", "own", "-v", "/more", IMAGE, "sleep", "1000")
    cove("run", "--rm", "-v", "/more", IMAGE, "true")
    assert len(volumes(cove)) == 2
    cove("rm", "-fv", "own")
    assert volumes(cove) == []


def test_what_is_in_use_and_what_prune_takes(cove: Cove) -> None:
    cove("create", "--name", "user", "-v", "used:/x", "-v", "/y", "bb", "true")
    cove("volume", "create", "idle")
    anonymous = cove("volume", "create").out.strip()
    assert "user has it" in cove("volume", "rm", "used", code=1).err
    assert set(volumes(cove, "-f", "dangling=true")) == {"idle", anonymous}
    assert anonymous in cove("volume", "prune", "-f").out
    assert len(volumes(cove)) == 3
    usage = {row.split()[0]: row.split()[1:] for row in
             cove("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}").out
             .replace("Local V", "V").splitlines()}  # fmt: skip
    assert usage["Volumes"] == ["3", "2"]
    assert re.search(r"used +1 ", cove("system", "df", "-v").out)
    assert "idle" in cove("volume", "prune", "-af").out
    cove("rm", "-v", "user")
    assert volumes(cove) == ["used"], "what somebody named stays"
    cove("volume", "rm", "used")
    assert cove("volume", "rm", "-f", "used").out == ""


def test_a_part_of_a_volume(cove: Cove, tmp_path: Path) -> None:
    """A link in it, whoever made it, leads to places in it; what is swapped is not mounted."""
    script = "mkdir -p /x/in/side; echo in > /x/in/side/f; ln -s / /x/out; ln -s /in /x/round"
    sh(cove, script + "; ln -s ../../../../etc /x/up", "-v", "parts:/x")
    mount = "type=volume,source=parts,target=/p,volume-subpath="
    assert sh(cove, "cat /p/f", "--mount", mount + "in/side") == "in\n"
    assert sh(cove, "cat /p", "--mount", mount + "in/side/f") == "in\n"
    assert sh(cove, "cat /p/side/f", "--mount", mount + "round") == "in\n"
    assert sh(cove, "cat /p/in/side/f", "--mount", mount + "out") == "in\n"
    for part, why in (
        ("up", "cannot mount up of volume parts: no such directory in it"),
        ("none", "cannot mount none of volume parts: no such directory in it"),
        ("../parts", "volume-subpath is a path in the volume, without .."),
        ("/etc", "volume-subpath is a path in the volume, without .."),
    ):
        refused = cove("run", "--rm", "--mount", mount + part, "bb", "true", code=125)
        assert why in refused.err, part
    cove("create", "--name", "later", "--mount", mount + "in/side", "bb", "ls", "/p")
    (cove.root / "volumes/parts/_data/in/side").rename(tmp_path / "side")
    os.symlink("/etc", cove.root / "volumes/parts/_data/in/side")
    assert "no such directory in it" in cove("start", "later", code=1).err
    cove("rm", "later")
    cove("volume", "rm", "parts")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../x", "only letters"),
        (".hidden", "a letter or digit first"),
        ("a/b", "only letters"),
        ("n" * 256, "255 at most"),
        ("a b", "only letters"),
    ],
)
def test_names_that_are_none(cove: Cove, name: str, why: str) -> None:
    refused = cove("volume", "create", name, code=125)
    assert why in refused.err
    if "/" not in name:
        assert "volume" in cove("run", "--rm", "-v", f"{name}:/x", "bb", "true", code=125).err
    assert volumes(cove) == []


@no_scenario("no machine is made")
def test_what_is_refused_by_name(cove: Cove) -> None:
    for words, why in (
        (("volume", "create", "-d", "nfs", "v"), 'the volume driver "nfs"'),
        (("volume", "create", "-o", "o=size=1g", "v"), "no size is a word of o="),
        (("volume", "create", "-o", "type=nfs", "-o", "device=:/x", "v"), "volume of type nfs"),
        (("run", "-v", "v:/x:rshared", "bb"), "rshared does not go with a volume"),
        (("run", "--volumes-from", "nobody", "bb"), "nobody"),
        (("run", "-v", "v:/proc/x", "bb"), "/proc is the machine's own"),
    ):
        assert why in cove(*words, code=125).err, words
    assert volumes(cove) == []


def test_a_directory_of_the_host_as_a_volume(cove: Cove, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("theirs\n")
    device = ("-o", "type=none", "-o", "o=bind", "-o", f"device={tmp_path}")
    cove("volume", "create", *device, "theirs")
    assert inspect(cove, "theirs")["Mountpoint"] == str(tmp_path)
    assert sh(cove, "cat /x/f; echo > /x/g", "-v", "theirs:/x") == "theirs\n"
    cove("volume", "rm", "theirs")
    assert sorted(os.listdir(tmp_path)) == ["f", "g"], "what is not cove's stays"


def test_a_link_in_the_images_path_leads_inside(cove: Cove, tmp_path: Path) -> None:
    """The host's /etc/shadow is where a copy that follows the host's links would come from."""
    cove("run", "--name", "trap", "bb", "sh", "-c",
         "ln -s ../../../../etc /trap; ln -s /nowhere /lost; echo > /plain")  # fmt: skip
    cove("commit", "trap", "trap")
    cove("rm", "trap")
    assert "ada" in sh(cove, "cat /trap/passwd", "-v", "t:/trap", image="trap")
    assert "shadow" not in sh(cove, "ls /x", "-v", "t:/x")
    lost = cove("run", "--rm", "-v", "l:/lost", "trap", "ls", "/lost", code=None)
    assert lost.out == ""
    plain = cove("run", "--rm", "-v", "p:/plain", "trap", "true", code=125)
    assert "in the image it is no directory" in plain.err
    cove("volume", "rm", "-f", "t", "l", "p")
    cove("rmi", "trap")


def test_no_link_of_an_image_leads_a_mount_to_proc(cove: Cove) -> None:
    """The image would say what /proc is, to the machine and to whoever looks into it."""
    cove("run", "--name", "trap", "bb", "ln", "-s", "/proc", "/trap")
    cove("commit", "-c", "VOLUME /trap", "trap", "trap")
    cove("rm", "trap")
    ways: list[tuple[str, ...]] = [
        ("-v", "t:/trap/1"), ("--tmpfs", "/trap/sys"), ("-v", "/usr:/trap"),
    ]  # fmt: skip
    if cove.isolation == "container":  # of a virtual machine it is a part of its disk
        ways.append(())
    for flags in ways:
        done = cove("run", "--rm", *flags, "trap", "true", code=125)
        assert "cannot mount on /trap" in done.err
        assert "are not trusted" in done.err
    cove("volume", "rm", "-f", "t")
    cove("rmi", "trap")


@container_only("an image's volumes are parts of a virtual machine's disk")
def test_where_an_image_can_have_no_volume(cove: Cove) -> None:
    """Named, with the image; what is mounted there by who runs it decides."""
    cove("run", "--name", "plain", "bb", "true")
    for path, why in (
        ("/dev", "cannot make the volume /dev of image odd: the machine's devices are there"),
        ("/proc", 'cannot make the volume "/proc" of image odd: it is no path to mount on'),
        ("/proc/x", 'cannot make the volume "/proc/x" of image odd: it is no path to mount on'),
        ("/", 'cannot make the volume "/" of image odd: it is no path to mount on'),
    ):
        cove("commit", "-c", f"VOLUME {path}", "plain", "odd")
        for words in (("run", "--rm"), ("create",), ("plan",)):
            refused = cove(*words, "odd", "true", code=125).err
            assert why in refused and f"from: VOLUME {path} of the image" in refused, path
    cove("commit", "-c", "VOLUME /dev", "plain", "odd")
    assert cove("run", "--rm", "-v", "/dev:/dev", "odd", "ls", "/dev/null").out == "/dev/null\n"
    # Below /dev and on /sys they are what they are elsewhere, as with Docker.
    cove("commit", "-c", "VOLUME /sys", "-c", "VOLUME /dev/own", "plain", "odd")
    made = sh(cove, "touch /sys/own /dev/own/too && ls /sys", image="odd")
    assert made == "own\n"
    for flags in (("--tmpfs", "/dev"), ("-v", "v:/dev"), ("-v", "/dev")):
        refused = cove("run", "--rm", *flags, "bb", "true", code=125).err
        assert "cannot mount on /dev: the machine's devices are there" in refused, flags
    cove("rm", "plain")
    cove("rmi", "-f", "odd")
    assert volumes(cove) == []


def test_events_tell_of_volumes(cove: Cove) -> None:
    sh(cove, "true", "-v", "told:/x")
    cove("volume", "rm", "told")
    lines = cove("events", "--since", "1m", "--until", "0s", "-f", "volume=told", "--format",
                 "{{json .}}").out.splitlines()  # fmt: skip
    events = [json.loads(line) for line in lines]
    assert [event["Action"] for event in events] == ["create", "mount", "unmount", "destroy"]
    mount = events[1]["Actor"]["Attributes"]
    assert mount["destination"] == "/x" and mount["read/write"] == "true"


def test_a_fork_and_a_machine_of_a_snapshot_have_their_own(cove: Cove) -> None:
    virtual = cove.isolation == "vm"  # the image's own volume is a part of its disk
    flags = ("-v", "both:/both", *(("-v", "/data") if virtual else ()))
    cove("run", "-d", "--name", "root", *flags, IMAGE, "sleep", "1000")
    if virtual:  # what it has open is in no snapshot of its memory
        refused = cove("fork", "root", code=125).err
        assert "cannot keep the memory of root: it has /both open, which is not in it" in refused
        cove("kill", "root")
        cove("wait", "root")
    cove("snapshot", "create", "root", "then")
    fork = cove("fork", "root").out.split()[0]
    mounts = {m["Destination"]: m["Name"] for m in cove.inspect(fork)["Mounts"]}
    before = {m["Destination"]: m["Name"] for m in cove.inspect("root")["Mounts"]}
    assert mounts["/both"] == before["/both"] == "both" and mounts["/data"] != before["/data"]
    if virtual:
        cove("start", "root")
    cove("exec", "root", "sh", "-c", "echo changed > /data/file")
    out = cove("run", "--rm", "--from-snapshot", "then", "sh", "-c", "cat /data/file").out
    assert out == "of the image\n"
    cove("rm", "-fv", "root", fork)
    cove("snapshot", "rm", "then")
    assert volumes(cove) == ["both"]
    cove("volume", "rm", "both")


def test_machines_that_start_at_once_fill_a_volume_once(cove: Cove) -> None:
    """Whoever is first fills it; nobody sees a part of it."""
    script = "cat /data/file /data/deep/er/secret"
    count = 6 if cove.isolation == "container" else 3
    words = ("run", "--rm", "-v", "race:/data", IMAGE, "sh", "-c", script)
    runs = [cove.spawn(*words) for _ in range(count)]
    for process in runs:
        out, err = process.communicate(timeout=180)
        assert out == b"of the image\nhidden\n", err
    wait_until(lambda: not cove("ps", "-aq").out)
    cove("volume", "rm", "race")


def test_a_backup_is_the_volume(cove: Cove, tmp_path: Path) -> None:
    """To a file and back, through a pipe, compressed; a running machine's volume is no target."""
    tree = sh(cove, LISTING, "-v", "first:/data", image=IMAGE)
    cove("volume", "backup", "first", "-o", "b.tar", cwd=tmp_path)
    assert cove("volume", "restore", "second", "b.tar", cwd=tmp_path).out == "second\n"
    assert sh(cove, LISTING, "-v", "second:/data") == tree
    subprocess.run(["gzip", "-k", "b.tar"], cwd=tmp_path, check=True)
    with open(tmp_path / "b.tar.gz", "rb") as file:
        cove("volume", "restore", "third", "-", stdin=file.read())
    assert sh(cove, LISTING, "-v", "third:/data") == tree
    full = cove("volume", "restore", "third", "b.tar", cwd=tmp_path, code=1)
    assert "there is something in it" in full.err
    sh(cove, "rm -r /x/* && echo new > /x/new", "-v", "third:/x")
    cove("run", "-d", "--name", "user", "-v", "third:/x", "bb", "sleep", "1000")
    busy = cove("volume", "restore", "-f", "third", "b.tar", cwd=tmp_path, code=1)
    assert "a machine that runs has it" in busy.err
    cove("rm", "-f", "user")
    cove("volume", "restore", "-f", "third", "b.tar", cwd=tmp_path)
    assert sh(cove, LISTING, "-v", "third:/data") == tree
    assert cove("volume", "clone", "third", "fourth").out == "fourth\n"
    assert sh(cove, LISTING, "-v", "fourth:/data") == tree
    assert "there is a volume fourth" in cove("volume", "clone", "third", "fourth", code=1).err
    cove("volume", "rm", "first", "second", "third", "fourth")


def test_a_tar_that_is_hostile_changes_nothing(cove: Cove, tmp_path: Path) -> None:
    sh(cove, "echo kept > /x/f", "-v", "safe:/x")
    for name, entries in HOSTILE.items():
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for entry in entries:
                info = tarfile.TarInfo(entry[0])
                info.type, info.linkname, info.uid = entry[1], entry[2], entry[3]
                tar.addfile(info)
    (tmp_path / "cut.tar").write_bytes((tmp_path / "id.tar").read_bytes()[:700])
    (tmp_path / "noise.tar").write_bytes(os.urandom(4096))
    for name in (*HOSTILE, "cut", "noise"):
        for target in ("safe", "fresh"):
            flags = ("-f", target, f"{name}.tar")
            refused = cove("volume", "restore", *flags, cwd=tmp_path, code=1)
            assert f"cannot restore volume {target}: " in refused.err, name
    assert volumes(cove) == ["safe"]
    assert sh(cove, "ls -A /x; cat /x/f", "-v", "safe:/x") == "f\nkept\n"
    cove("volume", "rm", "safe")


@container_only("a guest's volumes come by virtiofsd, which makes no devices")
def test_a_device_that_was_left_in_a_volume_is_shut(cove: Cove) -> None:
    """A privileged machine may make one; no other opens it, whatever it may do to its files."""
    sh(cove, "mknod -m 666 /x/null c 1 3 && cat /x/null", "--privileged", "-v", "left:/x")
    look = "exec 2>&1; test -c /x/null; cat /x/null; (echo >/x/null); true"
    for flags in ((), ("--cap-add", "ALL"), ("--userns", "host")):
        said = sh(cove, look, *flags, "-v", "left:/x")
        assert said.count("Permission denied") == 2, said
    assert sh(cove, look, "--privileged", "-v", "left:/x") == ""
    cove("volume", "rm", "left")
