"""The planner: what stands in a plan for a spec, and what is refused with which message."""

# ruff: noqa: E501  (a refusal and its message stand on one line)

from __future__ import annotations

import dataclasses
import re
from typing import Any, TypeVar

import msgspec
import pytest

from cove.errors import CoveError, HostError, Unsupported, UsageError
from cove.oci.config import ImageConfig
from cove.plan import ops
from cove.plan.flags import Capability, CloneFlags, MountAttr, PrctlOption, Rlimit
from cove.plan.ops import Op, Plan
from cove.planner import BindSource, Place, argv_of, capabilities, defaults, plan_exec, plan_machine
from cove.planner.files import devices, paths
from cove.planner.files.generated import render_hostname, render_hosts
from cove.planner.process import environment
from cove.planner.seccomp import rules as syscall_rules
from cove.spec.machine import Device, ExecSpec, Limits, MachineSpec, Mount, Security, Ulimit
from tests.golden.cases import load_facts, make_place

HYBRID = load_facts("debian12-hybrid")
ROOTLESS = load_facts("rootless")
PLACE = make_place(HYBRID, {})
IMAGE = ImageConfig(cmd=("sh",))
Kind = TypeVar("Kind", bound=Op)


def plan(place: Place = PLACE, image: ImageConfig = IMAGE, **parts: Any) -> Plan:
    return plan_machine(MachineSpec(image="bb", **parts), image, HYBRID, place)


def only(part: tuple[Op, ...], kind: type[Kind]) -> Kind:
    found = [op for op in part if isinstance(op, kind)]
    assert len(found) == 1, found
    return found[0]


def every(part: tuple[Op, ...], kind: type[Kind]) -> list[Kind]:
    return [op for op in part if isinstance(op, kind)]


# ---- what stands in a plan ----


def test_the_base_decides_who_owns_what() -> None:
    host = plan(place=dataclasses.replace(PLACE, base=PLACE.base + 65536)).host
    base = PLACE.base + 65536
    assert only(host, ops.IdMap).uid_map == f"0 {base} 65536"
    assert {op.uid for op in every(host, ops.Mknodat)} == {base, ops.KEEP}
    assert f"uid={base}" in only(host, ops.Fsmount).options
    assert [(op.uid, op.gid) for op in every(host, ops.Setfsuid)] == [(base, base), (0, 0)] * 2


def test_layers_are_stacked_topmost_first_with_short_names() -> None:
    mount = only(plan(place=dataclasses.replace(PLACE, volatile=True)).host, ops.Mount)
    assert mount.data == "lowerdir=l3:l2:l1:p,upperdir=u7/fs,workdir=u7/work,volatile"


def test_a_machine_without_user_namespace_maps_nothing() -> None:
    for security in (Security(privileged=True), Security(userns="host")):
        made = plan(place=dataclasses.replace(PLACE, base=0), security=security)
        assert not CloneFlags.CLONE_NEWUSER & only(made.host, ops.Clone3).flags
        assert every(made.host, ops.IdMap) == every(made.machine, ops.Setids) == []
        assert not any(
            MountAttr.MOUNT_ATTR_IDMAP & op.attr_set for op in every(made.host, ops.MountSetattr)
        )


def test_privileged_has_no_masks_no_filter_and_every_capability() -> None:
    made = plan(place=dataclasses.replace(PLACE, base=0), security=Security(privileged=True))
    kinds = {type(op) for op in made.machine}
    assert kinds.isdisjoint({ops.Mask, ops.Readonly, ops.Seccomp})
    assert only(made.machine, ops.Capset).mask == Capability((1 << 41) - 1)
    assert [op.option for op in every(made.machine, ops.Prctl)] == [PrctlOption.PR_SET_PDEATHSIG]


def test_privileged_with_a_profile_of_its_own_is_filtered_before_the_user() -> None:
    profile = '{"defaultAction": "SCMP_ACT_ALLOW"}'
    place = dataclasses.replace(PLACE, base=0)
    made = plan(place=place, security=Security(privileged=True, seccomp=profile)).machine
    kinds = [op.NAME for op in made]
    assert kinds.index("seccomp") < kinds.index("setuser")


