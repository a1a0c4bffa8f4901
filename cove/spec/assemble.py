"""From the parsed values of flags to a spec. Pure: the caller's directory, variables and files are
arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from cove.errors import CoveError, UsageError
from cove.spec import environment
from cove.spec.grants import SECCOMP_FILE
from cove.spec.health import NONE, Health
from cove.spec.machine import ExecSpec, Limits, MachineSpec, Mount, Security
from cove.spec.network import ASKED_FOR, Connection
from cove.spec.policy import together
from cove.spec.values import clean_path

Values = Mapping[str, Any]
"""Field of a flag to its value; a tuple of values when the flag may be repeated."""

_PLAIN = set(MachineSpec.__struct_fields__) - {"image", "command", "limits", "security"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who typed the flags: what relative paths, bare variable names and files mean."""

    cwd: str
    environ: Mapping[str, str]
    read: Callable[[str], str]
    """Text of a file of the caller's; raises CoveError."""
    uid: int = 0
    gid: int = 0

    @property
    def ids(self) -> str:
        """Whose files the caller's are. By ``sudo`` it is who called that: root may name any id,
        so its word is taken for it.
        """
        sudo = self.environ.get("SUDO_UID", ""), self.environ.get("SUDO_GID", "")
        if self.uid == 0 and all(word.isascii() and word.isdigit() for word in sudo):
            return ":".join(sudo)
        return f"{self.uid}:{self.gid}"


def needs_caller(values: Values) -> bool:
    """The same flags may mean something else in another directory or environment."""
    return bool(
        values.get(".env_file")
        or values.get(".label_file")
        or environment.needs_caller(values.get(".env", ()))
        or str(values.get("security.seccomp", "")).startswith(SECCOMP_FILE)
        or any(of_caller(mount) for mount in values.get("mounts", ()))
    )


def assemble_machine(
    values: Values, caller: Caller, *, image: str, command: tuple[str, ...]
) -> MachineSpec:
    """The spec as typed; ``check`` judges it as a whole."""
    fields: dict[str, Any] = {k: v for k, v in values.items() if k in _PLAIN}
    if values.get(".vm"):
        if values.get("isolation", "vm") != "vm":
            raise UsageError("cannot use --vm with another --isolation", origin="--vm")
        fields["isolation"] = "vm"
    if values.get(".detach") or values.get(".attach"):
        fields["attached"] = tuple(values.get(".attach", ()))
    fields |= _networks(values)
    fields["env"] = _environment(values, caller)
    fields["labels"] = dict(_labels_of_files(values, caller) + values.get("labels", ()))
    fields["annotations"] = dict(values.get("annotations", ()))
    fields["sysctls"] = tuple(dict(values.get("sysctls", ())).items())
    fields["health"] = _health(values)
    fields |= _ports(values)
    if values.get(".policy"):
        fields["policy"] = together(values[".policy"])
    fields["mounts"] = tuple(of_whom(mount, caller) for mount in values.get("mounts", ()))
    return MachineSpec(
        image=image,
        command=command,
        limits=assemble_limits(values),
        security=_security(values, caller),
        **fields,
    )


OF_FIRST = {"ip": "ip", "ip6": "ip6", "mac": "mac-address", "aliases": "network-alias"}
"""Fields that are said of the first network, and their flags."""


def _networks(values: Values) -> dict[str, Any]:
    said = {name: values[name] for name in OF_FIRST if values.get(name)}
    asked: tuple[Connection, ...] = values.get("network", ())
    if not asked:
        return {"network": ASKED_FOR, **said}
    first = asked[0]
    for name, flag in OF_FIRST.items():
        if name in said and getattr(first, name):
            raise UsageError(
                f"cannot use --{flag}: --network says the same of {first.network}",
                origin=f"--{flag}",
                hint="leave one of them out",
            )
    said = {name: getattr(first, name) for name in OF_FIRST} | said
    if first.forwards:
        said["forwards"] = True
    if first.links:
        said["network_links"] = first.links
    if first.driver_options:
        said["driver_options"] = first.driver_options
    return {"network": first.network, **said, "connections": asked[1:]}


def assemble_exec(values: Values, caller: Caller, *, command: tuple[str, ...]) -> ExecSpec:
    fields = {k: v for k, v in values.items() if k in ExecSpec.__struct_fields__}
    return ExecSpec(command=command, env=_environment(values, caller), **fields)


