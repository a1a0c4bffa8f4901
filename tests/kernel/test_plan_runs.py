"""The planner's own plans, run for real by the op executor alone: no daemon, no monitor."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cove.linux.mounts import clone_mount
from cove.linux.pidfd import wait_exit
from cove.linux.probe import probe_facts
from cove.oci.config import ImageConfig
from cove.plan import ops, wire
from cove.plan.facts import Facts
from cove.plan.ops import Plan
from cove.planner import BindSource, Place, plan_exec, plan_machine
from cove.spec.machine import ExecSpec, Limits, MachineSpec, Mount, Security, Ulimit
from tests.conftest import need_root
from tests.native.conftest import init_binary  # noqa: F401
from tests.native.plans import BUSYBOX

KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
BASE = 1879048192 + 65536 * 4000
PASSWD = "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"
GROUP = "root:x:0:\napp:x:1000:\nvideo:x:44:app\nextra:x:77:\n"


@dataclass
class Store:
    """A state directory with one layer, and as many machines as are asked for."""

    root: Path
    binary: Path
    facts: Facts
    keys: int = 0
    fds: ExitStack = field(default_factory=ExitStack)

    def place(self, **parts: Any) -> Place:
        self.keys += 1
        for name in ("fs", "work", "v0", "w0"):
            (self.root / f"roots/u{self.keys}/{name}").mkdir(parents=True)
        made: dict[str, Any] = {"base": BASE, "layers": (1,), "hostname": "box", "volatile": True}
        return Place(key=self.keys, root=str(self.root), **(made | parts))

    def plan(self, *command: str, place: Place | None = None, **parts: Any) -> Plan:
        spec = MachineSpec(image="bb", command=command, **parts)
        return plan_machine(spec, ImageConfig(), self.facts, place or self.place())

    def command(self, plan: Plan, fds: dict[str, int]) -> list[str]:
        paths = []
        for name, part in (("host", plan.host), ("machine", plan.machine)):
            path = self.root / f"{name}{self.keys}.plan"
            path.write_bytes(wire.encode(part))
            paths.append(str(path))
        return [str(self.binary), "run-plan", *paths, *(f"{n}={fd}" for n, fd in fds.items())]

    def run(self, plan: Plan, **fds: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(plan, fds),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            pass_fds=tuple(fds.values()),
            timeout=120,
        )

    def out(self, *command: str, fds: dict[str, int] | None = None, **parts: Any) -> str:
        """What a command prints that ends well."""
        done = self.run(self.plan(*command, **parts), **(fds or {}))
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return done.stdout

    def sh(self, script: str, **parts: Any) -> str:
        return self.out("sh", "-c", script, **parts)

    def source(self, path: Path) -> int:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        self.fds.callback(os.close, fd)
        return fd

    def mount(self, path: Path) -> int:
        """A bind's source, as the engine makes it."""
        fd = clone_mount(self.source(path), recursive=True)
        self.fds.callback(os.close, fd)
        return fd


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory,
    init_binary: Path,  # noqa: F811
    probe: Path,
) -> Iterator[Store]:
    need_root()
    root = tmp_path_factory.mktemp("plans")
    for parent in (root, root.parent):
        parent.chmod(0o711)
    layer = root / "roots/l1"
    for name in ("bin", "etc", "home/app"):
        (layer / name).mkdir(parents=True)
    (root / "roots/m").mkdir()
    (root / "roots/p/etc").mkdir(parents=True)
    (root / "roots/v0").mkdir()
    (root / "roots").chmod(0o700)
    for path in (layer, *layer.iterdir()):
        path.chmod(0o755)
    shutil.copy(BUSYBOX, layer / "bin/busybox")
    shutil.copy(probe, layer / "bin/probe")
    for applet in subprocess.check_output([BUSYBOX, "--list"], text=True).split():
        if applet not in ("busybox",):
            (layer / "bin" / applet).symlink_to("busybox")
    (layer / "etc/passwd").write_text(PASSWD)
    (layer / "etc/group").write_text(GROUP)
    os.chown(layer / "home/app", 1000, 1000)
    with Store(root, init_binary, probe_facts(root)).fds as fds:
        yield Store(root, init_binary, probe_facts(root), fds=fds)


