"""What a machine is given or denied: capabilities, security options, devices, ulimits, sysctls,
hosts. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

from cove.errors import Unsupported, UsageError
from cove.spec.machine import Device, Ulimit
from cove.spec.suggest import did_you_mean
from cove.spec.values import bad, parse_bool, parse_size

# ---- capabilities ----

CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]
"""In the kernel's order: the index is the number."""


def parse_capability(text: str) -> str:
    """``net_admin``, ``CAP_NET_ADMIN``, ``all``: without ``CAP_``, upper case."""
    name = text.upper().removeprefix("CAP_")
    if name != "ALL" and name not in CAPABILITIES:
        raise bad("capability", text, "no such capability", hint=did_you_mean(name, CAPABILITIES))
    return name


# ---- --security-opt ----

_SECURITY = ("no-new-privileges", "seccomp", "apparmor", "label", "systempaths", "mask", "unmask")

Fields = tuple[tuple[str, object], ...]
"""What one option sets: field of the spec, value."""

SECCOMP_FILE = "@"
"""In ``security.seccomp`` before assembly: this and the caller's path of a profile."""


def parse_security_opt(text: str) -> Fields:
    """``no-new-privileges[=false]``, ``seccomp=…``, ``systempaths=unconfined``; others by name."""
    key, value = _split_security(text)
    if key == "no-new-privileges":
        return (("security.no_new_privileges", parse_bool(value) if value else True),)
    if key == "seccomp" and value:
        if value in ("unconfined", "default"):
            return (("security.seccomp", value),)
        return (("security.seccomp", "default" if value == "builtin" else SECCOMP_FILE + value),)
    if key == "systempaths" and value == "unconfined":
        return (("security.masked", False),)
    if key == "unmask" and value.upper() == "ALL":
        return (("security.masked", False),)
    if key == "apparmor" and value in ("unconfined", "docker-default", "cove-default"):
        return ()  # cove loads no profile: the machine has that of the daemon
    if key == "label":
        return ()  # cove labels nothing
    raise _refuse_security(key, value, text)


def _split_security(text: str) -> tuple[str, str]:
    for mark in "=:":
        if mark in text:
            key, _, value = text.partition(mark)
            if key in _SECURITY:
                return key, value
    return text, ""


def _refuse_security(key: str, value: str, text: str) -> UsageError | Unsupported:
    if key in ("mask", "unmask"):
        return Unsupported(
            f"cannot {key} single paths: cove masks a fixed list",
            hint="show all of them: --security-opt systempaths=unconfined",
        )
    if key == "apparmor":
        return Unsupported(f'cannot use the AppArmor profile "{value}": cove loads no profiles')
    if key in _SECURITY:
        known = {"seccomp": "unconfined, builtin or a file", "systempaths": "unconfined"}
        return bad("security option", text, f"{key} is {known[key]}")
    hint = did_you_mean(key, _SECURITY) or f"the options are {', '.join(_SECURITY[:5])}"
    return bad("security option", text, f'no option is called "{key}"', hint=hint)


# ---- devices ----


def parse_device(text: str) -> Device:
    """``SOURCE[:TARGET][:rwm]``."""
    parts = text.split(":")
    if "=" in text and not text.startswith("/"):
        raise Unsupported(f"cannot use the device {text}: cove does not read CDI specifications")
    source, target, access = parts[0], parts[0], "rwm"
    if len(parts) == 2 and _is_access(parts[1]):
        access = parts[1]
    elif len(parts) >= 2:
        target = parts[1]
    if len(parts) == 3:
        access = parts[2]
    if len(parts) > 3 or not source.startswith("/") or not target.startswith("/"):
        raise bad(
            "device", text, "not SOURCE[:TARGET][:rwm] with absolute paths", hint="write /dev/fuse"
        )
    if not _is_access(access):
        raise bad("device", text, f'the access "{access}" is not made of r, w and m')
    return Device(source, target, access, f"--device {text}")


def _is_access(text: str) -> bool:
    return bool(text) and set(text) <= set("rwm") and len(set(text)) == len(text)


# ---- ulimits ----

ULIMITS = (
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
    "rss", "rtprio", "rttime", "sigpending", "stack",
)  # fmt: skip


def parse_ulimit(text: str) -> Ulimit:
    """``nofile=1024:2048``; one number sets both; -1 is unlimited."""
    name, equals, value = text.partition("=")
    if name not in ULIMITS:
        raise bad("ulimit", text, f'no limit is called "{name}"', hint=did_you_mean(name, ULIMITS))
    soft, colon, hard = value.partition(":")
    numbers = [soft, hard] if colon else [soft]
    if not equals or not all(re.fullmatch(r"-1|\d+", n) for n in numbers):
        hint = f"write {name}=1024 or {name}=1024:2048"
        raise bad("ulimit", text, "not NAME=SOFT[:HARD]", hint=hint)
    limit = Ulimit(name, int(soft), int(hard) if colon else int(soft))
    if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
        raise bad("ulimit", text, f"the soft limit {soft} is above the hard limit {hard}")
    return limit


# ---- sysctls ----

_IPC = frozenset(
    [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ]
)