def with_command(spec: MachineSpec, image: str, command: tuple[str, ...]) -> MachineSpec:
    """A spec assembled once, for another image and command: what repeated runs differ in."""
    return msgspec.structs.replace(spec, image=image, command=command)


def _read(caller: Caller, flag: str, name: str, typed: str = "") -> str:
    """The caller's file; an error names the flag that asked for it."""
    try:
        return caller.read(name)
    except CoveError as error:
        error.origin = f"{flag} {typed or name}"
        raise


def _environment(values: Values, caller: Caller) -> tuple[str, ...]:
    words: tuple[str, ...] = ()
    for name in values.get(".env_file", ()):
        words += environment.parse_env_file(_read(caller, "--env-file", name), name)
    of_files = environment.resolve_env(words, caller.environ)
    words = tuple(word for word in of_files if "=" in word)
    return environment.resolve_env(words + values.get(".env", ()), caller.environ)


def _labels_of_files(values: Values, caller: Caller) -> tuple[tuple[str, str], ...]:
    labels: tuple[tuple[str, str], ...] = ()
    for name in values.get(".label_file", ()):
        labels += environment.parse_label_file(_read(caller, "--label-file", name), name)
    return labels


def of_caller(mount: Mount) -> bool:
    """Another caller's would be another mount."""
    return mount.type == "bind" and (not mount.source.startswith("/") or mount.idmap == "caller")


def of_whom(mount: Mount, caller: Caller) -> Mount:
    """The same for everybody: paths from the root, and ids by number."""
    if not of_caller(mount):
        return mount
    source = mount.source
    if not source.startswith("/"):
        source = clean_path(f"{caller.cwd}/{source}")
    idmap = caller.ids if mount.idmap == "caller" else mount.idmap
    return msgspec.structs.replace(mount, source=source, idmap=idmap)


def _ports(values: Values) -> dict[str, Any]:
    ports = tuple(dict.fromkeys(p for group in values.get(".publish", ()) for p in group))
    expose = tuple(dict.fromkeys(word for group in values.get(".expose", ()) for word in group))
    fields: dict[str, Any] = {"ports": ports} if ports else {}
    if expose:
        fields["expose"] = expose
    return fields


def assemble_limits(values: Values) -> Limits:
    fields = {k[7:]: v for k, v in values.items() if k.startswith("limits.")}
    if "ulimits" in fields:
        fields["ulimits"] = tuple({u.name: u for u in fields["ulimits"]}.values())
    quota = values.get(".cpu_quota", 0)
    if quota > 0 and "cpus" in fields:
        raise UsageError(
            "cannot use --cpu-quota: --cpus sets the same limit", hint="leave one of them out"
        )
    if quota > 0:
        fields["cpus"] = quota / (values.get(".cpu_period") or 100000)
    return Limits(**fields)


def _health(values: Values) -> Health:
    fields = {k[7:]: v for k, v in values.items() if k.startswith("health.")}
    if values.get(".no_healthcheck"):
        if "test" in fields:
            raise UsageError(
                "cannot use --no-healthcheck together with --health-cmd",
                hint="leave one of them out",
            )
        fields["test"] = NONE
    return Health(**fields)


def _security(values: Values, caller: Caller) -> Security:
    fields = {k[9:]: v for k, v in values.items() if k.startswith("security.")}
    seccomp = fields.get("seccomp", "")
    if seccomp.startswith(SECCOMP_FILE):
        fields["seccomp"] = _profile(seccomp.removeprefix(SECCOMP_FILE), caller)
    return Security(**fields)


def _profile(name: str, caller: Caller) -> str:
    text = _read(caller, "--security-opt", name, f"seccomp={name}")
    try:
        profile = msgspec.json.decode(text.encode("utf-8", "surrogateescape"))
    except msgspec.DecodeError as error:
        raise UsageError(
            f"cannot read the seccomp profile {name}: {error}",
            origin=f"--security-opt seccomp={name}",
        ) from error
    if not isinstance(profile, dict) or "defaultAction" not in profile:
        raise UsageError(
            f"cannot read the seccomp profile {name}: it has no defaultAction",
            origin=f"--security-opt seccomp={name}",
            hint="profiles have the form of Docker's default.json",
        )
    return text
