"""Every option of ``run``, ``create``, ``plan`` and ``exec``, declared once. Pure.

A flag knows its spelling, the parser of its value, its help and the field of the spec it fills; the
command line, its help and docs/cli.md are made from these rows. A field that begins with ``.`` is
not part of the spec: it tells the command what to do, or needs the caller's files to be completed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cove.spec import (
    environment,
    grants,
    health,
    links,
    mounts,
    network,
    policy,
    ports,
    rates,
    restart,
    values,
    volume,
)


@dataclass(frozen=True, slots=True, eq=False)
class Flag:
    name: str
    field: str
    help: str
    short: str = ""
    metavar: str = ""
    """Empty: a switch; it may still be typed ``--name=false``."""
    parse: Callable[[str], Any] = str
    """Of one value. When ``field`` is empty it answers (field, value) pairs."""
    repeat: bool = False
    group: str = "General"
    aliases: tuple[str, ...] = ()
    default: object = None
    """What is used when it is not typed; for the help only."""

    @property
    def switch(self) -> bool:
        return not self.metavar

    @property
    def spellings(self) -> tuple[str, ...]:
        """As typed: ``-m``, ``--memory``."""
        short = (f"-{self.short}",) if self.short else ()
        return (*short, f"--{self.name}", *(f"--{alias}" for alias in self.aliases))


def parse_entrypoint(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


def parse_attach(text: str) -> str:
    word = text.lower()
    if word not in ("stdin", "stdout", "stderr"):
        raise values.bad("stream", text, "it is stdin, stdout or stderr")
    return word


def parse_isolation(text: str) -> str:
    word = text.lower()
    if word in ("", "default", "process"):
        return "container"
    if word not in ("container", "vm"):
        raise values.bad("isolation", text, "it is container or vm")
    return word


def parse_pull(text: str) -> str:
    if text not in ("always", "missing", "never"):
        raise values.bad("pull policy", text, "it is missing, always or never")
    return text


_ARCHITECTURES = {
    "x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "i386": "386",
}  # fmt: skip


def parse_platform(text: str) -> str:
    """``linux/amd64``, ``linux/arm/v7``, or an architecture alone."""
    words = text.lower().split("/")
    if words[0] != "linux":
        words.insert(0, "linux")
    if len(words) > 3 or not all(word.isalnum() or word in _ARCHITECTURES for word in words):
        raise values.bad("platform", text, "not linux/ARCHITECTURE", hint="write linux/amd64")
    if len(words) > 1:
        words[1] = _ARCHITECTURES.get(words[1], words[1])
    return "/".join(words)


PROCESS = (
    Flag("env", ".env", "Set a variable; a name alone takes your own value", "e", "NAME=VALUE",
         environment.parse_env, repeat=True, group="Process"),
    Flag("env-file", ".env_file", "Read variables from a file", "", "FILE", repeat=True,
         group="Process"),
    Flag("interactive", "stdin_open", "Keep standard input open", "i", group="Terminal"),
    Flag("tty", "tty", "Give it a terminal", "t", group="Terminal"),
    Flag("user", "user", "Run as this user, by name or id", "u", "USER[:GROUP]", values.parse_user,
         group="Process"),
    Flag("workdir", "workdir", "Directory to start in", "w", "DIR", values.parse_workdir,
         group="Process"),
    Flag("detach-keys", "detach_keys", "Keys that leave it running and return to you", "", "KEYS",
         values.check_detach_keys, group="Terminal", default="ctrl-p,ctrl-q"),
)  # fmt: skip
"""What run and exec share."""

DETACH = Flag("detach", ".detach", "Leave it running and print its id", "d", group="Terminal")

EXEC = (
    *PROCESS,
    Flag("detach", ".detach", "Leave it running and return at once", "d", group="Terminal"),
    Flag("privileged", "privileged", "With all capabilities", group="Security"),
)

_ATTACHED = (
    DETACH,
    Flag("attach", ".attach", "Attach to stdin, stdout or stderr", "a", "STREAM", parse_attach,
         repeat=True, group="Terminal"),
    Flag("sig-proxy", ".sig_proxy", "Pass signals on to the machine", group="Terminal",
         default=True),
)  # fmt: skip

MACHINE = (
    Flag("name", "name", "Name of the machine", "", "NAME", values.parse_name),
    Flag("rm", "remove", "Remove the machine when it ends"),
    Flag("cidfile", ".cidfile", "Write the id to a new file", "", "FILE"),
    Flag("label", "labels", "Attach a label", "l", "NAME[=VALUE]", values.parse_label,
         repeat=True),
    Flag("label-file", ".label_file", "Read labels from a file", "", "FILE", repeat=True),
    Flag("annotation", "annotations", "Attach an annotation", "", "NAME=VALUE", values.parse_label,
         repeat=True),
    Flag("isolation", "isolation", "container or vm", "", "KIND", parse_isolation,
         default="container"),
    Flag("vm", ".vm", "The same as --isolation vm: a kernel of its own"),
    Flag("platform", "platform", "Of the image: linux/amd64", "", "PLATFORM", parse_platform),
    Flag("quiet", ".quiet", "Print no progress", "q"),
    Flag("pull", ".pull", "When to fetch the image: missing, always or never", "", "WHEN",
         parse_pull, default="missing"),
    # process
    Flag("entrypoint", "entrypoint", "Replace the image's entrypoint; empty: none", "", "PROGRAM",
         parse_entrypoint, group="Process"),
    Flag("group-add", "groups", "One more group, by name or id", "", "GROUP", values.parse_group,
         repeat=True, group="Process"),
    Flag("init", "init", "Run a small init as process 1 that reaps and forwards signals",
         group="Process"),
    Flag("stop-signal", "stop_signal", "Signal that asks it to end", "", "SIGNAL",
         values.check_signal, group="Process", default="SIGTERM"),
    Flag("stop-timeout", "stop_timeout", "Seconds from that signal to SIGKILL; -1: never", "",
         "SECONDS", values.parse_int, group="Process", default=10),
    Flag("restart", "restart", "When to start it again after its end: no, on-failure[:N], "
         "always, unless-stopped", "", "POLICY", restart.parse_restart, group="Process",
         default="no"),
    Flag("timeout", "timeout", "End it this long after its start: 30s, 5m", "", "TIME",
         values.parse_duration, group="Process"),
    # health
    Flag("health-cmd", "health.test", "A command that tells by its exit code whether it is well",
         "", "COMMAND", health.parse_test, group="Health"),
    Flag("health-interval", "health.interval", "Time between two checks", "", "TIME",
         health.parse_span, group="Health", default="30s"),
    Flag("health-timeout", "health.timeout", "A check that takes longer has failed", "", "TIME",
         health.parse_span, group="Health", default="30s"),
    Flag("health-retries", "health.retries", "So many failures in a row make it unhealthy", "",
         "NUMBER", values.parse_int, group="Health", default=3),
    Flag("health-start-period", "health.start_period",
         "Time after the start in which failures do not count", "", "TIME", health.parse_span,
         group="Health", default="0s"),
    Flag("health-start-interval", "health.start_interval", "Time between two checks meanwhile", "",
         "TIME", health.parse_span, group="Health", default="5s"),
    Flag("no-healthcheck", ".no_healthcheck", "No checks, also none of the image's",
         group="Health"),
    # files
    Flag("volume", "mounts", "Mount a volume by its name, or a directory of the host", "v",
         "SOURCE:TARGET[:ro]",
         mounts.parse_volume, repeat=True, group="Files"),
    Flag("mount", "mounts", "The same in key=value words; type volume, bind or tmpfs", "",
         "type=…,source=…,target=…", mounts.parse_mount, repeat=True, group="Files"),
    Flag("volumes-from", "volumes_from", "Mount what another machine has mounted", "",
         "MACHINE[:ro]", volume.parse_volumes_from, repeat=True, group="Files"),
    Flag("volume-driver", "volume_driver", "Of volumes that are made for it: only local", "",
         "DRIVER", group="Files"),
    Flag("tmpfs", "mounts", "An empty directory in memory", "", "TARGET[:OPTIONS]",
         mounts.parse_tmpfs, repeat=True, group="Files"),
    Flag("read-only", "security.read_only", "No writing to the root file system", group="Files"),
    Flag("storage-opt", "", "size=: how much it may write", "", "size=SIZE",
         grants.parse_storage_opt, repeat=True, group="Files"),
    Flag("shm-size", "limits.shm", "Size of /dev/shm", "", "SIZE", values.parse_size,
         group="Files", default="64m"),
    Flag("device", "devices", "A device of the host", "", "SOURCE[:TARGET][:rwm]",
         grants.parse_device, repeat=True, group="Files"),
    Flag("device-cgroup-rule", "device_rules", "Devices that may be opened where a bind shows "
         "their nodes", "", "KIND MAJOR:MINOR rwm", grants.parse_device_rule, repeat=True,
         group="Files"),
    # limits
    Flag("memory", "limits.memory", "Most memory", "m", "SIZE", values.parse_size, group="Limits"),
    Flag("memory-swap", "limits.memory_swap", "Most memory and swap together; -1: any swap", "",
         "SIZE", values.parse_swap, group="Limits"),
    Flag("memory-reservation", "limits.memory_reservation",
         "Memory to keep when the host is short", "", "SIZE", values.parse_size, group="Limits"),
    Flag("cpus", "limits.cpus", "How many CPUs' worth of time", "", "NUMBER", values.parse_cpus,
         group="Limits"),
    Flag("cpu-shares", "limits.cpu_shares", "Weight beside other machines", "c", "NUMBER",
         values.parse_int, group="Limits", default=1024),
    Flag("cpu-period", ".cpu_period", "Of --cpu-quota, in microseconds", "", "NUMBER",
         values.parse_int, group="Limits", default=100000),
    Flag("cpu-quota", ".cpu_quota", "Microseconds of CPU in each period", "", "NUMBER",
         values.parse_int, group="Limits"),
    Flag("cpuset-cpus", "limits.cpuset_cpus", "On which CPUs: 0-3,5", "", "LIST",
         values.parse_cpuset, group="Limits"),
    Flag("cpuset-mems", "limits.cpuset_mems", "On which memory nodes", "", "LIST",
         values.parse_cpuset, group="Limits"),
    Flag("pids-limit", "limits.pids", "Most processes and threads; -1: any", "", "NUMBER",
         values.parse_int, group="Limits", default=2048),
    Flag("ulimit", "limits.ulimits", "A limit of each process", "", "NAME=SOFT[:HARD]",
         grants.parse_ulimit, repeat=True, group="Limits"),
    Flag("oom-score-adj", "limits.oom_score_adj", "Who dies first when memory runs out", "",
         "NUMBER", values.parse_oom_score, group="Limits"),
    Flag("blkio-weight", "limits.blkio_weight", "Weight beside other machines at block devices: 10 "
         "to 1000", "", "NUMBER", values.parse_int, group="Limits"),
    Flag("device-read-bps", "limits.rates", "Most bytes in a second from a block device of the "
         "host", "", "DEVICE:SIZE", rates.read_bps, repeat=True, group="Limits"),
    Flag("device-write-bps", "limits.rates", "Most bytes in a second to one", "", "DEVICE:SIZE",
         rates.write_bps, repeat=True, group="Limits"),
    Flag("device-read-iops", "limits.rates", "Most reads in a second from one", "",
         "DEVICE:NUMBER", rates.read_iops, repeat=True, group="Limits"),
    Flag("device-write-iops", "limits.rates", "Most writes in a second to one", "",
         "DEVICE:NUMBER", rates.write_iops, repeat=True, group="Limits"),
    # security
    Flag("cap-add", "security.cap_add", "Grant a capability, or ALL", "", "NAME",
         grants.parse_capability, repeat=True, group="Security"),
    Flag("cap-drop", "security.cap_drop", "Take a capability away, or ALL", "", "NAME",
         grants.parse_capability, repeat=True, group="Security"),
    Flag("security-opt", "",
         "no-new-privileges=false, seccomp=unconfined|FILE, systempaths=unconfined", "",
         "OPTION", grants.parse_security_opt, repeat=True, group="Security"),
    Flag("privileged", "security.privileged",
         "All capabilities and devices, no walls but namespaces", group="Security"),
    Flag("userns", "security.userns", "host: the users of the machine are the host's", "", "host",
         grants.parse_userns, group="Security"),
    Flag("sysctl", "sysctls", "Set a kernel parameter of its own namespaces", "", "NAME=VALUE",
         grants.parse_sysctl, repeat=True, group="Security"),
    # network
    Flag("network", "network", "A network's name, none or host; name=NAME,alias=NAME,ip=ADDRESS,"
         "ip6=ADDRESS,mac-address=ADDRESS,driver-opt=forwarding=true; the first that leads out is "
         "its way out", "", "NETWORK",
         network.parse_connection, repeat=True, group="Network", aliases=("net",),
         default="bridge"),
    Flag("network-alias", "aliases", "What else it is called on the first network", "", "NAME",
         network.parse_alias, repeat=True, group="Network", aliases=("net-alias",)),
    Flag("ip", "ip", "Its IPv4 address on the first network", "", "ADDRESS", network.parse_ipv4,
         group="Network"),
    Flag("ip6", "ip6", "Its IPv6 address on the first network", "", "ADDRESS", network.parse_ipv6,
         group="Network"),
    Flag("mac-address", "mac", "Its MAC address on the first network", "", "ADDRESS",
         network.parse_mac, group="Network"),
    Flag("network-policy", ".policy", "Where it may begin conversations: deny-all, allow=dns, "
         "allow=ADDRESS[/BITS][:PORT][/PROTOCOL]; what is not allowed is refused", "", "POLICY",
         policy.parse_policy, repeat=True, group="Network"),
    Flag("publish", ".publish", "Let a port of the host lead to one of its own; without an address "
         "on 127.0.0.1", "p", "[IP:][HOST:]PORT[/udp]", ports.publishes, repeat=True,
         group="Network"),
    Flag("publish-all", "publish_all", "The same for all exposed ports, with any that are free",
         "P", group="Network"),
    Flag("expose", ".expose", "Name a port that it serves", "", "PORT[/udp]", ports.exposes,
         repeat=True, group="Network"),
    Flag("hostname", "hostname", "Its host name", "h", "NAME", values.parse_hostname,
         group="Network"),
    Flag("domainname", "domainname", "Its NIS domain name", "", "NAME", values.parse_hostname,
         group="Network"),
    Flag("add-host", "extra_hosts", "A line for its /etc/hosts; host-gateway is the host's address "
         "on its network", "", "NAME:ADDRESS", grants.parse_host, repeat=True, group="Network"),
    Flag("link", "links", "Call another machine so, in this one alone, and tell it in variables "
         "what that one serves", "", "MACHINE[:ALIAS]", links.parse_link, repeat=True,
         group="Network"),
    Flag("dns", "dns", "Whom to ask for names that are no machine's; else the host's servers", "",
         "ADDRESS", grants.parse_address, repeat=True, group="Network"),
    Flag("dns-search", "dns_search", "A domain to look for names in; . for none; else the host's",
         "", "DOMAIN", grants.parse_domain, repeat=True, group="Network"),
    Flag("dns-option", "dns_options", "An option for its /etc/resolv.conf", "", "OPTION",
         grants.parse_dns_option, repeat=True, group="Network", aliases=("dns-opt",)),
    # accepted where they ask for what is so anyway
    Flag("log-driver", "", "local, json-file (the same log) or none", "", "DRIVER",
         grants.parse_log_driver, group="Log"),
    Flag("log-opt", "", "max-size=20m, max-file=5: how much is kept", "", "NAME=VALUE",
         grants.parse_log_opt, repeat=True, group="Log"),
    Flag("disable-content-trust", ".unsigned", "Accepted; signatures are not checked",
         group="Process", default=True),
    Flag("runtime", "runtime", "Accepted: cove, runc, io.containerd.runc.v2", "", "NAME",
         grants.parse_runtime, group="Process", default="cove"),
    Flag("ipc", "", "Only private", "", "MODE", grants.only("private", "", "shareable",
         why="every machine has its own IPC namespace"), group="Security"),
    Flag("pid", "", "Only private", "", "MODE", grants.only("private", "",
         why="every machine has its own PID namespace"), group="Security"),
    Flag("uts", "uts", "host: its host name is the host's, as it is at its start", "", "host",
         grants.parse_uts, group="Security"),
    Flag("cgroupns", "", "Only private", "", "MODE", grants.only("private", "",
         why="every machine has its own cgroup namespace"), group="Security"),
)  # fmt: skip

FROM_SNAPSHOT = Flag(
    "from-snapshot", "snapshot", "Begin as this snapshot was, with what its machine was made with; "
    "then no IMAGE is named", "", "SNAPSHOT",
)  # fmt: skip

RUN = (*PROCESS, *_ATTACHED, *MACHINE, FROM_SNAPSHOT)
CREATE = (*PROCESS, *_ATTACHED[1:2], *MACHINE, FROM_SNAPSHOT)


REFUSED: dict[str, tuple[str, bool]] = {
    "link-local-ip": (network.LINK_LOCAL, True),
    "gpus": ("cove hands no GPUs to machines", True),
    "cgroup-parent": ("cove keeps all machines in groups of its own", True),
    "blkio-weight-device": ("one weight holds for all devices: --blkio-weight", True),
    "cpu-rt-period": ("cove gives no real-time scheduling", True),
    "cpu-rt-runtime": ("cove gives no real-time scheduling", True),
    "kernel-memory": ("the kernel dropped this limit; --memory counts kernel memory too", True),
    "memory-swappiness": ("cgroup v2 has no such setting", True),
    "oom-kill-disable": (
        "a machine out of memory would hang; cgroup v2 has no such setting",
        False,
    ),
    "use-api-socket": ("machines never reach the daemon", False),
}
"""Flags of Docker that cove knows and refuses by name: the reason, and whether a value follows."""
