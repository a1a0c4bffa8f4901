"""What this cove and this host are, as Docker's API and templates have it."""

from __future__ import annotations

import msgspec

from cove.engine import calls
from cove.shown import units
from cove.shown.template import Record


def info_document(seen: calls.Info) -> Record:
    facts = seen.facts
    states = seen.machines
    options = ["name=seccomp,profile=default"] if facts.seccomp else []
    options += [f"name={name}" for name in facts.lsm] + ["name=userns"]
    return Record(
        ID="cove",
        Containers=sum(states.values()),
        ContainersRunning=states.get("running", 0),
        ContainersPaused=states.get("paused", 0),
        ContainersStopped=sum(states.get(s, 0) for s in ("created", "exited", "dead")),
        Images=seen.images,
        Driver="overlay",
        LoggingDriver="local",
        CgroupDriver="cgroupfs",
        CgroupVersion="2" if facts.cgroup == "v2" else "1",
        KernelVersion=f"{facts.kernel[0]}.{facts.kernel[1]}",
        OperatingSystem=seen.system,
        OSType="linux",
        Architecture=facts.arch,
        NCPU=facts.cpus,
        MemTotal=facts.memory,
        DockerRootDir=seen.root,
        Name=seen.host,
        ServerVersion=seen.version,
        DefaultRuntime="cove",
        SecurityOptions=options,
        VirtualMachines=seen.virtual,
        Warnings=list(seen.warnings) or None,
        Facts=msgspec.to_builtins(facts),
        EmulatedPlatforms=list(seen.emulated),
        EmulatedGuests=list(seen.emulated_guests),
        DiskFree=seen.disk_free,
        DiskTotal=seen.disk_total,
        Pid=seen.pid,
        Started=units.stamp(seen.started),
        DockerSocket=seen.docker_socket,
    )