def test_a_store_without_idmapped_mounts_still_serves_machines_that_need_none() -> None:
    facts = msgspec.structs.replace(HYBRID, idmapped_mounts=False, userns_max=0)
    spec = MachineSpec(image="bb", security=Security(privileged=True))
    plan_machine(spec, IMAGE, facts, dataclasses.replace(PLACE, base=0))


def test_filters_come_last_under_no_new_privileges_and_before_the_user_without() -> None:
    def order(part: tuple[Op, ...]) -> list[str]:
        wanted = {"capbset", "setuser", "capset", "seccomp", "execve"}
        return [op.NAME for op in part if op.NAME in wanted]

    assert order(plan().machine) == [
        "capbset", "setuser", "capset", "seccomp", "seccomp", "execve",
    ]  # fmt: skip
    assert order(plan(security=Security(no_new_privileges=False)).machine) == [
        "capbset", "seccomp", "seccomp", "setuser", "capset", "execve",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("add", "drop", "want"),
    [
        ((), (), set(capabilities.DEFAULT)),
        (("NET_ADMIN",), (), {*capabilities.DEFAULT, "NET_ADMIN"}),
        ((), ("ALL",), set()),
        (("CHOWN",), ("ALL",), {"CHOWN"}),
        (("ALL",), (), set(capabilities.NAMES)),
        (("ALL",), ("MKNOD",), set(capabilities.NAMES) - {"MKNOD"}),
        ((), ("NET_RAW", "CHOWN"), set(capabilities.DEFAULT) - {"NET_RAW", "CHOWN"}),
    ],
)
def test_capabilities(add: tuple[str, ...], drop: tuple[str, ...], want: set[str]) -> None:
    made = plan(security=Security(cap_add=add, cap_drop=drop))
    mask = sum(int(Capability[f"CAP_{name}"]) for name in want)
    assert only(made.machine, ops.Capbset).mask == only(made.machine, ops.Capset).mask == mask


def test_the_capability_table_is_the_kernels() -> None:
    assert [f"CAP_{name}" for name in capabilities.NAMES] == [c.name for c in Capability]
    docker = {
        "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID",
        "SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
    }  # fmt: skip
    assert set(capabilities.DEFAULT) == docker - {"MKNOD", "AUDIT_WRITE"}


def test_every_default_has_its_reason() -> None:
    reasons = [entry.reason for entry in capabilities.CAPABILITIES.values()]
    reasons += [*paths.MASKED.values(), *paths.READONLY.values()]
    reasons += [limit.why for limit in defaults.RLIMITS]
    reasons += [sysctl.why for sysctl in defaults.NETWORK_SYSCTLS]
    reasons += [reason for *_, reason in devices.NODES]
    reasons += [*syscall_rules.FAMILIES.values(), *syscall_rules.REFUSED.values()]
    assert all(len(reason) > 5 for reason in reasons)


def test_limits_are_lowered_to_the_hosts() -> None:
    limits = {op.resource: (op.soft, op.hard) for op in every(plan().machine, ops.Setrlimit)}
    assert limits == {
        Rlimit.RLIMIT_NOFILE: ("1024", "20000"),
        Rlimit.RLIMIT_CORE: ("0", "unlimited"),
    }
    tight = msgspec.structs.replace(HYBRID, hard_limits={"nofile": 512, "core": 0})
    made = plan_machine(MachineSpec(image="bb"), IMAGE, tight, PLACE)
    limits = {op.resource: (op.soft, op.hard) for op in every(made.machine, ops.Setrlimit)}
    assert limits == {Rlimit.RLIMIT_NOFILE: ("512", "512"), Rlimit.RLIMIT_CORE: ("0", "0")}


def test_a_host_without_cgroup_files_attaches_nothing() -> None:
    place = dataclasses.replace(PLACE, cgroup_files=(), cgroup_into=False)
    made = plan(place=place)
    assert every(made.machine, ops.CgroupAttach) == []
    assert only(made.host, ops.Clone3).cgroup == "-"


def test_network_host_keeps_the_hosts_network() -> None:
    made = plan(network="host")
    assert not CloneFlags.CLONE_NEWNET & only(made.machine, ops.Unshare).flags
    assert every(made.machine, ops.Ifup) == every(made.machine, ops.Sysctl) == []
    assert "net" not in only(made.host, ops.Barrier).names
    assert "sysfs" not in [op.type for op in every(made.machine, ops.Fsmount)]


