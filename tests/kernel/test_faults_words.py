"""What is asked for and cannot be had: each refusal in its exact words, and nothing left behind."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, front_path
from tests.kernel.settled import settled
from tests.shared import container_only

__all__ = ["settled"]

pytestmark = pytest.mark.usefixtures("settled")

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOT_TEXT = "machines are recorded as text: put the bytes into a file, and give that to the machine"
NO_FILE = "it is no executable file, or lies on a file system mounted noexec"
NO_USER = "use a number, or a user the image knows"

REFUSED = [
    (
        ("--pull", "never", "nosuch", "true"),
        125,
        'cove: cannot find image "nosuch": it is not in the local store\n'
        "  from: nosuch\n"
        "  hint: `host` is built in, cove images lists the others; add one: "
        "cove image bootstrap debian:bookworm, cove load, cove image "
        "import\n",
    ),
    (
        ("bb", "nosuch"),
        127,
        'cove: cannot run "nosuch": no such file or directory in the machine\'s PATH\n'
        f"  from: the command\n  host: {PATH}\n",
    ),
    (
        ("bb", "/no/such"),
        127,
        'cove: cannot run "/no/such": no such file or directory\n  from: the command\n'
        "  hint: if it is there, its interpreter (its first line, or its dynamic loader) is not\n",
    ),
    (
        ("bb", "/etc/passwd"),
        126,
        f'cove: cannot run "/etc/passwd": permission denied\n  from: the command\n'
        f"  hint: {NO_FILE}\n",
    ),
    (
        ("bb", "/bin"),
        126,
        f'cove: cannot run "/bin": permission denied\n  from: the command\n  hint: {NO_FILE}\n',
    ),
    (
        ("--entrypoint", "", "bb"),
        125,
        "cove: cannot run bb: no command given, and the image has none\n"
        "  hint: name one: cove run bb COMMAND\n",
    ),
    (
        ("-u", "nobody9", "bb", "true"),
        125,
        'cove: cannot run as user "nobody9": no such user in the machine\'s /etc/passwd\n'
        f"  from: --user nobody9\n  hint: {NO_USER}\n",
    ),
    (
        ("-u", "root:nogrp", "bb", "true"),
        125,
        'cove: cannot run as group "nogrp": no such group in the machine\'s /etc/group\n'
        "  from: --user root:nogrp\n  hint: use a number, or a group the image knows\n",
    ),
    (
        ("--group-add", "nogrp", "bb", "true"),
        125,
        'cove: cannot run as group "nogrp": no such group in the machine\'s /etc/group\n'
        "  from: --group-add nogrp\n  hint: use a number, or a group the image knows\n",
    ),
    (
        ("-u", "70000", "bb", "true"),
        125,
        'cove: cannot read user "70000": 70000 is not one of the machine\'s ids, which end at '
        "65535\n  from: --user 70000\n",
    ),
    (
        ("--mount", "type=bind,source=/no/such,target=/d", "bb", "true"),
        125,
        "cove: cannot mount /no/such on /d: no such file or directory\n"
        "  from: --mount type=bind,source=/no/such,target=/d\n"
        "  hint: create the directory, or let -v create it: -v /no/such:/d\n",
    ),
    (
        ("-m", "1m", "bb", "true"),
        125,
        "cove: cannot limit memory to 1m: the minimum is 6m\n  from: --memory 1m\n",
    ),
    (
        ("--memroy", "9m", "bb", "true"),
        125,
        "cove: cannot read --memroy: unknown flag\n  hint: did you mean --memory?\n",
    ),
    (
        ("--device", "/dev/null:/dev/n:x", "bb", "true"),
        125,
        'cove: cannot read device "/dev/null:/dev/n:x": the access "x" is not made of r, w and m\n'
        "  from: --device /dev/null:/dev/n:x\n",
    ),
    (
        ("--env-file", "/no/such", "bb", "true"),
        125,
        "cove: cannot read /no/such: no such file or directory\n  from: --env-file /no/such\n",
    ),
    (
        ("--name", "a\n  hint: trust me", "bb", "true"),
        125,
        'cove: cannot read name "a\\n  hint: trust me": only letters, digits, _ . and - are '
        "allowed, two at least, a letter or digit first\n  from: --name a\\n  hint: trust me\n",
    ),
    (
        ("bb", os.fsdecode(b"\xff\xfe")),
        125,
        f'cove: cannot use the command: "\\xff\\xfe" is not UTF-8\n  hint: {NOT_TEXT}\n',
    ),
    (
        ("-e", os.fsdecode(b"A=\xff"), "bb", "true"),
        125,
        f'cove: cannot use --env: "A=\\xff" is not UTF-8\n  hint: {NOT_TEXT}\n',
    ),
]


@pytest.mark.parametrize(("words", "code", "said"), REFUSED, ids=lambda v: str(v)[:40])
def test_a_run_that_is_refused(cove: Cove, words: tuple[str, ...], code: int, said: str) -> None:
    assert cove("run", "--rm", *words, code=code).err == said


MISPLACED = [
    (
        ("-w", "/etc/passwd"),
        126,
        'cove: cannot use working directory "/etc/passwd": not a directory\n'
        "  from: --workdir /etc/passwd\n  host: op ",
    ),
    (
        ("-w", "/etc/passwd/below"),
        126,
        'cove: cannot use working directory "/etc/passwd/below": not a directory\n',
    ),
    (
        ("--sysctl", "net.nosuch=1"),
        125,
        "cove: cannot set sysctl net.nosuch: no such sysctl in this kernel\n"
        "  from: --sysctl net.nosuch=1\n  host: op ",
    ),
]


@pytest.mark.parametrize(("flags", "code", "said"), MISPLACED, ids=lambda v: str(v)[:40])
def test_what_the_kernel_refuses(cove: Cove, flags: tuple[str, ...], code: int, said: str) -> None:
    """With the op that failed, whose number is no promise."""
    done = cove("run", "--rm", *flags, "bb", "true", code=code)
    assert done.err.startswith(said), done.err


@container_only("a guest has no file system of the host")
def test_what_is_mounted_where_it_cannot_be(cove: Cove) -> None:
    for flag, said in (
        ("/etc:/etc/passwd", "a part of the path is no directory in the image"),
        ("/etc/passwd:/etc", "one is a directory and the other is not"),
    ):
        source, _, target = flag.partition(":")
        done = cove("run", "--rm", "-v", flag, "bb", "true", code=125)
        assert done.err.startswith(
            f"cove: cannot mount {source} on {target}: {said}\n  from: -v {flag}\n  host: op "
        )


def test_a_missing_working_directory_is_made_as_docker_does(cove: Cove) -> None:
    assert cove("run", "--rm", "-w", "/new/deep", "bb", "pwd").out == "/new/deep\n"


EXEC = [
    (("-w", "/nope"), ("true",), 126, 'cannot use working directory "/nope": no such file or'),
    (("-w", "/etc/passwd"), ("true",), 126, '"/etc/passwd": not a directory\n'),
    (("-u", "zed"), ("true",), 125, 'cannot run as user "zed": no such user in the machine\'s /e'),
    (("-u", "0:zed"), ("true",), 125, 'cannot run as group "zed": no such group in the machine\'s'),
    ((), ("nosuch",), 127, 'cannot run "nosuch": no such file or directory in the machine\'s PATH'),
    ((), ("/bin",), 126, 'cannot run "/bin": permission denied\n  from: exec: the command\n'),
    ((), (os.fsdecode(b"\xff"),), 125, 'cannot use the command: "\\xff" is not UTF-8\n'),
]


def test_an_exec_that_is_refused(cove: Cove) -> None:
    cove("run", "-d", "--name", "stays", "bb", "sleep", "1000")
    for flags, words, code, said in EXEC:
        done = cove("exec", *flags, "stays", *words, code=code)
        assert done.err.startswith("cove: ") and said in done.err, done.err
    assert cove("exec", "stays", "echo", "well").out == "well\n"
    cove("rm", "-f", "stays")


# ---- files of the caller ----


def test_an_env_file_that_is_none(cove: Cove, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"A=1\nB=\xff\n")
    (tmp_path / "nul").write_bytes(b"A=1\0B=2\n")
    for name, said in (
        ("bytes", "cove: cannot read bytes:2: it is not UTF-8\n  from: --env-file bytes\n"),
        ("nul", "cove: cannot read nul:1: it contains a NUL character\n  from: --env-file nul\n"),
        (".", "cove: cannot read .: is a directory\n  from: --env-file .\n"),
    ):
        done = cove("run", "--rm", "--env-file", name, "bb", "true", code=125, cwd=tmp_path)
        assert done.err == said


def test_an_id_file_that_exists_or_cannot_be(cove: Cove, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("mine")
    run = ("run", "--rm", "--cidfile")
    done = cove(*run, "id", "bb", "true", code=125, cwd=tmp_path)
    assert done.err == (
        "cove: cannot write the id to id: the file exists\n  from: --cidfile id\n"
        "  hint: remove it, or name another file\n"
    )
    assert (tmp_path / "id").read_text() == "mine"
    done = cove(*run, "no/id", "bb", "true", code=125, cwd=tmp_path)
    assert done.err == (
        "cove: cannot write the id to no/id: no such file or directory\n  from: --cidfile no/id\n"
    )


def test_a_name_that_is_taken(cove: Cove) -> None:
    owner = cove("create", "--name", "once", "bb", "true").out[:12]
    for verb in ("create", "run"):
        done = cove(verb, "--name", "once", "bb", "true", code=None)
        assert done.returncode in (1, 125)
        assert done.err.startswith(f'cove: cannot use the name "once": machine {owner} has it')
    cove("rm", "once")
    cove("run", "--rm", "--name", "once", "bb", "true")


# ---- mount sources and targets ----


def test_a_source_that_vanished_between_create_and_start(cove: Cove, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    mount = f"type=bind,source={source},target=/d"
    cove("create", "--name", "late", "--mount", mount, "bb", "ls", "/d")
    source.rmdir()
    done = cove("start", "-a", "late", code=None)
    assert done.returncode in (1, 125)
    assert done.err == (
        f"cove: cannot mount {source} on /d: no such file or directory\n  from: --mount {mount}\n"
        f"  hint: create the directory, or let -v create it: -v {source}:/d\n"
    )
    source.mkdir()
    cove("start", "-a", "late")
    cove("rm", "late")


def test_a_source_swapped_for_a_link_into_a_process_is_not_followed(
    cove: Cove, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    cove("create", "--name", "swapped", "-v", f"{source}:/d", "bb", "ls", "/d")
    source.rmdir()
    source.symlink_to("/proc/1/root")
    done = cove("start", "-a", "swapped", code=None)
    assert done.returncode in (1, 125)
    assert done.err.startswith(f"cove: cannot mount {source} on /d: ")
    assert done.out == ""
    cove("rm", "swapped")


@pytest.fixture
def linked(cove: Cove, bb_tar: Path, tmp_path: Path) -> Iterator[str]:
    """An image whose /data leads to the host's /etc, if anybody followed it there."""
    target = tmp_path / "linked.tar"
    target.write_bytes(bb_tar.read_bytes())
    with tarfile.open(target, "a") as tar:
        link = tarfile.TarInfo("data")
        link.type, link.linkname = tarfile.SYMTYPE, "../../../etc"
        tar.addfile(link)
    cove("image", "import", str(target), "linked")
    yield "linked"
    cove("image", "rm", "linked")


