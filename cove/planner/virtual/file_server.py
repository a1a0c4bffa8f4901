"""The process that serves a virtual machine's shared directories: virtiofsd, beside its emulator.
What speaks to it is a hostile guest, and it has the guest's memory.
"""

from __future__ import annotations

from cove.plan.facts import Facts
from cove.plan.ops import Plan
from cove.planner.place import Place
from cove.planner.tools.alone import plan_alone
from cove.spec.machine import MachineSpec, Mount

PROGRAMS = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd")
"""Both take the words below: the one in Rust, and the one in C that came with QEMU before 8.0."""
SHARED = "/srv"
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "MKNOD", "SETFCAP", "SETGID",
    "SETPCAP", "SETUID", "SYS_CHROOT",
)  # fmt: skip
"""In the machine's user namespace: any file that is shared, as the guest's users. It makes no
devices there, whoever asks. SETPCAP and SYS_CHROOT it gives up before it hears of a guest.
"""
_WHY = "-v: who serves the shared directories sees nothing else of the host"
OPTIONS = ("sandbox=chroot", f"source={SHARED}", "cache=auto", "xattr", "log_level=err")


def server_spec(mounts: dict[int, Mount]) -> MachineSpec:
    """The shared mounts of a machine, each below ``SHARED`` by its index in the machine's spec."""
    # Nothing can be made beside them: there is an inode for each, and for the directory.
    points = Mount(
        "tmpfs", SHARED, size=4096, mode=0o555, options=(f"nr_inodes={len(mounts) + 1}",),
        origin=_WHY,
    )  # fmt: skip
    moved = (
        Mount(
            mount.type, f"{SHARED}/{index}", mount.source, read_only=mount.read_only,
            recursive=mount.recursive, create_source=mount.create_source, subpath=mount.subpath,
            idmap=mount.idmap, within=mount.within, origin=mount.origin,
        )
        for index, mount in mounts.items()
    )  # fmt: skip
    return MachineSpec(image="", mounts=(points, *moved))


def plan_server(spec: MachineSpec, facts: Facts, place: Place, *, program: str) -> Plan:
    """``spec`` is ``server_spec``'s. Its socket is standard input.

    It has no filter of system calls but its own: that one closes what a container may use long
    before it hears of a guest, and before that it needs what a container may not.
    """
    options = tuple(word for option in OPTIONS for word in ("-o", option))
    argv = (program, "--fd=0", "-f", "--rlimit-nofile=0", *options)
    return plan_alone(spec, facts, place, argv=argv, capabilities=CAPABILITIES, why=_WHY)