# ---- walls ----


def test_exit_code_and_output(store: Store) -> None:
    done = store.run(store.plan("sh", "-c", "echo out; echo err >&2; exit 42"))
    assert (done.returncode, done.stdout, done.stderr) == (42, "out\n", "err\n")


def test_namespaces_are_the_machines_own(store: Store) -> None:
    inside = store.sh(
        "for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done"
    )
    outside = [os.readlink(f"/proc/self/ns/{n}") for n in KINDS]
    assert set(inside.split()).isdisjoint(outside)
    assert store.sh("hostname; cat /proc/self/uid_map").split() == ["box", "0", str(BASE), "65536"]


def test_the_process_is_pid_1_and_sees_itself_only(store: Store) -> None:
    assert store.sh("echo $$; ls -d /proc/[0-9]*").split()[:2] == ["1", "/proc/1"]


def test_status_of_the_process(store: Store) -> None:
    lines = store.sh("cat /proc/self/status").splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["CapBnd"] == status["CapEff"] == status["CapPrm"] == "00000000800425fb"
    assert status["CapInh"] == status["CapAmb"] == "0" * 16
    assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", "2")


def test_mounts_are_what_the_plan_says(store: Store) -> None:
    lines = [line.split() for line in store.sh("cat /proc/mounts").splitlines()]
    mounts = {target: (kind, options.split(",")) for _, target, kind, options, *_ in lines}
    kinds = {target: kind for target, (kind, _) in mounts.items()}
    assert kinds.items() >= {
        "/": "overlay", "/proc": "proc", "/sys": "sysfs", "/dev": "tmpfs", "/dev/pts": "devpts",
        "/dev/shm": "tmpfs", "/dev/mqueue": "mqueue", "/proc/sys": "proc",
    }.items()  # fmt: skip
    assert "ro" in mounts["/sys"][1] and "ro" in mounts["/proc/sys"][1]
    assert "nodev" in mounts["/"][1]
    assert not any(str(store.root) in line for line in map(" ".join, lines))
    assert "/mnt" not in mounts


def test_nothing_of_the_kernel_can_be_set(store: Store) -> None:
    for path in ("/proc/sys/kernel/panic", "/proc/sysrq-trigger", "/sys/kernel/profiling"):
        assert store.out("probe", "write", path).strip() in ("EROFS", "EACCES", "EPERM", "ENOENT")
    assert store.sh("cat /proc/interrupts /proc/keys; ls /sys/firmware").strip() == ""
    assert store.sh("[ ! -e /proc/kcore ] || cat /proc/kcore | wc -c").strip() in ("", "0")


def test_dev_has_six_nodes_and_links(store: Store) -> None:
    listed = store.sh("cd /dev; ls -lan").splitlines()
    rows = {
        line.split()[-1 if "->" not in line else -3]: line.split()
        for line in listed
        if line[0] in "cdl"
    }
    nodes = {name for name, row in rows.items() if row[0][0] == "c"}
    assert nodes == {"null", "zero", "full", "random", "urandom", "tty"}
    assert {row[2] for name, row in rows.items() if name != ".."} == {"0"}
    assert rows["tty"][3] == "5"
    assert (
        store.sh("echo x >/dev/null; head -c3 /dev/zero | wc -c; ls /dev/fd/0 /dev/shm").split()[0]
        == "3"
    )


def test_loopback_is_up_and_low_ports_are_free(store: Store) -> None:
    out = store.sh("cat /sys/class/net/lo/flags /proc/sys/net/ipv4/ip_unprivileged_port_start")
    assert out.split() == ["0x9", "0"]


def test_refused_system_calls(store: Store) -> None:
    for script in ("unshare -m true", "mount -t tmpfs x /home", "chroot / true && exit 9"):
        done = store.run(store.plan("sh", "-c", script))
        assert done.returncode in (1, 9), (script, done)
    assert "Operation not permitted" in store.run(store.plan("unshare", "-m", "true")).stderr