@container_only("a guest has no file system of the host")
def test_a_target_through_a_link_stays_in_the_machine(
    cove: Cove, linked: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "mine").write_text("shown")
    done = cove("run", "--rm", "-v", f"{source}:/data/sub", linked, "cat", "/etc/sub/mine")
    assert done.out == "shown"
    assert not Path("/etc/sub").exists()


# ---- sizes ----


def wide(words: list[str], env: dict[str, str], cove: Cove) -> subprocess.CompletedProcess[bytes]:
    """The front with more than 2 MiB of arguments and environment."""

    def unlimited() -> None:
        resource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    return subprocess.run(
        [front_path(), *cove.of_kind(*words)],
        env=cove.env | env,
        preexec_fn=unlimited,
        capture_output=True,
        timeout=180,
    )


def test_three_megabytes_of_environment(cove: Cove) -> None:
    env = {f"WIDE{i}": "x" * 100_000 for i in range(30)}
    done = wide(["run", "--rm", "-e", "WIDE29", "bb", "sh", "-c", "echo ${#WIDE29}"], env, cove)
    assert (done.returncode, done.stdout) == (0, b"100000\n"), done.stderr
    flags = [word for name in env for word in ("-e", name)]
    done = wide(["run", "--rm", *flags, "bb", "true"], env, cove)
    assert done.returncode == 126
    assert done.stderr.decode() == (
        'cove: cannot run "true": argument list too long\n  from: the command\n'
        "  hint: arguments and environment together are too long\n"
    )


