"""Machines as the JSON documents that Docker's templates and API expect.

Docker's names stand here because ``--format`` is theirs; what is cove's own is added under names of
its own (``Isolation``, ``Cause``, ``Walls``, ``Spec``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from cove.engine import calls
from cove.planner.files.paths import MASKED, READONLY
from cove.shown import units
from cove.shown.functions import NoList, NoMap
from cove.shown.images import image_config
from cove.shown.networks import endpoint_id
from cove.shown.ports import exposed_now, published_now
from cove.shown.template import Record
from cove.spec.health import State
from cove.spec.links import split_link
from cove.spec.machine import DeviceRate, MachineSpec, Mount, connections_of
from cove.spec.network import DEFAULT_NETWORK, Connection, machine_of
from cove.spec.ports import Publish
from cove.store.records import Endpoint, MachineRecord

_UNUSED: dict[str, Any] = {
    "CgroupParent": "", "ContainerIDFile": "", "CpuPeriod": 0, "CpuQuota": 0,
    "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0,
    "KernelMemory": 0, "MemorySwappiness": None, "OomKillDisable": False,
    "BlkioWeightDevice": [], "Cgroup": "", "ConsoleSize": [0, 0],
    "CpuCount": 0, "CpuPercent": 0, "DeviceRequests": NoList(),
    "IOMaximumBandwidth": 0, "IOMaximumIOps": 0, "KernelMemoryTCP": 0,
}  # fmt: skip
"""What Docker's templates may ask for and cove does not have."""

TMPFS_MODE = 0o1777
"""Of one for which none was asked."""


def machine_document(seen: calls.Inspected) -> Record:
    record, spec = seen.record, seen.record.spec
    argv = record.argv or ((spec.entrypoint or ()) + spec.command)
    document = Record(
        Id=record.id,
        Created=units.stamp(record.created),
        Path=argv[0] if argv else "",
        Args=list(argv[1:]),
        State=_state(record),
        Image=record.image,
        ResolvConfPath=f"{seen.directory}/resolv" if seen.directory else "",
        HostnamePath=f"{seen.directory}/hostname" if seen.directory else "",
        HostsPath=f"{seen.directory}/hosts" if seen.directory else "",
        LogPath=seen.log_path,
        Name="/" + record.name,
        RestartCount=record.restarts,
        Driver="overlay",
        Platform="linux",
        MountLabel="",
        ProcessLabel="",
        AppArmorProfile="",
        ExecIDs=NoList(),
        HostConfig=_host_config(spec) | {"Links": _linked(record)},
        GraphDriver=Record(
            Name="overlay",
            Data={"LowerDir": ":".join(reversed(seen.layers)), "UpperDir": seen.upper},
        ),
        Mounts=[_mount(mount, seen.volumes) for mount in _mounted(spec)],
        Config=_config(seen),
        NetworkSettings=_networks(record),
    )
    if seen.sizes:
        document |= {"SizeRw": seen.sizes.writable, "SizeRootFs": seen.sizes.root}
    document |= {
        "Isolation": spec.isolation,
        "Cause": _builtins(record.cause),
        "Emulation": seen.emulation,
        "Walls": list(seen.walls),
        "Emulator": list(seen.emulator),
        "CgroupPath": seen.cgroup,
        "Spec": _builtins(spec),
    }
    return document


def places_document(record: MachineRecord) -> Record:
    """What a list shows of a machine, without all the rest of it."""
    return Record(
        Networks=_held(record), Mounts=[_mount(mount, {}) for mount in _mounted(record.spec)]
    )


def _builtins(value: msgspec.Struct) -> Any:
    return msgspec.to_builtins(value)