@pytest.mark.parametrize(
    ("words", "want"),
    [
        ("syscall 425", "EPERM"),  # io_uring_setup
        ("syscall 323", "EPERM"),  # userfaultfd
        ("syscall 250", "EPERM"),  # keyctl
        ("syscall 435", "ENOSYS"),  # clone3
        ("syscall 999", "ENOSYS"),
        (f"syscall {0x40000000 | 39}", "ENOSYS"),  # x32 getpid
        ("syscall 39", "ok"),  # getpid
        ("socket 38 5 0", "EPERM"),  # AF_ALG
        ("socket 40 1 0", "EPERM"),  # AF_VSOCK
        ("socket 16 3 0", "ok"),
        ("int80 20", "ok"),  # i386 getpid
        ("int80 102", "EPERM"),  # i386 socketcall
        ("int80 425", "EPERM"),  # i386 io_uring_setup
        ("tiocsti", "EPERM"),
    ],
)
def test_system_calls_of_both_entries(store: Store, words: str, want: str) -> None:
    if store.facts.arch != "x86_64":
        pytest.skip("needs x86-64: the numbers are its")
    assert store.out("probe", *words.split()).strip() == want


# ---- what is asked for ----


def test_user_groups_and_home(store: Store) -> None:
    out = store.sh("id -u; id -g; id -G; echo $HOME", user="app", groups=("extra", "99"))
    assert out.split() == ["1000", "1000", "1000", "44", "77", "99", "/home/app"] or set(
        out.split()
    ) == {"1000", "44", "77", "99", "/home/app"}
    status = store.sh("grep Cap /proc/self/status", user="1000:1000")
    assert "CapEff:\t0000000000000000" in status


def test_workdir_is_made(store: Store) -> None:
    assert store.sh("pwd; ls -ldn .", workdir="/srv/new/place").split()[:2] == [
        "/srv/new/place",
        "drwxr-xr-x",
    ]


def test_read_only_root_with_a_tmpfs(store: Store) -> None:
    tmpfs = Mount("tmpfs", "/run", size=1 << 20, options=("exec",), origin="--tmpfs /run")
    out = store.sh(
        "touch /x || echo refused; touch /run/x && grep ' /run ' /proc/mounts",
        security=Security(read_only=True),
        mounts=(tmpfs,),
    )
    assert out.startswith("refused\n")
    assert "nosuid,nodev" in out and "noexec" not in out and "size=1024k" in out


def test_binds_keep_ids_and_read_only_holds(store: Store, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "sub").mkdir(parents=True)
    os.chown(shared, 1000, 1000)
    mounts = (
        Mount("bind", "/data", source=str(shared), origin="-v data"),
        Mount("bind", "/ro", source=str(shared), read_only=True, origin="-v ro"),
    )
    place = store.place(binds=(BindSource("bind0"), BindSource("bind1")))
    out = store.sh(
        "stat -c %u /data; echo hi >/data/file; chown 7:8 /data/file; touch /ro/x || echo refused",
        place=place,
        mounts=mounts,
        fds={"bind0": store.mount(shared), "bind1": store.mount(shared)},
    )
    assert out.split() == ["1000", "refused"]
    found = (shared / "file").stat()
    assert (found.st_uid, found.st_gid) == (7, 8)


def test_a_mount_target_that_is_a_link_stays_inside(store: Store, tmp_path: Path) -> None:
    place = store.place(binds=(BindSource("bind0", is_dir=False),))
    upper = store.root / f"roots/u{place.key}/fs"
    (upper / "evil").symlink_to("../../../../../../etc/passwd")
    (tmp_path / "mine").write_text("mine\n")
    out = store.sh(
        "cat /etc/passwd",
        place=place,
        mounts=(Mount("bind", "/evil", source="x", origin="-v x:/evil"),),
        fds={"bind0": store.mount(tmp_path / "mine")},
    )
    assert out == "mine\n"


