"""What a machine will not be able to do although nothing is wrong with its spec: said before it
runs.
"""

from __future__ import annotations

import os
import stat

from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.errors import NotFound, printable
from cove.oci.config import config_from_json
from cove.spec.machine import MachineSpec

EMULATED = ", emulated: "
OWN = tuple(f"/dev/{name}" for name in ["null", "zero", "full", "random", "urandom", "tty", "ptmx"])
PORT_START = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


def low_ports(exposed: tuple[str, ...], first: int) -> list[int]:
    """The ports below ``first`` among an image's own: ``80/tcp``, ``8000-8010/tcp``."""
    starts = (word.partition("/")[0].partition("-")[0] for word in exposed)
    return sorted({int(start) for start in starts if start.isdecimal() and int(start) < first})


def note_low_ports(spec: MachineSpec, terminal: Terminal, client: Client) -> None:
    """On the host's network the kernel asks for a capability in the host's user namespace, and a
    machine has one of its own.
    """
    if spec.network != "host" or spec.security.userns == "host":
        return
    try:
        config = client.image(calls.ImageInspect(spec.image, spec.platform)).record.config
        with open(PORT_START, encoding="ascii") as file:
            first = int(file.read())
    except (NotFound, OSError):
        return  # whoever makes the machine says what is missing
    ports = low_ports(config_from_json(config).exposed_ports, first)
    if ports:
        listed = " and ".join(map(str, ports))
        terminal.error(
            f"cove: note: {printable(spec.image)} exposes port {listed}, which no machine with a "
            f"user namespace of its own may open on the host's network (below {first}): "
            "--userns=host, or sysctl net.ipv4.ip_unprivileged_port_start\n"
        )


def note_ports(spec: MachineSpec, terminal: Terminal) -> None:
    if spec.network == "host" and (spec.ports or spec.publish_all):
        terminal.error(
            "cove: note: published ports are discarded: with --network host a server's ports are "
            "the host's\n"
        )


def note_bound_devices(spec: MachineSpec, terminal: Terminal) -> None:
    """A bind shows a device's node; what opens it is ``--device``."""
    if spec.security.privileged or spec.device_rules:
        return
    given = {device.source for device in spec.devices}
    for mount in spec.mounts:
        if mount.type == "bind" and mount.source not in given and _is_foreign(mount.source):
            source = printable(mount.source)
            terminal.error(
                f"cove: note: {source} is a device, which the machine may not open: "
                f"--device {source}\n"
            )


def _is_foreign(path: str) -> bool:
    """A device that not every machine has."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    real = os.path.realpath(path)
    own = real in OWN or real.startswith("/dev/pts/")
    return (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and not own


def note_emulated(spec: MachineSpec, terminal: Terminal, client: Client) -> None:
    """To people: it is slow, and QEMU's own faults are the guest's way out of it."""
    if spec.isolation != "vm" or not terminal.is_terminal(2):
        return
    _, emulated, why = client.info().virtual.partition(EMULATED)
    if emulated:
        terminal.error(f"cove: note: no KVM here, QEMU emulates the machine ({printable(why)})\n")