def _state(record: MachineRecord) -> Record:
    state = record.state
    health = {"Health": _health(record.health)} if record.health is not None else {}
    return Record(
        Status=state,
        Running=state in ("running", "paused", "restarting"),
        Paused=state == "paused",
        Restarting=state == "restarting",
        OOMKilled=record.cause.kind == "oom",
        Dead=state == "dead",
        Pid=record.pid if state in ("running", "paused") else 0,
        ExitCode=record.exit_code,
        Error=record.cause.text if record.cause.kind == "start" else "",
        Cause=record.cause.text,
        StartedAt=units.stamp(record.started),
        FinishedAt=units.stamp(record.finished),
        **health,
    )


def _health(state: State) -> Record:
    return Record(
        Status=state.status,
        FailingStreak=state.streak,
        Log=[
            Record(
                Start=units.stamp(answer.start),
                End=units.stamp(answer.end),
                ExitCode=answer.code,
                Output=answer.output,
            )
            for answer in state.log
        ],
    )


def _healthcheck(spec: MachineSpec, image: Any) -> Any:
    """What was asked for, over what its image asks for; times in nanoseconds, as Docker's."""
    health, words = spec.health, dict(image) if isinstance(image, dict) else {}
    if health.test:
        words["Test"] = list(health.test)
    times = {
        "Interval": health.interval,
        "Timeout": health.timeout,
        "StartPeriod": health.start_period,
        "StartInterval": health.start_interval,
    }
    words |= {name: round(span * 1e9) for name, span in times.items() if span}
    if health.retries:
        words["Retries"] = health.retries
    return Record(words) if words else None


def _config(seen: calls.Inspected) -> Record:
    record, spec = seen.record, seen.record.spec
    image = image_config(seen.image.config) if seen.image else {}
    labels = {**(image.get("Labels") or {}), **spec.labels}
    environment = {w.partition("=")[0]: w for w in (*(image.get("Env") or ()), *spec.env)}
    entrypoint = image.get("Entrypoint") if spec.entrypoint is None else list(spec.entrypoint)
    command = list(spec.command) or (image.get("Cmd") if spec.entrypoint is None else None)
    attached = spec.attached
    if attached is None:
        attached = ("stdout", "stderr", *(("stdin",) if spec.stdin_open else ()))
    once = spec.stdin_once
    if once is None:
        once = spec.stdin_open and "stdin" in attached
    return Record(
        Hostname=spec.hostname or record.id[:12],
        Domainname=spec.domainname,
        User=spec.user or image.get("User") or "",
        AttachStdin="stdin" in attached,
        AttachStdout="stdout" in attached,
        AttachStderr="stderr" in attached,
        ExposedPorts={word: Record() for word in record.exposed},
        Tty=spec.tty,
        OpenStdin=spec.stdin_open,
        StdinOnce=once,
        Env=list(environment.values()) or NoList(),
        Cmd=command or NoList(),
        Healthcheck=_healthcheck(spec, image.get("Healthcheck")),
        Image=spec.image,
        Volumes=image.get("Volumes") or NoMap(),
        WorkingDir=spec.workdir or image.get("WorkingDir") or "",
        Entrypoint=entrypoint or NoList(),
        OnBuild=image.get("OnBuild") or NoList(),
        Labels=labels,
        StopSignal=spec.stop_signal or image.get("StopSignal") or "",
        StopTimeout=spec.stop_timeout,
    )


def _log_config(spec: MachineSpec) -> Record:
    if spec.log_driver == "none":
        return Record(Type="none", Config={})
    size = str(spec.log_max) if spec.log_max else "-1"
    return Record(Type=spec.log_driver, Config={"max-file": str(spec.log_files), "max-size": size})


