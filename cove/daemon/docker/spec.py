"""What Docker's clients ask of a container, as cove's spec. Pure.

It goes through the same flags as a command line does: what a flag refuses is refused here, in the
same words. What no flag says is refused by the field's name, never left out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from cove.errors import CoveError, Unsupported, UsageError
from cove.spec import network
from cove.spec.assemble import Caller, assemble_machine
from cove.spec.check import check_exec, check_machine
from cove.spec.flags import CREATE, REFUSED, Flag
from cove.spec.health import Health
from cove.spec.machine import ExecSpec, MachineSpec
from cove.spec.typed import Typed, read_values

FLAGS = {flag.name: flag for flag in CREATE}
Words = Iterator[tuple[str, str]]
"""Name of a flag, and the text of its value."""


class Struct(msgspec.Struct, rename="pascal"):
    """Of Docker's: a field that is null or absent has its default."""


Strings = list[str] | None
StringMap = dict[str, str] | None


class Device(Struct):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class Ulimit(Struct):
    name: str = ""
    soft: int = 0
    hard: int = 0


class PortBinding(Struct):
    host_ip: str = ""
    host_port: str = ""


class LogConfig(Struct):
    type: str = ""
    config: StringMap = None


class Throttle(Struct):
    path: str
    rate: int = 0


Throttles = list[Throttle] | None


class RestartPolicy(Struct):
    name: str = ""
    maximum_retry_count: int = 0


class BindOptions(Struct):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class VolumeDriver(Struct):
    name: str = ""
    options: StringMap = None


class VolumeOptions(Struct):
    no_copy: bool = False
    labels: StringMap = None
    driver_config: VolumeDriver | None = None
    subpath: str = ""


class TmpfsOptions(Struct):
    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] | None = None


class Mount(Struct):
    type: str = "bind"
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class Resources(Struct):
    """What an update may change, too."""

    memory: int = 0
    memory_swap: int = 0
    memory_reservation: int = 0
    nano_cpus: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int | None = None
    restart_policy: RestartPolicy | None = None
    # what cove has not
    blkio_weight: int = 0
    blkio_weight_device: list[Any] | None = None
    blkio_device_read_bps: Throttles = None
    blkio_device_write_bps: Throttles = None
    blkio_device_read_i_ops: Throttles = msgspec.field(default=None, name="BlkioDeviceReadIOps")
    blkio_device_write_i_ops: Throttles = msgspec.field(default=None, name="BlkioDeviceWriteIOps")
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpu_count: int = 0
    cpu_percent: int = 0
    i_o_maximum_i_ops: int = msgspec.field(default=0, name="IOMaximumIOps")
    i_o_maximum_bandwidth: int = msgspec.field(default=0, name="IOMaximumBandwidth")
    kernel_memory: int = 0
    kernel_memory_t_c_p: int = msgspec.field(default=0, name="KernelMemoryTCP")
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    cgroup_parent: str = ""
    device_cgroup_rules: Strings = None
    device_requests: list[Any] | None = None


class HostConfig(Resources):
    binds: Strings = None
    volumes_from: Strings = None
    mounts: list[Mount] | None = None
    tmpfs: StringMap = None
    volume_driver: str = ""
    storage_opt: StringMap = None
    shm_size: int = 0
    readonly_rootfs: bool = False
    devices: list[Device] | None = None
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] | None = None
    publish_all_ports: bool = False
    dns: Strings = None
    dns_options: Strings = None
    dns_search: Strings = None
    extra_hosts: Strings = None
    links: Strings = None
    cap_add: Strings = None
    cap_drop: Strings = None
    privileged: bool = False
    security_opt: Strings = None
    masked_paths: Strings = None
    readonly_paths: Strings = None
    group_add: Strings = None
    sysctls: StringMap = None
    ulimits: list[Ulimit] | None = None
    oom_score_adj: int = 0
    ipc_mode: str = ""
    pid_mode: str = ""
    uts_mode: str = msgspec.field(default="", name="UTSMode")
    cgroupns_mode: str = ""
    userns_mode: str = ""
    cgroup: str = ""
    isolation: str = ""
    runtime: str = ""
    init: bool | None = None
    auto_remove: bool = False
    log_config: LogConfig | None = None
    annotations: StringMap = None