def test_mounts_are_attached_outer_first_and_never_through_a_hosts_path() -> None:
    mounts = tuple(
        Mount(type="bind", source=f"/s{i}", target=target, origin=f"-v /s{i}:{target}")
        for i, target in enumerate(("/a/b/c", "/a", "/a/b"))
    )
    place = dataclasses.replace(PLACE, binds=tuple(BindSource(f"bind{i}") for i in range(3)))
    made = plan(place=place, mounts=mounts)
    moves = [op.path for op in every(made.machine, ops.MoveMount) if op.path.startswith("/a")]
    assert moves == ["/a", "/a/b", "/a/b/c"]
    opened = {
        op.path for op in (*every(made.host, ops.OpenTree), *every(made.machine, ops.OpenTree))
    }
    assert opened == {"", "m", "null", "/", "/var/lib/cove/roots"}


def test_a_mount_over_a_generated_file_wins() -> None:
    mount = Mount(type="bind", source="/h", target="/etc/hosts", origin="-v /h:/etc/hosts")
    place = dataclasses.replace(PLACE, binds=(BindSource("bind0", is_dir=False),))
    moves = every(plan(place=place, mounts=(mount,)).machine, ops.MoveMount)
    assert [op.mount for op in moves if op.path == "/etc/hosts"] == ["bind0"]


def test_workdir_is_made_before_the_root_becomes_read_only() -> None:
    made = plan(workdir="/new/place", security=Security(read_only=True)).machine
    at = {op.NAME: i for i, op in enumerate(made)}
    made_at = next(
        i for i, op in enumerate(made) if op == ops.Mkdirat("root", "/new/place", 0o755, 0, 0)
    )
    assert made_at < at["pivot_root"] < at["mount_setattr"] < at["chdir"]
    assert only(made, ops.Chdir).path == "/new/place"


@pytest.mark.parametrize(
    ("spec", "image", "want"),
    [
        ({"command": ("a",)}, {"cmd": ("x",)}, ("a",)),
        ({}, {"entrypoint": ("e",), "cmd": ("x",)}, ("e", "x")),
        ({"command": ("a",)}, {"entrypoint": ("e",), "cmd": ("x",)}, ("e", "a")),
        ({"entrypoint": ("n",)}, {"entrypoint": ("e",), "cmd": ("x",)}, ("n",)),
        ({"entrypoint": (), "command": ("a",)}, {"entrypoint": ("e",)}, ("a",)),
        ({"entrypoint": ("",), "command": ("a", "")}, {"entrypoint": ("e",)}, ("a", "")),
    ],
)
def test_argv_is_dockers(
    spec: dict[str, Any], image: dict[str, Any], want: tuple[str, ...]
) -> None:
    assert argv_of(MachineSpec(image="bb", **spec), ImageConfig(**image)) == want


def test_environment_is_dockers() -> None:
    image = ImageConfig(env=("LANG=C", "TERM=dumb"))
    assert environment(image, ("A=1", "LANG=de", "A=2"), hostname="box", tty=True) == (
        f"PATH={defaults.PATH}",
        "HOSTNAME=box",
        "TERM=dumb",
        "LANG=de",
        "A=2",
    )
    assert environment(ImageConfig(env=("PATH=/x",)), ("HOSTNAME",), hostname="b", tty=False) == (
        "PATH=/x",
    )


def test_user_comes_from_the_spec_then_the_image_then_root() -> None:
    www = ImageConfig(cmd=("sh",), user="www")
    assert only(plan().machine, ops.Setuser).user == "0"
    assert only(plan(image=www).machine, ops.Setuser).user == "www"
    made = only(plan(image=www, user="7:8", groups=("video",)).machine, ops.Setuser)
    assert (made.user, made.groups) == ("7:8", ("video",))
    assert made.why == "--user 7:8 --group-add video"


def test_exec_has_the_walls_of_its_machine() -> None:
    machine = MachineSpec(
        image="bb", security=Security(cap_drop=("ALL",)), workdir="/w", env=("A=1",)
    )
    made = plan_exec(ExecSpec(("id",), env=("B=2",)), machine, IMAGE, HYBRID, PLACE)
    inside = plan_machine(machine, IMAGE, HYBRID, PLACE).machine
    for kind in (ops.Capbset, ops.Capset, ops.Keyctl, ops.Setuser, ops.CgroupAttach):
        assert only(made.machine, kind) == only(inside, kind)
    assert every(made.machine, ops.Seccomp) == every(inside, ops.Seccomp)
    assert only(made.machine, ops.Chdir).path == "/w"
    assert {"A=1", "B=2"} <= set(only(made.machine, ops.Execve).env)