def _host_config(spec: MachineSpec) -> Record:
    limits, security = spec.limits, spec.security
    options = [] if security.no_new_privileges else ["no-new-privileges=false"]
    if security.seccomp != "default":
        options.append(f"seccomp={security.seccomp}")
    return Record(
        Binds=[_bind(m) for m in spec.mounts if _is_bind(m) and not m.anonymous] or NoList(),
        VolumesFrom=list(spec.volumes_from) or NoList(),
        LogConfig=_log_config(spec),
        NetworkMode=spec.network,
        NetworkPolicy=list(spec.policy.words()) if spec.policy else NoList(),
        PortBindings=_bindings((p.port, p.protocol, p.ip, _host_port(p)) for p in spec.ports),
        PublishAllPorts=spec.publish_all,
        RestartPolicy=Record(Name=spec.restart.policy, MaximumRetryCount=spec.restart.retries),
        AutoRemove=spec.remove,
        CapAdd=_capabilities(security.cap_add),
        CapDrop=_capabilities(security.cap_drop),
        Dns=list(spec.dns),
        DnsOptions=list(spec.dns_options),
        DnsSearch=list(spec.dns_search),
        ExtraHosts=list(spec.extra_hosts) or NoList(),
        GroupAdd=list(spec.groups) or NoList(),
        IpcMode="private",
        PidMode="",
        CgroupnsMode="private",
        UsernsMode="host" if security.userns == "host" else "",
        OomScoreAdj=limits.oom_score_adj,
        Privileged=security.privileged,
        ReadonlyRootfs=security.read_only,
        SecurityOpt=options or NoList(),
        StorageOpt={"size": spec.storage_opt or str(limits.storage)} if limits.storage else NoMap(),
        Tmpfs={m.target: _tmpfs(m) for m in spec.mounts if _is_tmpfs(m)} or NoMap(),
        Mounts=[_asked_mount(m) for m in spec.mounts if _of_mount(m)] or NoList(),
        ShmSize=limits.shm or 64 << 20,
        Sysctls=dict(spec.sysctls),
        **_kept(spec),
        Isolation=spec.isolation,
        Init=spec.init,
        Annotations=spec.annotations,
        Memory=limits.memory,
        MemoryReservation=limits.memory_reservation,
        MemorySwap=limits.memory_swap or 2 * limits.memory,
        NanoCpus=round(limits.cpus * 1e9),
        CpuShares=limits.cpu_shares,
        CpusetCpus=limits.cpuset_cpus,
        CpusetMems=limits.cpuset_mems,
        BlkioWeight=limits.blkio_weight,
        **_rates(limits.rates),
        PidsLimit=limits.pids or 2048,
        Ulimits=[Record(Name=u.name, Hard=u.hard, Soft=u.soft) for u in limits.ulimits],
        Devices=[
            Record(PathOnHost=d.source, PathInContainer=d.target, CgroupPermissions=d.access)
            for d in spec.devices
        ],
        MaskedPaths=list(MASKED) if security.masked and not security.privileged else [],
        ReadonlyPaths=list(READONLY) if security.masked and not security.privileged else [],
        **_UNUSED,
    )


def _kept(spec: MachineSpec) -> dict[str, Any]:
    """What is read back as it was asked for."""
    return {
        "Runtime": spec.runtime or "cove",
        "VolumeDriver": spec.volume_driver,
        "UTSMode": spec.uts,
        "DeviceCgroupRules": list(spec.device_rules) or NoList(),
    }


def _rates(rates: tuple[DeviceRate, ...]) -> dict[str, Any]:
    names = {
        "read-bps": "BlkioDeviceReadBps",
        "write-bps": "BlkioDeviceWriteBps",
        "read-iops": "BlkioDeviceReadIOps",
        "write-iops": "BlkioDeviceWriteIOps",
    }
    return {
        name: [Record(Path=rate.path, Rate=rate.rate) for rate in rates if rate.kind == kind]
        for kind, name in names.items()
    }


def _capabilities(names: tuple[str, ...]) -> list[str]:
    return [name if name == "ALL" else f"CAP_{name}" for name in names] or NoList()