class IPAMConfig(Struct):
    i_pv4_address: str = msgspec.field(default="", name="IPv4Address")
    i_pv6_address: str = msgspec.field(default="", name="IPv6Address")
    link_local_i_ps: Strings = msgspec.field(default=None, name="LinkLocalIPs")


class EndpointConfig(Struct):
    i_p_a_m_config: IPAMConfig | None = msgspec.field(default=None, name="IPAMConfig")
    aliases: Strings = None
    mac_address: str = ""
    links: Strings = None
    driver_opts: StringMap = None


class NetworkingConfig(Struct):
    endpoints_config: dict[str, EndpointConfig | None] | None = None


class Healthcheck(Struct):
    test: Strings = None
    interval: int | None = None
    timeout: int | None = None
    retries: int | None = None
    start_period: int | None = None
    start_interval: int | None = None


class Container(Struct):
    """The body of ``POST /containers/create``."""

    image: str = ""
    cmd: list[str] | str | None = None
    entrypoint: list[str] | str | None = None
    hostname: str = ""
    domainname: str = ""
    user: str = ""
    env: Strings = None
    working_dir: str = ""
    labels: StringMap = None
    tty: bool = False
    open_stdin: bool = False
    exposed_ports: dict[str, Any] | None = None
    volumes: dict[str, Any] | None = None
    mac_address: str = ""
    network_disabled: bool = False
    stop_signal: str = ""
    stop_timeout: int | None = None
    healthcheck: Healthcheck | None = None
    shell: Strings = None
    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None


class Exec(Struct):
    """The body of ``POST /containers/{id}/exec``."""

    cmd: list[str] | str | None = None
    env: Strings = None
    user: str = ""
    working_dir: str = ""
    tty: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach_keys: str = ""
    privileged: bool = False
    console_size: list[int] | None = None


NOT_HERE = {
    "blkio_weight_device": "blkio-weight-device",
    "cpu_realtime_period": "cpu-rt-period",
    "cpu_realtime_runtime": "cpu-rt-runtime",
    "kernel_memory": "kernel-memory",
    "kernel_memory_t_c_p": "kernel-memory",
    "oom_kill_disable": "oom-kill-disable",
    "cgroup_parent": "cgroup-parent",
    "device_cgroup_rules": "device-cgroup-rule",
    "device_requests": "gpus",
    "links": "link",
}
"""Fields that cove refuses for the same reason as the flag."""
OTHERS = {
    "cpu_count": "only Windows has it",
    "cpu_percent": "only Windows has it",
    "i_o_maximum_i_ops": "only Windows has it",
    "i_o_maximum_bandwidth": "only Windows has it",
    "cgroup": "every machine has its own control group",
}
DEFAULT_LOG = "json-file"
"""docker-py reads no log of a container whose driver it does not know to keep one."""
RUNTIMES = ("", "cove", "runc", "io.containerd.runc.v2")
"""Names that ask for what is there anyway."""


def machine_from_docker(asked: Container, name: str, platform: str = "") -> MachineSpec:
    """The spec, judged as a whole.

    Raises:
        UsageError: what is asked for makes no sense.
        Unsupported: cove has no such thing; its name is told.
    """
    host = asked.host_config or HostConfig()
    refuse(host)
    if not asked.image:
        raise UsageError("cannot create a container: no image was named")
    words = [*_process(asked), *_host(host), *_network_words(asked, host)]
    if name:
        words.append(("name", name))
    if platform:
        words.append(("platform", platform))
    values: dict[str, Any] = dict(read_values.__wrapped__(typed(words)))
    values[".env"] = tuple(asked.env or ())
    values["labels"] = tuple((asked.labels or {}).items())
    values["annotations"] = tuple((host.annotations or {}).items())
    connections = tuple(_connections(asked, host))
    if connections:
        values["network"] = connections
    # A seccomp profile comes along as its own text.
    nobody = Caller("/", {}, lambda text: text)
    spec = assemble_machine(values, nobody, image=asked.image, command=_command(asked.cmd))
    spec = msgspec.structs.replace(
        spec, entrypoint=_entrypoint(asked.entrypoint), health=_health(asked.healthcheck)
    )
    if host.masked_paths == [] and host.readonly_paths == []:
        open_paths = msgspec.structs.replace(spec.security, masked=False)
        spec = msgspec.structs.replace(spec, security=open_paths)
    check_machine(spec)
    return spec


