"""The bodies that Docker's clients send, as typed data under Docker's names."""

from __future__ import annotations

from typing import Any

import msgspec


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
    blkio_weight: int = 0
    # what cove limits from a start on
    blkio_device_read_bps: Throttles = None
    blkio_device_write_bps: Throttles = None
    blkio_device_read_i_ops: Throttles = msgspec.field(default=None, name="BlkioDeviceReadIOps")
    blkio_device_write_i_ops: Throttles = msgspec.field(default=None, name="BlkioDeviceWriteIOps")
    # what cove has not
    blkio_weight_device: list[Any] | None = None
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
    stdin_once: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Any] | None = None
    volumes: dict[str, Any] | None = None
    mac_address: str = ""
    network_disabled: bool = False
    stop_signal: str = ""
    stop_timeout: int | None = None
    healthcheck: Healthcheck | None = None
    shell: Strings = None
    runtime: str = ""
    """Where docker-py puts it."""
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


CONTAINER = msgspec.json.Decoder(Container)
EXEC = msgspec.json.Decoder(Exec)
UPDATE = msgspec.json.Decoder(Resources)
ENDPOINT = msgspec.json.Decoder(EndpointConfig)
"""Made at import, by one thread: msgspec crashes when two make one type's decoder at once."""