def test_rootless_mounts_in_the_childs_namespace() -> None:
    made = plan_machine(MachineSpec(image="bb"), IMAGE, ROOTLESS, make_place(ROOTLESS, {}))
    assert {op.NAME for op in made.host} == {
        "clone3",
        "id_map",
        "oom_score_adj",
        "send",
        "recv",
        "barrier",
    }
    assert only(made.host, ops.IdMap).uid_map == "0 1000 1\n1 100000 65535"
    assert ",userxattr" in only(made.machine, ops.Mount).data


# ---- what is refused, and how ----

NO_USERNS = msgspec.structs.replace(HYBRID, userns_max=0)


@pytest.mark.parametrize(
    ("parts", "error", "message", "origin"),
    [
        ({"isolation": "vm"}, Unsupported, "cannot run with --isolation vm: only container is there yet", ""),
        ({"workdir": "tmp"}, UsageError, 'cannot work in "tmp": not an absolute path', "--workdir tmp"),
        ({"security": Security(cap_add=("FLY",))}, UsageError, 'cannot set capabilities: there is no capability "FLY" here', "--cap-add FLY"),
        ({"sysctls": (("kernel.panic", "1"),)}, UsageError, "cannot set sysctl \"kernel.panic\": it is not the machine's own but the host's", "--sysctl kernel.panic=1"),
        ({"sysctls": (("net.core.somaxconn", "1"),), "network": "host"}, UsageError, "cannot set sysctl \"net.core.somaxconn\": the network is the host's", "--sysctl net.core.somaxconn=1 --network host"),
        ({"sysctls": (("net..x", "1"),)}, UsageError, "cannot set sysctl \"net..x\": it is not the machine's own but the host's", "--sysctl net..x=1"),
        ({"limits": Limits(ulimits=(Ulimit("nofile", 1, 99999),))}, UsageError, "cannot set the limit nofile to 99999: 20000 is the most here", "--ulimit nofile=1:99999"),
        ({"limits": Limits(ulimits=(Ulimit("nofile", 1, -1),))}, UsageError, "cannot set the limit nofile to unlimited: 20000 is the most here", "--ulimit nofile=1:-1"),
        ({"limits": Limits(ulimits=(Ulimit("tea", 1, 2),))}, UsageError, 'cannot limit "tea": no such limit', "--ulimit tea=1:2"),
        ({"mounts": (Mount("tmpfs", "/proc/x", origin="--tmpfs /proc/x"),)}, UsageError, "cannot mount on /proc/x: /proc is the machine's own", "--tmpfs /proc/x"),
        ({"mounts": (Mount("tmpfs", "/", origin="--tmpfs /"),)}, UsageError, "cannot mount on \"/\": not a path below the machine's root", "--tmpfs /"),
        ({"mounts": (Mount("tmpfs", "/a/../proc", origin="--tmpfs x"),)}, UsageError, "cannot mount on \"/a/../proc\": not a path below the machine's root", "--tmpfs x"),
        ({"mounts": (Mount("bind", "/a", source="/b"),)}, UsageError, "cannot plan mounts: 1 in the spec, 0 prepared", ""),
        ({"mounts": tuple(Mount("tmpfs", f"/t{i}") for i in range(31))}, Unsupported, "cannot mount 31 things: 30 is the most", ""),
        ({"security": Security(seccomp="{}")}, UsageError, "cannot read the seccomp profile: Object missing required field `defaultAction`", "--security-opt seccomp=FILE"),
    ],
)  # fmt: skip
def test_refusals(parts: dict[str, Any], error: type[CoveError], message: str, origin: str) -> None:
    with pytest.raises(error, match="(?m)^" + re.escape(message) + "$") as caught:
        plan(**parts)
    assert caught.value.origin == origin