def exec_from_docker(asked: Exec, default_keys: str = "") -> ExecSpec:
    command = _command(asked.cmd)
    if not command:
        raise UsageError("No exec command specified")
    spec = ExecSpec(
        command=command,
        user=asked.user,
        workdir=asked.working_dir,
        env=tuple(asked.env or ()),
        tty=asked.tty,
        stdin_open=asked.attach_stdin,
        privileged=asked.privileged,
        detach_keys=asked.detach_keys or default_keys or "ctrl-p,ctrl-q",
    )
    check_exec(spec)
    return spec


def refuse(config: Resources) -> None:
    """What is asked for and cove has not, by its name."""
    for field, flag in NOT_HERE.items():
        if getattr(config, field, None):
            raise unsupported(field, REFUSED[flag][0])
    for field, why in OTHERS.items():
        if getattr(config, field, None):
            raise unsupported(field, why)
    if config.memory_swappiness not in (None, -1):
        raise unsupported("memory_swappiness", REFUSED["memory-swappiness"][0])
    if isinstance(config, HostConfig):
        if config.runtime not in RUNTIMES:
            raise unsupported("runtime", REFUSED["runtime"][0])
        if config.masked_paths or config.readonly_paths:
            raise Unsupported(
                "cannot use MaskedPaths or ReadonlyPaths: cove masks a fixed list, or nothing"
            )


def unsupported(field: str, why: str) -> CoveError:
    names = {f.name: f.encode_name for f in msgspec.structs.fields(HostConfig)}
    return Unsupported(f"cannot use {names.get(field, field)}: {why}")


def typed(words: Iterable[tuple[str, str]]) -> Typed:
    found: list[tuple[Flag, str]] = []
    for name, text in words:
        if name not in FLAGS:
            why = REFUSED.get(name, ("cove has no such thing", True))[0]
            raise Unsupported(f"cannot use --{name}: {why}")
        found.append((FLAGS[name], text))
    return tuple(found)


def _command(words: list[str] | str | None) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else tuple(words or ())


def _entrypoint(words: list[str] | str | None) -> tuple[str, ...] | None:
    """One empty word takes the image's away; none leaves it."""
    found = _command(words)
    return (() if found == ("",) else found) if found else None


# ---- the words of a command line ----


def _process(asked: Container) -> Words:
    for name, text in (
        ("hostname", asked.hostname),
        ("domainname", asked.domainname),
        ("user", asked.user),
        ("workdir", asked.working_dir),
        ("stop-signal", asked.stop_signal),
    ):
        if text:
            yield name, text
    if asked.stop_timeout is not None:
        yield "stop-timeout", str(asked.stop_timeout)
    for name, on in (("tty", asked.tty), ("interactive", asked.open_stdin)):
        if on:
            yield name, "true"
    yield from (("expose", port) for port in asked.exposed_ports or ())
    yield from (("volume", target) for target in asked.volumes or ())


def _health(check: Healthcheck | None) -> Health:
    if check is None:
        return Health()
    return Health(
        tuple(check.test or ()),
        interval=(check.interval or 0) / 1e9,
        timeout=(check.timeout or 0) / 1e9,
        start_period=(check.start_period or 0) / 1e9,
        start_interval=(check.start_interval or 0) / 1e9,
        retries=check.retries or 0,
    )