def parse_sysctl(text: str) -> tuple[str, str]:
    """``net.ipv4.ip_forward=1``: only what the kernel keeps per namespace."""
    name, equals, value = text.partition("=")
    name = name.replace("/", ".")
    if not equals or not re.fullmatch(r"[a-z0-9_]+(\.[A-Za-z0-9_@:-]+)+", name):
        raise bad("sysctl", text, "not NAME=VALUE", hint="write net.ipv4.ip_forward=1")
    if name in ("kernel.hostname", "kernel.domainname"):
        raise bad("sysctl", text, "the host name has an option of its own", hint="use --hostname")
    if name not in _IPC and not name.startswith(("net.", "fs.mqueue.")):
        raise bad("sysctl", text, f"{name} belongs to the whole host: no machine may set it")
    return name, value


# ---- --storage-opt, --log-opt ----


def parse_storage_opt(text: str) -> Fields:
    key, _, value = text.partition("=")
    if key != "size":
        raise bad("storage option", text, f'no option is called "{key}"', hint="write size=10g")
    return ("limits.storage", parse_size(value)), ("storage_opt", value)


def parse_log_opt(text: str) -> Fields:
    key, _, value = text.partition("=")
    if key == "max-size":
        # Docker writes -1 for no end.
        return (("log_max", 0 if value == "-1" else max(parse_size(value), LOG_FILE_MIN)),)
    if key == "max-file":
        if not re.fullmatch(r"[0-9]{1,4}", value) or not 1 <= int(value) <= LOG_FILES_MOST:
            raise bad("log option", text, f"max-file is a number from 1 to {LOG_FILES_MOST}")
        return (("log_files", int(value)),)
    if key == "mode" and value in ("blocking", "non-blocking"):
        return ()  # a machine waits for the file its output goes to, never for a reader of it
    if key == "compress":
        parse_bool(value)
        return ()
    if key == "max-buffer-size":
        parse_size(value)
        return ()
    hint = "max-size=20m and max-file=5 are what there is"
    raise bad("log option", text, f'no option is called "{key}"', hint=hint)


LOG_FILE_MIN, LOG_FILES_MOST = 1 << 16, 1000
LOG_DRIVERS = ("local", "json-file", "none")


def parse_log_driver(text: str) -> Fields:
    if text not in LOG_DRIVERS:
        raise Unsupported(
            f"cannot use the log driver {text}: cove keeps its own size-capped log",
            hint="local, json-file (the same log here) or none",
        )
    return (("log_driver", text),)


# ---- names of hosts ----


def parse_host(text: str) -> str:
    """``name:address`` (or ``name=address``); IPv6 may stand in brackets."""
    mark = "=" if "=" in text else ":"
    name, found, address = text.partition(mark)
    if not found or not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", name):
        raise bad("host", text, "not NAME:ADDRESS", hint="write db:10.0.0.5")
    if address == "host-gateway":
        return f"{name}:{address}"
    return f"{name}:{parse_address(address, text)}"


def parse_address(address: str, text: str = "") -> str:
    import ipaddress  # 5 ms to import, for a rare option

    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        raise bad("address", text or address, f'"{address}" is not an IP address') from None


def parse_domain(text: str) -> str:
    """``.``: none."""
    if text != "." and (len(text) > 253 or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", text)):
        raise bad("domain", text, "not labels with dots between them", hint="write corp.example")
    return text if text == "." else text.rstrip(".")


def parse_dns_option(text: str) -> str:
    """Of resolv.conf(5); which there are, the machine's C library knows."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*(:[0-9]+)?", text):
        raise bad("option", text, "not NAME or NAME:NUMBER", hint="write ndots:2")
    return text


# ---- namespaces by name ----


def parse_userns(text: str) -> str:
    if text in ("", "private", "auto", "machine"):
        return "machine"
    if text != "host":
        raise bad("user namespace", text, "it is host or nothing", hint="write --userns host")
    return text


def parse_uts(text: str) -> str:
    if text not in ("private", "host", ""):
        raise bad("UTS mode", text, "not private or host")
    return text if text == "host" else ""


_LAST_NUMBER = (1 << 20) - 1
"""Of a minor; majors end at 4095."""


def parse_device_rule(text: str) -> str:
    """``c 188:* rwm``, as Docker has it. It makes no nodes: a bind may show some."""
    if not re.fullmatch(r"[acb] ([0-9]{1,10}|\*):([0-9]{1,10}|\*) [rwm]{1,3}", text):
        raise bad("device rule", text, "not KIND MAJOR:MINOR ACCESS", hint='write "c 188:* rwm"')
    if any(int(number) > _LAST_NUMBER for number in re.findall(r"[0-9]+", text)):
        raise bad("device rule", text, "no device has such a number")
    return text


RUNTIMES = ("", "cove", "runc", "io.containerd.runc.v2")
"""Names that ask for what is there anyway."""


def parse_runtime(text: str) -> str:
    if text not in RUNTIMES:
        raise Unsupported(f'cannot use the runtime "{text}": cove is its own runtime')
    return text


def only(*accepted: str, why: str) -> Callable[[str], Fields]:
    """A parser that takes the values cove has anyway and refuses all others by name."""

    def parse(text: str) -> Fields:
        if text.split(":")[0] not in accepted:
            raise Unsupported(f'cannot use "{text}": {why}')
        return ()

    return parse


# ---- what steps of a build may ask for ----

HOST_NETWORK, INSECURE = "network.host", "security.insecure"
ENTITLEMENTS = (HOST_NETWORK, INSECURE)


def parse_entitlement(text: str) -> str:
    """``--allow`` of a build, in BuildKit's words."""
    if text not in ENTITLEMENTS:
        hint = did_you_mean(text, ENTITLEMENTS) or f"one of {', '.join(ENTITLEMENTS)}"
        raise UsageError(f'no entitlement is called "{text}"', hint=hint)
    return text