def _tmpfs(mount: Mount) -> str:
    if mount.words:
        return mount.words
    size = [f"size={mount.size}"] if mount.size else []
    mode = [f"mode={mount.mode:o}"] if mount.mode != TMPFS_MODE else []
    return ",".join((*size, *mode, *mount.options))


def _of_mount(mount: Mount) -> bool:
    """Asked for by ``--mount``: Docker keeps these apart from those of ``-v`` and ``--tmpfs``."""
    return mount.origin.startswith("--mount")


def _mounted(spec: MachineSpec) -> list[Mount]:
    """What Docker counts as mounts: a tmpfs only where ``--mount`` asked for it."""
    return [mount for mount in spec.mounts if not _is_tmpfs(mount)]


def _is_tmpfs(mount: Mount) -> bool:
    return mount.type == "tmpfs" and not _of_mount(mount)


def _is_bind(mount: Mount) -> bool:
    return mount.type in ("bind", "volume") and not _of_mount(mount)


def _asked_mount(mount: Mount) -> Record:
    asked = Record(Type=mount.type, Target=mount.target)
    if mount.source and not mount.anonymous:
        asked["Source"] = mount.source
    if mount.read_only:
        asked["ReadOnly"] = True
    if mount.type == "bind" and mount.propagation != "rprivate":
        asked["BindOptions"] = {"Propagation": mount.propagation}
    if mount.type == "volume" and (mount.labels or not mount.copy or mount.subpath):
        options = {"NoCopy": not mount.copy, "Labels": mount.labels, "Subpath": mount.subpath}
        asked["VolumeOptions"] = {name: value for name, value in options.items() if value}
    if mount.type == "tmpfs" and (mount.size or mount.mode != TMPFS_MODE):
        options = {"SizeBytes": mount.size, "Mode": mount.mode if mount.mode != TMPFS_MODE else 0}
        asked["TmpfsOptions"] = {name: value for name, value in options.items() if value}
    return asked


def _bind(mount: Mount) -> str:
    return f"{mount.source}:{mount.target}" + (":ro" if mount.read_only else "")


def _mount(mount: Mount, volumes: dict[str, str]) -> Record:
    if mount.type == "volume":
        return Record(
            Type="volume",
            Name=mount.source,
            Source=volumes.get(mount.source, ""),
            Destination=mount.target,
            Driver="local",
            Mode="ro" if mount.read_only else "z",
            RW=not mount.read_only,
            Propagation="",
        )
    return Record(
        Type=mount.type,
        Source=mount.source,
        Destination=mount.target,
        Mode="ro" if mount.read_only else "",
        RW=not mount.read_only,
        Propagation=mount.propagation if mount.type == "bind" else "",
    )


def _host_port(publish: Publish) -> str:
    if not publish.first:
        return ""
    span = publish.last > publish.first
    return f"{publish.first}-{publish.last}" if span else str(publish.first)