def test_generated_files(store: Store, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("1.2.3.4 db\n")
    place = store.place(files={"/etc/hosts": "hosts"})
    out = store.sh(
        "cat /etc/hosts; stat -c %u /etc/hosts",
        place=place,
        fds={"hosts": store.source(tmp_path / "hosts")},
    )
    assert out == "1.2.3.4 db\n0\n"


def test_a_generated_file_where_the_image_has_a_dangling_link(store: Store, tmp_path: Path) -> None:
    """Debian's /etc/resolv.conf points to systemd's, which is not there."""
    place = store.place(files={"/etc/resolv.conf": "resolv"})
    etc = store.root / f"roots/u{place.key}/fs/etc"
    etc.mkdir()
    (etc / "resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (tmp_path / "resolv").write_text("nameserver 1.1.1.1\n")
    out = store.sh(
        "cat /etc/resolv.conf", place=place, fds={"resolv": store.source(tmp_path / "resolv")}
    )
    assert out == "nameserver 1.1.1.1\n"


def test_a_view_of_the_host_is_copy_on_write(store: Store, tmp_path: Path) -> None:
    view = tmp_path / "view"
    view.mkdir()
    (view / "file").write_text("host\n")
    place = store.place(views=(str(view),))
    below = store.root / f"roots/u{place.key}/fs{view}"
    below.mkdir(parents=True)
    for path in (below, *below.parents):
        if path.is_relative_to(store.root / f"roots/u{place.key}/fs"):
            path.chmod(0o755)
    out = store.sh(f"cd {view}; cat file; echo changed >file; rm -rf ./*; ls | wc -l", place=place)
    assert out == "host\n0\n"
    assert (view / "file").read_text() == "host\n"


def test_sysctls_and_limits(store: Store) -> None:
    out = store.sh(
        "cat /proc/sys/net/ipv4/tcp_fin_timeout; ulimit -n; ulimit -Hn; df -k /dev/shm | tail -1",
        sysctls=(("net.ipv4.tcp_fin_timeout", "77"),),
        limits=Limits(shm=1 << 20, ulimits=(Ulimit("nofile", 100, 200),)),
    )
    assert out.split()[:3] == ["77", "100", "200"]
    assert "1024" in out.split()[4]


def test_init_is_pid_1_and_reaps(store: Store) -> None:
    out = store.sh("sh -c 'sleep 0 & exit' ; echo $$; ls -d /proc/[0-9]* | wc -l", init=True)
    assert int(out.split()[0]) > 1
    done = store.run(store.plan("sh", "-c", "kill -9 $$", init=True))
    assert done.returncode == 137


def test_no_new_privileges_off(store: Store) -> None:
    out = store.sh(
        "grep -E 'NoNew|Seccomp:' /proc/self/status", security=Security(no_new_privileges=False)
    )
    assert out.split() == ["NoNewPrivs:", "0", "Seccomp:", "2"]


def test_a_terminal_is_its_console(store: Store) -> None:
    out = store.sh("tty; readlink /dev/console; echo hi >/dev/console; stty size", tty=True,
                   place=store.place(rows=33, columns=99))  # fmt: skip
    assert out.replace("\r", "").split() == ["/dev/pts/0", "pts/0", "hi", "33", "99"]


def test_network_host(store: Store) -> None:
    out = store.sh(
        "readlink /proc/self/ns/net; touch /sys/x || echo refused; ls /sys/class/net",
        network="host",
    )
    assert out.split()[:2] == [os.readlink("/proc/self/ns/net"), "refused"]
    assert set(out.split()[2:]) >= set(os.listdir("/sys/class/net")) - {"bonding_masters"}


def _capabilities() -> str:
    """The test's own, which no machine can exceed without a user namespace."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line for line in lines if line.startswith("CapEff")).split()[1]


def test_privileged_may_mount_and_make_devices(store: Store) -> None:
    out = store.sh(
        "mkdir /m && mount -t tmpfs x /m && mknod /m/null c 1 3 && echo x >/m/null; "
        "cat /proc/self/uid_map; ls /dev/fuse; grep -E 'CapEff|Seccomp:' /proc/self/status",
        place=store.place(base=0, devices=(("/dev/fuse", "c", 10, 229, 0o666),)),
        security=Security(privileged=True),
    )
    words = out.split()
    assert words[:4] == ["0", "0", "4294967295", "/dev/fuse"]
    assert words[-3:] == [_capabilities(), "Seccomp:", "0"]


def test_userns_host_has_walls_all_the_same(store: Store) -> None:
    place = store.place(base=0)
    out = store.sh(
        "cat /proc/self/uid_map; mount -t tmpfs x /home 2>/dev/null || echo refused; touch /made; "
        "cat /proc/sysrq-trigger 2>/dev/null; grep CapEff /proc/self/status",
        place=place,
        security=Security(userns="host"),
    )
    assert out.split()[:4] == ["0", "0", "4294967295", "refused"]
    assert out.split()[-1] == "00000000800425fb"
    assert (store.root / f"roots/u{place.key}/fs/made").stat().st_uid == 0


def test_what_a_machine_writes_is_its_own_on_disk(store: Store) -> None:
    place = store.place()
    store.sh("echo x >/file; chown 1000:1000 /file; rm /etc/group", place=place)
    upper = store.root / f"roots/u{place.key}/fs"
    assert (upper / "file").stat().st_uid == 1000
    assert stat.S_ISCHR((upper / "etc/group").lstat().st_mode)


def test_a_profile_of_the_users(store: Store) -> None:
    profile = (
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": '
        '[{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}'
    )
    done = store.run(store.plan("mkdir", "/x", security=Security(seccomp=profile)))
    assert "not supported" in done.stderr and done.returncode == 1


# ---- a second process ----


@contextmanager
def _running(store: Store, plan: Plan) -> Iterator[int]:
    """A machine that runs until the end of the block: the pid of its process."""
    with subprocess.Popen(
        store.command(plan, {}), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        assert run.stdin is not None and run.stdout is not None
        assert run.stdout.readline() == b"ready\n"
        (child,) = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        yield int(child)
        run.stdin.close()
        assert run.wait(timeout=180) == 0


def test_exec_joins_the_machine(store: Store) -> None:
    machine = MachineSpec(
        image="bb", command=("sh", "-c", "echo ready; read x; exit 0"), env=("A=1",)
    )
    place = store.place()
    made = plan_machine(machine, ImageConfig(), store.facts, place)
    with _running(store, made) as pid, ExitStack() as stack:
        target = os.pidfd_open(pid)
        stack.callback(os.close, target)
        script = (
            f"for n in {' '.join(KINDS)}; do readlink /proc/self/ns/$n; done; "
            "id -u; echo $A $B; grep -E 'CapEff|Seccomp:' /proc/self/status"
        )
        spec = ExecSpec(("sh", "-c", script), user="app", env=("B=2",))
        plan = plan_exec(spec, machine, ImageConfig(), store.facts, place)
        done = store.run(plan, target=target)
        assert done.returncode == 0, done
        words = done.stdout.split()
        assert words[:7] == [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in KINDS]
        assert words[-7:] == ["1000", "1", "2", "CapEff:", "0" * 16, "Seccomp:", "2"]


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"user": "1000"},
        {"init": True},
        {"security": Security(no_new_privileges=False, cap_add=("ALL",))},
    ],
)
def test_a_machine_dies_with_its_launcher(store: Store, parts: dict[str, Any]) -> None:
    """The kernel forgets the parent-death signal when ids change."""
    plan = store.plan("sh", "-c", "echo ready; sleep 1000", **parts)
    command = store.command(plan, {})
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stdout.readline() == b"ready\n"
        (child,) = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        machine = os.pidfd_open(int(child))
        run.kill()
        try:
            assert wait_exit(machine, 60)
        finally:
            os.close(machine)


# ---- refusals name their op ----


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_an_image_with_a_link_for_a_kernel_file_system_is_refused(store: Store, name: str) -> None:
    place = store.place()
    (store.root / f"roots/u{place.key}/fs/{name}").symlink_to("/etc")
    plan = store.plan("true", place=place)
    done = store.run(plan)
    assert done.returncode == 125
    side, index, op, errno, detail = done.stderr.split()
    assert (side, op, int(errno), detail) == ("machine", "move_mount", 40, name)
    failed = plan.machine[int(index)]
    assert isinstance(failed, ops.MoveMount)
    assert failed.why == "default: the machine's own; an image with a symlink here is refused"


def test_no_such_command(store: Store) -> None:
    done = store.run(store.plan("nope"))
    assert done.stderr.split()[:4] == ["machine", done.stderr.split()[1], "execve", "2"]