def test_five_thousand_arguments(cove: Cove) -> None:
    words = [f"word{i}" for i in range(5000)]
    assert cove("run", "--rm", "bb", "echo", *words).out == " ".join(words) + "\n"
    assert cove("run", "--rm", "bb", "printf", "%s|", "a\nb", "", "ä").out == "a\nb||ä|"


# ---- low ports ----


@container_only("a guest has a network of its own")
def test_low_ports_on_the_hosts_network(cove: Cove, bb_tar: Path) -> None:
    cove("image", "import", "-c", "EXPOSE 80", "-c", "EXPOSE 8080", str(bb_tar), "web")
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    bind = ("sh", "-c", "timeout 1 nc -l -p 79")
    if first > 80:
        done = cove("run", "--rm", "--network", "host", "web", *bind, code=1)
        note, refusal = done.err.splitlines()
        assert note == (
            "cove: note: web exposes port 80, which no machine with a user namespace of its own "
            f"may open on the host's network (below {first}): --userns=host, or sysctl "
            "net.ipv4.ip_unprivileged_port_start"
        )
        assert refusal == "nc: bind: Permission denied"
    for flags in (("--network", "host", "--userns=host"), ()):
        assert cove("run", "--rm", *flags, "web", "true").err == ""
    cove("image", "rm", "web")