def _host(host: HostConfig) -> Words:
    yield from resource_words(host)
    for name, on in (
        ("rm", host.auto_remove),
        ("privileged", host.privileged),
        ("read-only", host.readonly_rootfs),
        ("publish-all", host.publish_all_ports),
        ("init", bool(host.init)),
    ):
        if on:
            yield name, "true"
    for name, text in (
        ("isolation", host.isolation),
        ("ipc", host.ipc_mode),
        ("pid", host.pid_mode),
        ("uts", host.uts_mode),
        ("cgroupns", host.cgroupns_mode),
        ("userns", host.userns_mode),
        ("volume-driver", host.volume_driver),
    ):
        if text:
            yield name, text
    for name, number in (("shm-size", host.shm_size), ("oom-score-adj", host.oom_score_adj)):
        if number:
            yield name, str(number)
    for name, many in (
        ("volume", host.binds),
        ("volumes-from", host.volumes_from),
        ("dns", host.dns),
        ("dns-option", host.dns_options),
        ("dns-search", host.dns_search),
        ("add-host", host.extra_hosts),
        ("cap-add", host.cap_add),
        ("cap-drop", host.cap_drop),
        ("group-add", host.group_add),
        ("security-opt", host.security_opt),
    ):
        yield from ((name, word) for word in many or ())
    for name, pairs in (("sysctl", host.sysctls), ("storage-opt", host.storage_opt)):
        yield from ((name, f"{key}={value}") for key, value in (pairs or {}).items())
    yield from _files(host)
    log = host.log_config or LogConfig()
    yield "log-driver", log.type or DEFAULT_LOG
    yield from (("log-opt", f"{key}={value}") for key, value in (log.config or {}).items())


def resource_words(config: Resources) -> Words:
    for name, number in (
        ("memory", config.memory),
        ("memory-swap", config.memory_swap),
        ("memory-reservation", config.memory_reservation),
        ("cpu-shares", config.cpu_shares),
        ("cpu-period", config.cpu_period),
        ("cpu-quota", config.cpu_quota),
        ("blkio-weight", config.blkio_weight),
    ):
        if number:
            yield name, str(number)
    if config.nano_cpus:
        yield "cpus", f"{config.nano_cpus / 1e9:.9f}".rstrip("0").rstrip(".")
    if config.pids_limit:
        yield "pids-limit", str(config.pids_limit)
    for name, text in (
        ("cpuset-cpus", config.cpuset_cpus),
        ("cpuset-mems", config.cpuset_mems),
    ):
        if text:
            yield name, text
    for name, throttles in (
        ("device-read-bps", config.blkio_device_read_bps),
        ("device-write-bps", config.blkio_device_write_bps),
        ("device-read-iops", config.blkio_device_read_i_ops),
        ("device-write-iops", config.blkio_device_write_i_ops),
    ):
        yield from ((name, f"{throttle.path}:{throttle.rate}") for throttle in throttles or ())
    policy = config.restart_policy
    if policy is not None and policy.name:
        retries = f":{policy.maximum_retry_count}" if policy.maximum_retry_count else ""
        yield "restart", policy.name + retries


def _files(host: HostConfig) -> Words:
    for target, options in (host.tmpfs or {}).items():
        yield "tmpfs", f"{target}:{options}" if options else target
    for device in host.devices or ():
        target = device.path_in_container or device.path_on_host
        yield "device", f"{device.path_on_host}:{target}:{device.cgroup_permissions or 'rwm'}"
    for limit in host.ulimits or ():
        yield "ulimit", f"{limit.name}={limit.soft}:{limit.hard}"
    for mount in host.mounts or ():
        yield "mount", _mount(mount)


