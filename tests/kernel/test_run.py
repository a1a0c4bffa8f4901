"""``run``: exit codes, environment, user, files, limits and walls, as seen from inside."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.driver import Cove, wait_until
from tests.kernel.conftest import Machine
from tests.shared import container_only

# ---- exit codes and streams ----


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_the_exit_code_is_the_programs(machine: Machine, code: int) -> None:
    machine("sh", "-c", f"exit {code}", code=code)


def test_a_killed_program_gives_128_and_the_signal(machine: Machine) -> None:
    machine("sh", "-c", "sh -c 'kill -SEGV $$'; exit $?", code=139)


def test_no_such_command_is_127(machine: Machine) -> None:
    done = machine("nope", code=127)
    assert 'cannot run "nope": no such file or directory' in done.err


def test_not_executable_is_126(machine: Machine) -> None:
    done = machine("/etc/passwd", code=126)
    assert 'cannot run "/etc/passwd": permission denied' in done.err


def test_an_unknown_image_is_125(machine: Machine) -> None:
    done = machine("true", flags=("--pull", "never"), image="nosuchimage", code=125)
    assert 'cannot find image "nosuchimage"' in done.err
    assert "host" in done.err and "import" in done.err


def test_an_image_for_another_machine_is_refused(machine: Machine) -> None:
    done = machine("true", flags=("--pull", "never", "--platform", "linux/s390x"), code=125)
    assert "cannot run bb as linux/s390x: it is an image for linux/" in done.err


def test_output_and_errors_stay_apart(machine: Machine) -> None:
    done = machine("sh", "-c", "echo out; echo err >&2")
    assert (done.out, done.err) == ("out\n", "err\n")


def test_input_reaches_the_program_and_ends(machine: Machine) -> None:
    assert machine("cat", flags=("-i",), stdin="one\ntwo\n").out == "one\ntwo\n"


def test_without_i_there_is_no_input(machine: Machine) -> None:
    assert machine("cat", stdin="secret").out == ""


def test_a_megabyte_goes_through_both_ways(machine: Machine) -> None:
    text = "x" * 1_000_000
    assert machine("cat", flags=("-i",), stdin=text).out == text


# ---- environment, user, directory ----


def test_environment(machine: Machine) -> None:
    done = machine("env", flags=("-e", "A=b", "-e", "FROM_CALLER"), env={"FROM_CALLER": "here"})
    lines = done.out.splitlines()
    assert {"A=b", "FROM_CALLER=here", "HOME=/root"} <= set(lines)
    assert any(line.startswith("PATH=/usr/local/sbin:") for line in lines)
    assert not any(line.startswith("COVE_") for line in lines)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("ada", "uid=1000(ada) gid=1000(ada) groups=10(wheel),1000(ada)"),
        ("1000", "uid=1000(ada) gid=1000(ada)"),
        ("1234:5678", "uid=1234 gid=5678"),
        ("ada:wheel", "uid=1000(ada) gid=10(wheel)"),
    ],
)
def test_user(machine: Machine, user: str, expected: str) -> None:
    assert machine("id", flags=("-u", user)).out.startswith(expected)


def test_an_unknown_user_is_refused(machine: Machine) -> None:
    done = machine("id", flags=("-u", "nobodyhere"), code=125)
    assert 'cannot run as user "nobodyhere": no such user' in done.err


def test_working_directory_is_made(machine: Machine) -> None:
    assert machine("pwd", flags=("-w", "/new/deep")).out == "/new/deep\n"


def test_the_hosts_name(machine: Machine, cove: Cove) -> None:
    name = socket.gethostname()
    script = "hostname; cat /etc/hostname; hostname other; hostname"
    done = machine("sh", "-c", script, flags=("--uts", "host", "--cap-add", "SYS_ADMIN"))
    assert done.out == f"{name}\n{name}\nother\n"
    assert socket.gethostname() == name
    refused = cove("create", "--uts", "host", "--hostname", "me", "bb", "true", code=125).err
    assert "--hostname me" in refused


def test_hostname(machine: Machine) -> None:
    done = machine("sh", "-c", "hostname; cat /etc/hostname /etc/hosts", flags=("--hostname", "me"))
    assert done.out.startswith("me\nme\n")
    assert "\tme\n" in done.out


def test_add_host(machine: Machine) -> None:
    done = machine("cat", "/etc/hosts", flags=("--add-host", "db:10.1.2.3"))
    assert "10.1.2.3\tdb\n" in done.out


@container_only("a virtual machine has a disk and no layers")
def test_generated_files_are_not_in_the_writable_layer(cove: Cove) -> None:
    cove("run", "--name", "layer", "bb", "touch", "/written")
    upper = cove.root / "roots" / f"u{key_of(cove, 'layer')}" / "fs"
    assert (upper / "written").exists()
    assert not [p for p in upper.rglob("*") if p.is_file() and p.stat().st_size]
    cove("rm", "layer")


def key_of(cove: Cove, name: str) -> str:
    return Path(cove.inspect(name)["LogPath"]).parent.name


# ---- files ----


def test_read_only_root(machine: Machine) -> None:
    done = machine("touch", "/x", flags=("--read-only",), code=1)
    assert "Read-only file system" in done.err


def test_tmpfs(machine: Machine) -> None:
    done = machine("df", "-k", "/t", flags=("--tmpfs", "/t:size=1m"))
    assert done.out.split()[-5] == "1024"


def test_shm_size(machine: Machine) -> None:
    assert machine("df", "-k", "/dev/shm", flags=("--shm-size", "3m")).out.split()[-5] == "3072"


@container_only("a guest has no file system of the host")
def test_bind_mount_is_written_with_the_hosts_ids(machine: Machine, tmp_path: Path) -> None:
    machine("sh", "-c", "echo hi > /data/f; id -u", flags=("-v", f"{tmp_path}:/data"))
    assert (tmp_path / "f").read_text() == "hi\n"
    assert (tmp_path / "f").stat().st_uid == 0


@container_only("a guest has no file system of the host")
def test_read_only_bind(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("there")
    flags = ("-v", f"{tmp_path}:/data:ro")
    assert machine("cat", "/data/f", flags=flags).out == "there"
    machine("touch", "/data/g", flags=flags, code=1)


@container_only("a guest has no file system of the host")
def test_a_file_is_bound_on_a_file(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("setting\n")
    flags = ("--mount", f"type=bind,source={tmp_path}/conf,target=/etc/my.conf")
    assert machine("cat", "/etc/my.conf", flags=flags).out == "setting\n"


def test_a_missing_bind_source_is_named(machine: Machine) -> None:
    word = "type=bind,source=/no/such/dir,target=/data"
    done = machine("true", flags=("--mount", word), code=125)
    assert done.err == (
        "cove: cannot mount /no/such/dir on /data: no such file or directory\n"
        f"  from: --mount {word}\n"
        "  hint: create the directory, or let -v create it: -v /no/such/dir:/data\n"
    )


@pytest.mark.parametrize("verb", ["run", "create"])
def test_a_bind_that_cannot_be_opened_makes_no_machine(
    cove: Cove, tmp_path: Path, verb: str
) -> None:
    (tmp_path / "file").write_text("")
    for source in ("no", "file/below"):
        word = f"type=bind,source={tmp_path}/{source},target=/data"
        cove(verb, "--name", "unmade", "--mount", word, "host", "true", code=125)
        assert cove("ps", "-aq", "--filter", "name=unmade").out == ""


@container_only("a guest has no file system of the host")
def test_v_makes_a_missing_directory(machine: Machine, tmp_path: Path) -> None:
    machine("touch", "/data/f", flags=("-v", f"{tmp_path}/new:/data"))
    assert (tmp_path / "new/f").exists()


def test_a_bind_source_swapped_for_a_link_after_create_is_opened_once(
    cove: Cove, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_text("right")
    cove("create", "--name", "swapped", "-v", f"{source}:/data:ro", "bb", "cat", "/data/f")
    source.rename(tmp_path / "was")
    source.symlink_to("/proc/self/root")
    done = cove("start", "-a", "swapped", code=None)
    assert done.returncode != 0 and "root:" not in done.out
    cove("rm", "-f", "swapped")


@container_only("a guest has no device of the host")
def test_device(machine: Machine) -> None:
    done = machine("ls", "-l", "/dev/fuse", flags=("--device", "/dev/fuse"))
    assert "10, 229" in done.out


@container_only("a guest has no device of the host")
def test_a_missing_device_is_named(machine: Machine) -> None:
    done = machine("true", flags=("--device", "/dev/nosuch"), code=125)
    assert "cannot give device /dev/nosuch: no such file or directory" in done.err


# ---- walls ----


@container_only("root of a guest is root of the guest's own kernel")
def test_root_inside_is_nobody_outside(machine: Machine) -> None:
    inside, outside, size = machine("cat", "/proc/self/uid_map").out.split()
    assert (inside, size) == ("0", "65536")
    assert int(outside) >= 1879048192


def test_pid_1_sees_only_its_own(machine: Machine) -> None:
    assert machine("sh", "-c", "echo $$; ls -d /proc/[0-9]*").out.split()[0] == "1"


def test_capabilities(machine: Machine) -> None:
    def effective(*flags: str) -> int:
        line = machine("grep", "CapEff", "/proc/self/status", flags=flags).out
        return int(line.split()[1], 16)

    default = effective()
    assert default and default < 1 << 38
    assert effective("--cap-drop", "ALL") == 0
    assert effective("--cap-drop", "ALL", "--cap-add", "CHOWN") == 1
    assert effective("-u", "ada") == 0


def test_no_new_privileges(machine: Machine) -> None:
    assert "NoNewPrivs:\t1" in machine("cat", "/proc/self/status").out
    flags = ("--security-opt", "no-new-privileges=false")
    assert "NoNewPrivs:\t0" in machine("cat", "/proc/self/status", flags=flags).out


def test_seccomp_refuses_mounting(machine: Machine) -> None:
    machine("mount", "-t", "tmpfs", "x", "/tmp", code=1)


def test_privileged(machine: Machine) -> None:
    done = machine("sh", "-c", "mount -t tmpfs x /tmp && echo yes", flags=("--privileged",))
    assert done.out == "yes\n"


def test_userns_host(machine: Machine) -> None:
    done = machine("cat", "/proc/self/uid_map", flags=("--userns=host",))
    assert done.out.split() == ["0", "0", "4294967295"]


def test_no_network_but_loopback(machine: Machine) -> None:
    assert machine("ls", "/sys/class/net").out == "lo\n"


@container_only("a guest has a network of its own")
def test_host_network(machine: Machine) -> None:
    def same() -> bool:
        done = machine("ls", "/sys/class/net", flags=("--network", "host"))
        return set(done.out.split()) == set(os.listdir("/sys/class/net"))

    wait_until(same, "the host's links, which come and go")


def test_init_is_pid_1_and_shows_nothing_of_the_host(machine: Machine) -> None:
    done = machine("sh", "-c", "echo $$; tr '\\0' ' ' < /proc/1/cmdline", flags=("--init",))
    assert done.out.splitlines()[0] != "1"
    assert "--root" not in done.out


def test_sysctl(machine: Machine) -> None:
    flags = ("--sysctl", "net.ipv4.ip_forward=1")
    assert machine("cat", "/proc/sys/net/ipv4/ip_forward", flags=flags).out == "1\n"


# ---- limits ----


def test_ulimit(machine: Machine) -> None:
    assert machine("sh", "-c", "ulimit -n", flags=("--ulimit", "nofile=77:99")).out == "77\n"


def test_memory_below_the_minimum(machine: Machine) -> None:
    done = machine("true", flags=("-m", "1m"), code=125)
    assert "the minimum is 6m" in done.err


def test_stop_signal_and_labels_are_kept(cove: Cove) -> None:
    cove("create", "--name", "kept", "--stop-signal", "USR1", "--label", "a=b", "bb", "true")
    found = cove.inspect("kept")["Config"]
    assert (found["StopSignal"], found["Labels"]) == ("USR1", {"a": "b"})
    cove("rm", "kept")


def test_cidfile(cove: Cove, tmp_path: Path) -> None:
    cove("run", "--rm", "--cidfile", str(tmp_path / "id"), "bb", "true")
    assert len((tmp_path / "id").read_text().strip()) == 64


def test_a_name_that_is_taken(cove: Cove) -> None:
    cove("create", "--name", "once", "bb", "true")
    done = cove("run", "--name", "once", "bb", "true", code=None)
    assert done.returncode == 125 or done.returncode == 1
    assert 'cannot use the name "once"' in done.err
    cove("rm", "once")


def test_the_name_of_an_ephemeral_machine_is_free_at_once(cove: Cove) -> None:
    for _ in range(5):
        cove("run", "--rm", "--name", "again", "bb", "true")


def test_plan_shows_every_op_with_its_reason(cove: Cove) -> None:
    lines = cove("plan", "bb", "true").out.splitlines()
    ops = [line for line in lines if line and not line.startswith("#")]
    assert ops and all("#" in line for line in ops)
    assert any(line.startswith("execve") for line in ops)