# ---- the caller's own descriptors ----


def test_descriptors_that_are_closed_or_full(cove: Cove) -> None:
    front = front_path()
    run = " ".join(("cove", *cove.of_kind("run")))

    def shell(script: str) -> subprocess.CompletedProcess[str]:
        script = script.replace("cove run", run).replace("cove", str(front))
        words = ["bash", "-c", script]
        return subprocess.run(words, env=cove.env, capture_output=True, text=True, timeout=180)

    done = shell("cove run --rm -i bb sh -c 'cat; exit 4' <&-")
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "")
    done = shell("cove run --rm bb sh -c 'echo lost; echo told >&2; exit 5' >&-")
    assert (done.returncode, done.stderr) == (5, "told\n")
    done = shell("cove ps >&-; cove run --rm bb true >&- 2>&-")
    assert (done.returncode, done.stderr) == (0, "")
    done = shell("cove run --rm bb echo hi >/dev/full")
    assert done.returncode == 125
    assert done.stderr == (
        "cove: cannot use standard output: it is a device\n"
        "  hint: a file, a pipe, a socket, a terminal or /dev/null\n"
    )
    # As with Docker, a machine goes on when nobody reads it any more: its log has the rest.
    done = shell("cove run --name unheard bb yes | head -c 10; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stdout, done.stderr) == (141, "y\n" * 5, "")
    assert cove.inspect("unheard")["State"]["Status"] == "running"
    cove("rm", "-f", "unheard")


def test_a_socket_as_standard_output(cove: Cove) -> None:
    ours, theirs = socket.socketpair()
    process = cove.spawn("run", "--rm", "bb", "echo", "by socket", stdout=theirs)
    theirs.close()
    with ours:
        assert ours.makefile("rb").read() == b"by socket\n"
    assert process.wait(180) == 0
    process.communicate()


def test_a_full_disk_under_standard_output(cove: Cove, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], check=True)
    try:
        with open(place / "out", "wb") as out:
            words = ("sh", "-c", "head -c 1000000 /dev/zero || exit 6")
            process = cove.spawn("run", "--rm", "bb", *words, stdout=out)
            _, err = process.communicate(timeout=180)
        assert process.returncode == 125, err
        assert err.decode().startswith("cove: cannot write the output: no space left on device")
    finally:
        subprocess.run(["umount", place], check=True)
