"""``diff``, ``export`` and ``commit``: what a machine changed; what runs from it is the same."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator

import pytest

from tests.driver import Cove, front_path, wait_until

SCRIPT = r"""
mkdir -p /new/deep; echo a >/new/deep/f; ln /new/deep/f /new/hard
echo x >>/etc/passwd; rm /etc/group
rm -r /home; mkdir /home; echo q >/home/new
rm -r /var; touch /bin/zz; chmod 700 /root; mkfifo /tmp/ff; ln -s /etc/passwd /tmp/ln
rm /bin/vi; mkdir /bin/vi; echo dir >/bin/vi/now
chown 1000:1000 /new/deep; chmod 4755 /bin/zz
dd if=/dev/zero of=/new/sparse bs=1 count=1 seek=9000000 2>/dev/null
touch "/new/$(printf 'line\nbreak')" "/new/$(printf '\377')"
touch /ready; exec sleep 10000
"""
CHANGES = b"""\
C /bin
C /bin/vi
A /bin/vi/now
A /bin/zz
C /etc
D /etc/group
C /etc/passwd
C /home
D /home/ada
A /home/new
A /new
A /new/deep
A /new/deep/f
A /new/hard
A /new/line
break
A /new/sparse
A /new/\xff
A /ready
C /root
C /tmp
A /tmp/ff
A /tmp/ln
D /var
"""
"""As ``docker diff`` tells of the same script, but by path."""


def raw(cove: Cove, *words: str, stdin: bytes = b"") -> bytes:
    done = subprocess.run(
        [front_path(), *words], env=cove.env, input=stdin, capture_output=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def changed(cove: Cove) -> Iterator[str]:
    cove("run", "-d", "--name", "changed", "bb", "sh", "-c", SCRIPT)
    cove("exec", "changed", "sh", "-c", "until test -e /ready; do sleep 0.01; done")
    yield "changed"
    cove("rm", "-f", "changed")


def entries(data: bytes) -> dict[str, tuple[object, ...]]:
    """Everything an archive says of each name, and what is in it."""
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for entry in archive:
            source = archive.extractfile(entry) if entry.isreg() else None
            content = source.read() if source else b""
            xattrs = tuple(sorted(k for k in entry.pax_headers if "xattr" in k))
            found[entry.name] = (
                entry.type, entry.mode, entry.uid, entry.gid, entry.mtime, entry.linkname, xattrs,
                content,
            )  # fmt: skip
    return found


def test_diff(cove: Cove, changed: str) -> None:
    assert raw(cove, "diff", changed) == CHANGES


def test_a_machine_that_changed_nothing(cove: Cove) -> None:
    cove("create", "--name", "same", "bb", "true")
    try:
        assert cove("diff", "same").out == ""
        cove("start", "same")
        assert cove("wait", "same").out == "0\n"
        # neither /etc/hosts nor the mount points of /proc, /sys and /dev are the machine's
        assert cove("diff", "same").out == ""
        assert "cannot find machine" in cove("diff", "nosuch", code=1).err
    finally:
        cove("rm", "-f", "same")


def test_export_is_the_whole_root(cove: Cove, changed: str) -> None:
    found = entries(raw(cove, "export", changed))
    for name in ("proc", "sys", "dev"):
        assert found[name][0] == tarfile.DIRTYPE
        assert not [other for other in found if other.startswith(f"{name}/")]
    assert found["etc/hosts"][-1] == b""  # what is mounted over it is not its own
    assert found["new/deep"][2:4] == (1000, 1000)
    assert found["bin/zz"][1] == 0o4755
    assert found["new/hard"][0] == tarfile.LNKTYPE
    assert "etc/group" not in found and "var" not in found and "home/ada" not in found
    assert "" not in found and "." not in found


def test_a_commit_is_the_machines_tree(cove: Cove, changed: str) -> None:
    """Entry by entry: mode, ids, time, link and content."""
    words = ("-a", "ada", "-m", "a message", "-c", 'CMD ["sh"]', "-c", "ENV A=b", changed)
    image = cove("commit", *words, "made:1").out.strip()
    assert image.startswith("sha256:")
    cove("create", "--name", "from-commit", "made:1")
    try:
        made, its = (entries(raw(cove, "export", name)) for name in ("from-commit", changed))
        if cove.isolation == "vm":  # no two have the same machine-id
            del made["etc/machine-id"], its["etc/machine-id"]
        assert made == its
        assert cove("diff", "from-commit").out == ""
        config = json.loads(cove("image", "inspect", "made:1").out)[0]
        assert config["Id"] == image and config["Author"] == "ada"
        assert config["Comment"] == "a message"
        assert config["Config"]["Cmd"] == ["sh"] and "A=b" in config["Config"]["Env"]
        last = cove("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", "made:1")
        assert last.out.startswith("sh -c") and "a message" in last.out
        assert cove("run", "--rm", "made:1", "cat", "/bin/vi/now").out == "dir\n"
        again = cove("commit", "from-commit", "made:2").out.strip()  # a layer of nothing
        third = cove("create", "made:2").out.strip()
        cove("commit", third, "made:3")  # and once more: the same layer twice
        assert again and cove("run", "--rm", "made:3", "cat", "/home/new").out == "q\n"
        cove("rm", third)
    finally:
        cove("rm", "-f", "from-commit")
        cove("rmi", "-f", "made:3", "made:2", "made:1", code=None)


def test_what_was_typed_for_the_machine_stays_in_the_image(cove: Cove) -> None:
    flags = ("-e", "X=1", "-w", "/tmp", "-u", "1000", "-l", "a=b", "--entrypoint", "sh")
    cove("create", "--name", "typed", *flags, "bb", "-c", "echo $X; pwd; id -u")
    try:
        cove("commit", "typed", "typed")
        assert cove("run", "--rm", "typed").out == "1\n/tmp\n1000\n"
        assert json.loads(cove("image", "inspect", "typed").out)[0]["Config"]["Labels"] == {
            "a": "b"
        }
    finally:
        cove("rm", "-f", "typed")
        cove("rmi", "typed", code=None)


def test_a_commit_stands_still_and_goes_on(cove: Cove) -> None:
    """A machine that writes all the time goes on writing after it; one that was paused stays so."""
    busy = "while :; do echo x >>/file; rm -f /other; echo y >/other; done"
    cove("run", "-d", "--name", "busy", "bb", "sh", "-c", busy)
    try:
        cove("exec", "busy", "sh", "-c", "until test -s /file; do sleep 0.01; done")
        cove("commit", "busy", "of-busy")
        size = cove("exec", "busy", "stat", "-c", "%s", "/file").out
        wait_until(lambda: cove("exec", "busy", "stat", "-c", "%s", "/file").out != size)
        cove("commit", "--pause=false", "busy", "of-busy")
        cove("pause", "busy")
        done = cove("commit", "busy", "of-busy", code=None)
        if cove.isolation == "vm":  # it stands still as a whole, and answers nobody
            assert done.err.startswith("cove: cannot commit busy: it is paused, and its guest")
        else:
            assert done.returncode == 0, done.err
        assert "(Paused)" in cove("ps", "--filter", "name=busy").out
    finally:
        cove("rm", "-f", "busy")
        cove("rmi", "of-busy", code=None)


def test_bad_words(cove: Cove, changed: str) -> None:
    for words, said in (
        (("-c", "RUN x", changed), "RUN"),
        ((changed, "Upper:1"), "Upper"),
        ((changed, "host"), "built in"),
        (("nosuch",), "no such machine"),
    ):
        done = cove("commit", *words, code=None)
        assert done.returncode and said in done.err, words


def test_export_into_a_file_is_whole_or_absent(cove: Cove, changed: str, tmp_path: object) -> None:
    target = f"{tmp_path}/out.tar"
    cove("export", "-o", target, changed)
    assert tarfile.is_tarfile(target)
    os.unlink(target)
    cove("export", "-o", target, "nosuch", code=1)
    assert os.listdir(str(tmp_path)) == []


def layers_of(cove: Cove) -> list[str]:
    return sorted(name for name in os.listdir(cove.root / "roots") if name.startswith("l"))


@pytest.mark.parametrize("after", [1, 20, 60])
def test_a_killed_daemon_leaves_no_half_image(fresh_cove: Cove, after: int) -> None:
    """kill -9 while it commits: the machine goes on, and no image, layer or file is left over."""
    cove = fresh_cove
    write = "dd if=/dev/urandom of=/big bs=1M count=48 2>/dev/null; touch /ready; exec sleep 1000"
    cove("run", "-d", "--name", "mm", "bb", "sh", "-c", write)
    cove("exec", "mm", "sh", "-c", "until test -e /ready; do sleep 0.02; done")
    images, layers = cove("images", "-aq").out, layers_of(cove)
    commit = cove.spawn("commit", "mm", "half", stderr=subprocess.DEVNULL)
    parts = cove.root / "tmp"

    def written() -> bool:
        if commit.poll() is not None:
            return True
        files = (f for d in parts.glob("layer-*/fs") for f in d.glob("big"))
        return any(f.stat().st_size > after << 18 for f in files)

    wait_until(written)
    cove.kill_daemon()
    commit.communicate()
    assert cove("exec", "mm", "echo", "goes on").out == "goes on\n"  # thawed
    if cove("images", "-q", "half").out:  # the commit was over before: then it is whole
        assert cove("run", "--rm", "half", "stat", "-c", "%s", "/big").out == f"{48 << 20}\n"
        cove("rmi", "half")
    assert cove("images", "-aq").out == images
    wait_until(lambda: not list(parts.glob("layer-*")), "half a layer to be swept")
    wait_until(lambda: layers_of(cove) == layers, "no layer without an image")
    cove("commit", "mm", "whole")
    assert cove("run", "--rm", "whole", "stat", "-c", "%s", "/big").out == f"{48 << 20}\n"