@pytest.mark.parametrize(
    ("facts", "message", "host"),
    [
        ({"kernel": (5, 15)}, "cannot run a container: this kernel is too old", "Linux 5.15; cove needs 6.1 or newer"),
        ({"idmapped_mounts": False}, "cannot run a container: the state directory's file system takes no idmapped mount", "mount_setattr(2) with MOUNT_ATTR_IDMAP is refused there"),
        ({"userns_max": 0}, "cannot run a container: user namespaces are switched off", "user.max_user_namespaces is 0"),
        ({"seccomp": False}, "cannot run a container: this kernel has no seccomp filter", "CONFIG_SECCOMP_FILTER is off"),
    ],
)  # fmt: skip
def test_hosts_that_cannot(facts: dict[str, Any], message: str, host: str) -> None:
    with pytest.raises(HostError, match="(?m)^" + re.escape(message) + "$") as caught:
        plan_machine(
            MachineSpec(image="bb"), IMAGE, msgspec.structs.replace(HYBRID, **facts), PLACE
        )
    assert caught.value.host == host


def test_no_command_anywhere() -> None:
    message = r"(?m)^cannot run bb: no command given, and the image has none$"
    with pytest.raises(UsageError, match=message):
        plan(image=ImageConfig())
    with pytest.raises(UsageError, match=r"(?m)^cannot exec: no command given$"):
        plan_exec(ExecSpec(()), MachineSpec(image="bb"), IMAGE, HYBRID, PLACE)


def test_ids_of_the_host_are_never_mapped() -> None:
    message = r"^cannot plan a machine with ids from 0: they are the host's$"
    with pytest.raises(UsageError, match=message):
        plan(place=dataclasses.replace(PLACE, base=0))


def test_more_layers_than_a_mount_takes() -> None:
    place = dataclasses.replace(PLACE, layers=tuple(range(100000, 101000)))
    message = r"^cannot mount 1000 layers: mount\(2\) takes 4096 bytes of options$"
    with pytest.raises(Unsupported, match=message):
        plan(place=place)


def test_devices_are_made_below_dev_only() -> None:
    place = dataclasses.replace(PLACE, devices=(("/opt/fuse", "c", 10, 229, 0o666),))
    with pytest.raises(
        Unsupported, match=r"^cannot give a device as /opt/fuse: devices are made"
    ) as e:
        plan(place=place)
    assert e.value.hint == "name a path below /dev: --device SOURCE:/dev/fuse"
    place = dataclasses.replace(PLACE, devices=(("/dev/x", "p", 0, 0, 0o666),))
    with pytest.raises(UsageError, match=r"(?m)^cannot give /dev/x: it is no device$"):
        plan(place=place)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"mounts": (Mount("bind", "/a", source="/b"),)}, "cannot mount /b as an ordinary user yet"),
        ({"devices": (Device("/dev/fuse", "/dev/fuse"),)}, "cannot give devices as an ordinary user"),
        ({"network": "host"}, "cannot use the host's network as an ordinary user yet"),
        ({"security": Security(privileged=True)}, "cannot run without a user namespace: the daemon is not root"),
    ],
)  # fmt: skip
def test_rootless_refusals(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(Unsupported, match="(?m)^" + re.escape(message) + "$"):
        plan_machine(MachineSpec(image="bb", **parts), IMAGE, ROOTLESS, make_place(ROOTLESS, {}))


# ---- generated files ----


def test_hosts_file() -> None:
    text = render_hosts("box", ("db:10.0.0.2", "six:[fd00::1]", "seven:fd00::2"), domainname="lan")
    assert text.startswith("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
    assert text.endswith("10.0.0.2\tdb\nfd00::1\tsix\nfd00::2\tseven\n127.0.0.1\tbox.lan box\n")


def test_the_gateway_among_the_hosts() -> None:
    text = render_hosts("box", ("gw:host-gateway",), gateway="10.192.0.1")
    assert "10.192.0.1\tgw\n" in text
    assert render_hostname("box") == "box\n"
    with pytest.raises(UsageError, match="on no network with a gateway"):
        render_hosts("box", ("gw:host-gateway",))


@pytest.mark.parametrize("entry", ["db", "db:", ":1.2.3.4"])
def test_hosts_that_are_none(entry: str) -> None:
    with pytest.raises(UsageError, match=r"(?m)^cannot add a host: not HOST:ADDRESS$"):
        render_hosts("box", (entry,))


def test_no_line_is_slipped_into_a_generated_file() -> None:
    with pytest.raises(UsageError, match=r"(?m)^cannot write a host name: it has a line break$"):
        render_hosts("box", ("evil:1.2.3.4\n6.6.6.6 bank",))
