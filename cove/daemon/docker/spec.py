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

from cove.daemon.docker.bodies import (
    Container,
    EndpointConfig,
    Exec,
    Healthcheck,
    HostConfig,
    IPAMConfig,
    LogConfig,
    Mount,
    NetworkingConfig,
    PortBinding,
    Resources,
    VolumeDriver,
)
from cove.errors import CoveError, Unsupported, UsageError
from cove.spec import links, network
from cove.spec.assemble import Caller, assemble_machine
from cove.spec.check import check_exec, check_machine
from cove.spec.flags import CREATE, REFUSED, Flag
from cove.spec.health import Health
from cove.spec.machine import ExecSpec, MachineSpec
from cove.spec.typed import Typed, read_values
from cove.spec.values import clean_path

FLAGS = {flag.name: flag for flag in CREATE}
Words = Iterator[tuple[str, str]]
"""Name of a flag, and the text of its value."""


NOT_HERE = {
    "blkio_weight_device": "blkio-weight-device",
    "cpu_realtime_period": "cpu-rt-period",
    "cpu_realtime_runtime": "cpu-rt-runtime",
    "kernel_memory": "kernel-memory",
    "kernel_memory_t_c_p": "kernel-memory",
    "oom_kill_disable": "oom-kill-disable",
    "cgroup_parent": "cgroup-parent",
    "device_requests": "gpus",
}
"""Fields that cove refuses for the same reason as the flag."""
OTHERS = {
    "cpu_count": "only Windows has it",
    "cpu_percent": "only Windows has it",
    "i_o_maximum_i_ops": "only Windows has it",
    "i_o_maximum_bandwidth": "only Windows has it",
    "cgroup": "every machine has its own control group",
}
NO_SWAPPINESS = (
    "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. "
    "Memory swappiness discarded."
)
"""As Docker says it on cgroup v2; cove sets it on no host."""
LOG_DRIVERS = (
    "json-file", "local", "none", "syslog", "journald", "gelf", "fluentd", "awslogs", "splunk",
    "etwlogs", "gcplogs",
)  # fmt: skip
"""Docker's; those that cove has not are refused by its flag."""
DEFAULT_LOG = "json-file"
"""docker-py reads no log of a container whose driver it does not know to keep one."""


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
    asked.runtime = host.runtime or asked.runtime
    words = [*_process(asked), *_host(host), *_network_words(asked, host)]
    if name:
        words.append(("name", name))
    if platform:
        words.append(("platform", platform))
    values: dict[str, Any] = dict(read_values.__wrapped__(typed(words)))
    values[".env"] = tuple(asked.env or ())
    values["labels"] = tuple((asked.labels or {}).items())
    values["annotations"] = tuple((host.annotations or {}).items())
    values["attached"] = tuple(
        name
        for name, on in (
            ("stdin", asked.attach_stdin),
            ("stdout", asked.attach_stdout),
            ("stderr", asked.attach_stderr),
        )
        if on
    )
    values["stdin_once"] = asked.stdin_once
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
    if isinstance(config, HostConfig) and (config.masked_paths or config.readonly_paths):
        raise Unsupported(
            "cannot use MaskedPaths or ReadonlyPaths: cove masks a fixed list, or nothing"
        )


def discarded(asked: Container) -> tuple[str, ...]:
    """What Docker drops with a warning where the kernel has none, dropped and told the same way."""
    host = asked.host_config or HostConfig()
    return () if host.memory_swappiness in (None, -1) else (NO_SWAPPINESS,)


def refuse_to_change(config: Resources) -> None:
    """What an update leaves as it is, by its name."""
    if config.memory_swappiness not in (None, -1):
        raise unsupported("memory_swappiness", REFUSED["memory-swappiness"][0])
    if config.device_cgroup_rules:
        raise unsupported("device_cgroup_rules", "they are those that it was made with")
    for field in (
        "blkio_device_read_bps",
        "blkio_device_write_bps",
        "blkio_device_read_i_ops",
        "blkio_device_write_i_ops",
    ):
        if getattr(config, field):
            raise unsupported(field, "rates of block devices are those that it was made with")


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
        ("runtime", asked.runtime),
    ):
        if text:
            yield name, text
    if asked.stop_timeout is not None:
        yield "stop-timeout", str(asked.stop_timeout)
    for name, on in (("tty", asked.tty), ("interactive", asked.open_stdin)):
        if on:
            yield name, "true"
    yield from (("expose", port) for port in asked.exposed_ports or ())
    taken = set(_targets(asked.host_config or HostConfig()))
    yield from (("volume", t) for t in asked.volumes or () if clean_path(t) not in taken)


def _targets(host: HostConfig) -> Iterator[str]:
    """Where something is mounted that says more than a volume without a name."""
    for bind in host.binds or ():
        yield clean_path(bind.split(":")[1 if ":" in bind else 0])
    yield from (clean_path(mount.target) for mount in host.mounts or ())
    yield from map(clean_path, host.tmpfs or ())


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
        ("link", host.links),
        ("device-cgroup-rule", host.device_cgroup_rules),
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
    if log.type and log.type not in LOG_DRIVERS:
        raise UsageError(f"logger: no log driver named '{log.type}' is registered")
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
    if wishes.link_local_i_ps:
        raise Unsupported(f"cannot use LinkLocalIPs: {network.LINK_LOCAL}")
    return network.Connection(
        name,
        ip=network.parse_ipv4(wishes.i_pv4_address) if wishes.i_pv4_address else "",
        ip6=network.parse_ipv6(wishes.i_pv6_address) if wishes.i_pv6_address else "",
        mac=network.parse_mac(place.mac_address) if place.mac_address else "",
        aliases=tuple(dict.fromkeys(map(network.parse_alias, place.aliases or ()))),
        links=tuple(dict.fromkeys(map(links.parse_link, place.links or ()))),
        **_options(place.driver_opts or {}),
    )


def _options(said: dict[str, str]) -> dict[str, Any]:
    """What is forwarded is cove's to say; as Docker does, a stranger's words are only kept."""
    others = {name: value for name, value in said.items() if name != network.FORWARDING}
    for name, value in others.items():
        network.kept_option(name, value)
    word = f"{network.FORWARDING}={said.get(network.FORWARDING, 'false')}"
    return {"forwards": network.parse_driver_option(word), "driver_options": others}
