"""About this daemon and its host: version, info; what is missing here, and what that costs."""

from __future__ import annotations

import os
import platform
import socket
from collections import Counter
from collections.abc import Mapping

from cove import __version__
from cove.engine.calls import Info, Version
from cove.engine.home import Home
from cove.engine.images.foreign import emulated_here
from cove.errors import CoveError, one_line
from cove.linux.disk import free_space
from cove.plan.facts import Facts
from cove.store.layout import Layout

PROTOCOL = 1
DOCKER_SOCKET = "COVE_DOCKER_SOCKET"
"""The setting: where Docker's API is served; empty: below the state directory."""
PROXIES = ("http_proxy", "https_proxy", "no_proxy")


def version(home: Home) -> Version:
    return Version(
        version=__version__,  # of what runs: what is installed may be newer by now
        protocol=PROTOCOL,
        python=platform.python_version(),
        kernel=os.uname().release,
        arch=home.facts.arch,
    )


def info(home: Home) -> Info:
    space = free_space(home.root)
    states = Counter(record.state for record in home.store.machines())
    return Info(
        version=__version__,  # of what runs: what is installed may be newer by now
        root=home.root,
        facts=home.facts,
        machines=dict(states),
        images=len([image for image in home.store.images() if "@" not in image.id]),
        disk_free=space.free,
        disk_total=space.total,
        pid=os.getpid(),
        started=home.started,
        host=socket.gethostname(),
        system=system_name(),
        emulated=emulated_here(home.facts),
        warnings=(*warnings(home.facts), *_of_virtual_machines(home)),
        virtual=virtual_text(home),
        emulated_guests=guests_of_other_cpus(home),
        docker_socket=docker_socket(home.store.layout),
        settings=settings(os.environ),
    )


def settings(env: Mapping[str, str]) -> dict[str, str]:
    """What somebody has set. A login is told to nobody: it is in the address of a proxy."""
    found = {name: env[name] for name in sorted(env) if name.startswith("COVE_") and env[name]}
    proxies = {name: env[name] for name in sorted(env) if name.lower() in PROXIES and env[name]}
    return found | {name: "" if "@" in text else text for name, text in proxies.items()}


def docker_socket(layout: Layout) -> str:
    return os.environ.get(DOCKER_SOCKET, "") or layout.docker_socket


def system_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def system_version() -> str:
    """Empty where the system does not say."""
    try:
        return platform.freedesktop_os_release().get("VERSION_ID", "")
    except OSError:
        return ""


def virtual_text(home: Home) -> str:
    """What came of the trial boot, once there was one; or what virtual machines lack here."""
    from cove.vm.accel import remembered

    made, there = _guests(home, home.facts.arch)
    if not there:
        return f"none: {made}"
    found = remembered(home.store.layout)
    if found is None:
        return f"{made}; the first one tries KVM"
    return f"{made}, KVM" if found.usable else f"{made}, emulated: {one_line(found.reason)}"


def guests_of_other_cpus(home: Home) -> tuple[str, ...]:
    """Their platforms, and what makes them, or what they lack."""
    from cove.planner.cpus import architectures
    from cove.planner.virtual.qemu import MACHINES

    return tuple(
        f"linux/{architectures(cpu)[0]}: {'' if there else 'none: '}{made}"
        for cpu in MACHINES
        if cpu != home.facts.arch
        for made, there in (_guests(home, cpu),)
    )


def _guests(home: Home, cpu: str) -> tuple[str, bool]:
    """Emulator and kernel of guests with this CPU, or what is missing; and which of the two."""
    from cove.engine.vms import ground
    from cove.vm.kernels import Kernels

    try:
        facts = ground.facts_of(home, cpu)
        kernel = ground.kernel_for(Kernels(home.store.layout), facts, cpu)
    except CoveError as lacking:
        return f"{lacking.message.partition(': ')[2]} ({lacking.hint})", False
    version = ".".join(map(str, facts.qemu[cpu]))
    return f"QEMU {version}, guest kernel {kernel.name} {kernel.version}", True


def _of_virtual_machines(home: Home) -> tuple[str, ...]:
    """What came of the trial boot, once there was one."""
    from cove.vm.accel import remembered

    found = remembered(home.store.layout)
    if found is None or found.usable:
        return ()
    return (f"no KVM: virtual machines are emulated ({found.reason})",)


def warnings(facts: Facts) -> tuple[str, ...]:
    """What this host cannot do, and what follows."""
    found = []
    missing = [name for name in ("memory", "pids", "cpu") if name not in facts.controllers]
    if missing:
        found.append(f"no cgroup controller {', '.join(missing)}: these limits cannot be set")
    if not facts.seccomp:
        found.append("no seccomp filters: machines may make every system call")
    if not facts.audit:
        found.append("no audit records: a refused system call cannot be named")
    if not facts.swap:
        found.append("swap is not counted: --memory-swap has no effect")
    return tuple(found)