def _mount(mount: Mount) -> str:
    """As ``--mount`` has it: one line of CSV."""
    words = [f"type={mount.type}", f"target={mount.target}"]
    words += [f"source={mount.source}"] if mount.source else []
    words += ["readonly"] if mount.read_only else []
    bind, volume, tmpfs = mount.bind_options, mount.volume_options, mount.tmpfs_options
    if bind is not None and mount.type == "bind":
        words += [f"bind-propagation={bind.propagation}"] if bind.propagation else []
        words += ["bind-recursive=disabled"] if bind.non_recursive else []
        words += ["bind-recursive=writable"] if bind.read_only_non_recursive else []
        words += ["bind-create-src"] if bind.create_mountpoint else []
    if volume is not None and mount.type == "volume":
        driver = volume.driver_config or VolumeDriver()
        words += ["volume-nocopy"] if volume.no_copy else []
        words += [f"volume-label={k}={v}" for k, v in (volume.labels or {}).items()]
        words += [f"volume-driver={driver.name}"] if driver.name else []
        words += [f"volume-opt={k}={v}" for k, v in (driver.options or {}).items()]
        words += [f"volume-subpath={volume.subpath}"] if volume.subpath else []
    if tmpfs is not None and mount.type == "tmpfs":
        words += [f"tmpfs-size={tmpfs.size_bytes}"] if tmpfs.size_bytes else []
        words += [f"tmpfs-mode={tmpfs.mode:o}"] if tmpfs.mode else []
        words += [f"tmpfs-opt={'='.join(option)}" for option in tmpfs.options or ()]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(words)
    return line.getvalue()


# ---- networks ----


def _network_words(asked: Container, host: HostConfig) -> Words:
    for port, bindings in (host.port_bindings or {}).items():
        for binding in bindings or (PortBinding(),):
            ip = f"[{binding.host_ip}]" if ":" in binding.host_ip else binding.host_ip
            held = binding.host_port if binding.host_port != "0" else ""
            before = f"{ip}:{held}:" if ip else f"{held}:" if held else ""
            yield "publish", before + port
    mode, places = host.network_mode, _places(asked)
    if mode in ("", network.ASKED_FOR) and asked.mac_address and not places:
        yield "mac-address", asked.mac_address


def _places(asked: Container) -> dict[str, EndpointConfig]:
    config = asked.networking_config or NetworkingConfig()
    return {
        name: place or EndpointConfig() for name, place in (config.endpoints_config or {}).items()
    }


def _connections(asked: Container, host: HostConfig) -> Iterator[network.Connection]:
    """The network of the mode first, with what is said of it; then the others."""
    places = _places(asked)
    mode = "none" if asked.network_disabled else host.network_mode
    if mode in ("", network.ASKED_FOR):
        mode = ""
        places.pop(network.ASKED_FOR, None)
        if not places:
            return
    first = mode or next(iter(places))
    said = places.pop(first, EndpointConfig())
    if not said.mac_address and asked.mac_address:
        said = msgspec.structs.replace(said, mac_address=asked.mac_address)
    yield connection_from_docker(first, said)
    for name, place in places.items():
        yield connection_from_docker(name, place)


def connection_from_docker(name: str, place: EndpointConfig) -> network.Connection:
    wishes = place.i_p_a_m_config or IPAMConfig()
    if place.links:
        raise Unsupported(f"cannot use Links: {REFUSED['link'][0]}")
    if wishes.link_local_i_ps:
        raise Unsupported(f"cannot use LinkLocalIPs: {network.LINK_LOCAL}")
    return network.Connection(
        name,
        ip=network.parse_ipv4(wishes.i_pv4_address) if wishes.i_pv4_address else "",
        ip6=network.parse_ipv6(wishes.i_pv6_address) if wishes.i_pv6_address else "",
        mac=network.parse_mac(place.mac_address) if place.mac_address else "",
        aliases=tuple(dict.fromkeys(map(network.parse_alias, place.aliases or ()))),
    )


CONTAINER = msgspec.json.Decoder(Container)
EXEC = msgspec.json.Decoder(Exec)
UPDATE = msgspec.json.Decoder(Resources)
ENDPOINT = msgspec.json.Decoder(EndpointConfig)
"""Made at import, by one thread: msgspec crashes when two make one type's decoder at once."""