def _bindings(ports: Iterable[tuple[int, str, str, str]]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for port, protocol, ip, host in sorted(ports):
        found.setdefault(f"{port}/{protocol}", []).append(Record(HostIp=ip, HostPort=host))
    return found


def _ports(record: MachineRecord) -> dict[str, Any]:
    """Those that are open now; what else it serves has nothing."""
    held = _bindings((p.port, p.protocol, p.ip, str(p.host)) for p in published_now(record))
    return dict.fromkeys(exposed_now(record)) | held


def _linked(record: MachineRecord) -> list[str]:
    links = map(split_link, record.spec.links)
    return [f"/{name}:/{record.name}/{alias}" for name, alias in links] or NoList()


def _networks(record: MachineRecord) -> Record:
    held = _held(record)
    first = held.get(DEFAULT_NETWORK) or _network(None)  # Docker's old fields know no other one
    same = ("EndpointID", "Gateway", "IPAddress", "IPPrefixLen", "MacAddress", "IPv6Gateway",
            "GlobalIPv6Address", "GlobalIPv6PrefixLen")  # fmt: skip
    return Record(
        Bridge="", SandboxID="", Ports=_ports(record), HairpinMode=False,
        SandboxKey=f"/proc/{record.pid}/ns/net" if _has_place(record) else "",
        LinkLocalIPv6Address="", LinkLocalIPv6PrefixLen=0,
        SecondaryIPAddresses=NoList(), SecondaryIPv6Addresses=NoList(),
        **{name: first[name] for name in same},
        Networks=held,
    )  # fmt: skip


def _has_place(record: MachineRecord) -> bool:
    """Whether a network namespace of the host's kernel is its own now."""
    return record.state in ("running", "paused") and record.spec.isolation == "container"


def _held(record: MachineRecord) -> dict[str, Record]:
    """The places it has while it runs; those that it asks for otherwise."""
    asked = connections_of(record.spec)
    if record.endpoints:
        wished = {wish.network: wish for wish in asked}
        return {one.name: _network(one, wished.get(one.name), record) for one in record.endpoints}
    if machine_of(record.spec.network):
        return {}
    wishes = asked or (Connection(record.spec.network),)
    return {wish.network: _network(None, wish) for wish in wishes}


def _names(record: MachineRecord, endpoint: Endpoint) -> list[str]:
    """What it is called by others there; on the default network, as in Docker, nothing is told."""
    if endpoint.name == DEFAULT_NETWORK:
        return NoList()
    hostname = record.spec.hostname or record.id[:12]
    return list(dict.fromkeys((record.name, *endpoint.aliases, record.id[:12], hostname)))


def _network(
    endpoint: Endpoint | None, wish: Connection | None = None, record: MachineRecord | None = None
) -> Record:
    said = endpoint or wish
    aliases = said.aliases if said else ()
    options = {"forwarding": "true"} if said and said.forwards else {}
    options |= wish.driver_options if wish else {}
    address, _, bits = endpoint.address.partition("/") if endpoint else ("", "", "0")
    address6, _, bits6 = endpoint.address6.partition("/") if endpoint else ("", "", "")
    return Record(
        IPAMConfig=_addresses(wish),
        Links=list(wish.links if wish else ()) or NoList(), Aliases=list(aliases) or NoList(),
        DriverOpts=options or NoMap(),
        MacAddress=said.mac if said else "",
        NetworkID=endpoint.network if endpoint else "",
        EndpointID=endpoint_id(endpoint.network, record.id) if endpoint and record else "",
        Gateway=endpoint.gateway if endpoint else "", IPAddress=address, IPPrefixLen=int(bits),
        IPv6Gateway=endpoint.gateway6 if endpoint else "", GlobalIPv6Address=address6,
        GlobalIPv6PrefixLen=int(bits6 or 0),
        DNSNames=_names(record, endpoint) if endpoint and record else NoList(),
    )  # fmt: skip


def _addresses(wish: Connection | None) -> Record | None:
    """Those that it asked for."""
    if wish is None or not (wish.ip or wish.ip6):
        return None
    asked = {"IPv4Address": wish.ip, "IPv6Address": wish.ip6}
    return Record({name: address for name, address in asked.items() if address})


def status(record: MachineRecord, now: float) -> str:
    """``Up 2 minutes``, ``Exited (0) 3 hours ago``."""
    if record.state in ("running", "paused"):
        up = f"Up {units.human_duration(now - record.started)}"
        if record.state == "paused":
            return f"{up} (Paused)"
        word = health_of(record)
        return up if word == "none" else f"{up} ({'health: ' * (word == 'starting')}{word})"
    if record.state in ("exited", "restarting"):
        ago = units.human_duration(now - (record.finished or now))
        return f"{record.state.capitalize()} ({record.exit_code}) {ago} ago"
    return record.state.capitalize()


def health_of(record: MachineRecord) -> str:
    """starting, healthy, unhealthy; none: nobody asks."""
    return record.health.status if record.check and record.health else "none"
