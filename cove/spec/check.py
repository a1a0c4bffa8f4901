"""Checks that need the whole spec; all problems are collected, each under the words that were
typed. Pure.

The command line and the daemon both call it: a spec may come from a program that read no flags.
"""

from __future__ import annotations

from collections.abc import Iterator

from cove.errors import CoveError, Problems, Unsupported, UsageError, one_line
from cove.spec import joining, links
from cove.spec.grants import CAPABILITIES, LOG_DRIVERS, LOG_FILE_MIN, LOG_FILES_MOST, ULIMITS
from cove.spec.health import check_health
from cove.spec.machine import ExecSpec, Limits, MachineSpec, Mount, connections_of
from cove.spec.mounts import is_idmap
from cove.spec.network import ALONE, ASKED_FOR, CARDS, OF_MACHINE, parse_network_name
from cove.spec.policy import check_policy
from cove.spec.ports import exposes, publishes
from cove.spec.rates import check_rates
from cove.spec.restart import RETRIES_MOST
from cove.spec.suggest import did_you_mean
from cove.spec.values import (
    format_size,
    parse_detach_keys,
    parse_group,
    parse_hostname,
    parse_name,
    parse_signal,
    parse_user,
)
from cove.spec.volume import DEVICES, VolumeSpec, check_volume, no_driver, parse_volumes_from

MEMORY_MINIMUM = 6 << 20
"""As Docker's: less does not start anything."""
MOST_DEVICES = 512
"""With rules for them. The kernel would take a little more: 4,096 instructions."""

NOT_TEXT = "machines are recorded as text: put the bytes into a file, and give that to the machine"


def combine(errors: list[CoveError]) -> CoveError:
    """One error that tells all of ``errors``."""
    if len(errors) == 1:
        return errors[0]
    lines = []
    for error in errors:
        lines.append(f"  {one_line(error.message)}")
        more = (("from", error.origin), ("hint", error.hint))
        lines += [f"    {k}: {one_line(v)}" for k, v in more if v]
    return Problems(f"cannot use these options: {len(errors)} problems\n" + "\n".join(lines))


def check_machine(spec: MachineSpec) -> None:
    """Raise when the spec as a whole cannot be carried out on any host."""
    errors = list(_problems(spec))
    if errors:
        raise combine(errors)


def check_networks(spec: MachineSpec) -> None:
    """The same, once it is known which network the default one is."""
    errors = [*_network(spec), *_ports(spec)]
    if errors:
        raise combine(errors)


def _log(spec: MachineSpec) -> Iterator[CoveError]:
    if spec.log_driver not in LOG_DRIVERS:
        yield Unsupported(f'cannot use the log driver "{one_line(spec.log_driver)}"')
    if not 1 <= spec.log_files <= LOG_FILES_MOST or (spec.log_max and spec.log_max < LOG_FILE_MIN):
        yield UsageError("cannot keep such a log: it has from 1 to 1000 files of at least 64 KiB")
    plain = MachineSpec(image="")
    if spec.log_driver == "none" and (spec.log_max, spec.log_files) != (
        plain.log_max,
        plain.log_files,
    ):
        yield UsageError(
            "cannot limit a log that is not kept", origin="--log-driver none with --log-opt"
        )


def check_command(words: tuple[str, ...]) -> None:
    """The words after the image, where all the rest of a spec is known to be good."""
    for error in _strings(words, "the command"):
        raise error


def check_exec(spec: ExecSpec) -> None:
    errors: list[CoveError] = []
    if not spec.command or not spec.command[0]:
        errors.append(UsageError("cannot run nothing: exec wants a command"))
    errors += _strings(spec.command, "the command")
    errors += _strings(spec.env, "--env")
    errors += _parsed(spec.user, "--user", parse_user)
    errors += _parsed(spec.detach_keys, "--detach-keys", parse_detach_keys)
    errors += _workdir(spec.workdir)
    if errors:
        raise combine(errors)


def _problems(spec: MachineSpec) -> Iterator[CoveError]:
    yield from _words(spec)
    yield from _memory(spec.limits)
    yield from _numbers(spec)
    yield from _mounts(spec)
    for text in spec.volumes_from:
        yield from _parsed(text, "--volumes-from", parse_volumes_from)
    yield from _driver(spec)
    yield from _devices(spec)
    yield from _uts(spec)
    yield from links.problems(spec.links, spec.network)
    yield from _network(spec)
    yield from _ports(spec)
    yield from _grants(spec)
    yield from _log(spec)
    yield from check_rates(spec.limits)
    yield from check_restart(spec)
    yield from check_health(spec.health)


def check_restart(spec: MachineSpec) -> Iterator[CoveError]:
    if spec.remove and spec.restart.policy != "no":
        yield UsageError(
            "cannot use --restart and --rm together: a machine that is removed when it ends is not "
            "started again",
            origin=f"--restart {spec.restart}",
            hint="leave one of them out",
        )
    if not 0 <= spec.restart.retries <= RETRIES_MOST or (
        spec.restart.retries and spec.restart.policy != "on-failure"
    ):
        yield UsageError(
            f"cannot use such a restart policy: {spec.restart}", origin=f"--restart {spec.restart}"
        )


def _words(spec: MachineSpec) -> Iterator[CoveError]:
    if not spec.image:
        yield UsageError("cannot make a machine: no image is named", hint="cove run host")
    yield from _strings((spec.image,), "the image")
    yield from _strings((*spec.command, *(spec.entrypoint or ())), "the command")
    yield from _strings(spec.env, "--env")
    labels = (word for pair in spec.labels.items() for word in pair)
    yield from _strings(tuple(labels), "--label")
    yield from _parsed(spec.name, "--name", parse_name)
    yield from _parsed(spec.hostname, "--hostname", parse_hostname)
    yield from _parsed(spec.domainname, "--domainname", parse_hostname)
    yield from _parsed(spec.user, "--user", parse_user)
    yield from _parsed(spec.stop_signal, "--stop-signal", parse_signal)
    yield from _parsed(spec.detach_keys, "--detach-keys", parse_detach_keys)
    for group in spec.groups:
        yield from _parsed(group, "--group-add", parse_group)
    for word in spec.env:
        if not word.partition("=")[0]:
            yield UsageError(
                f'cannot set "{word}": a variable is NAME=value', origin=f"--env {word}"
            )
    yield from _workdir(spec.workdir)


def _workdir(path: str) -> Iterator[CoveError]:
    if path and not path.startswith("/"):
        yield UsageError(
            f'cannot start in "{path}": the path is not absolute', origin=f"--workdir {path}"
        )
    yield from _strings((path,), "--workdir")


def _strings(words: tuple[str, ...], where: str) -> Iterator[CoveError]:
    for word in words:
        if "\0" in word:
            yield UsageError(f"cannot use {where}: it contains a NUL character")
            return
        if not word.isascii() and any("\ud800" <= char <= "\udfff" for char in word):
            yield Unsupported(f'cannot use {where}: "{word}" is not UTF-8', hint=NOT_TEXT)
            return


def _parsed(text: str, flag: str, parse: object) -> Iterator[CoveError]:
    if text and callable(parse):
        try:
            parse(text)
        except CoveError as error:
            error.origin = error.origin or f"{flag} {text}"
            yield error


def _memory(limits: Limits) -> Iterator[CoveError]:
    memory, swap = limits.memory, limits.memory_swap
    typed = f"--memory {format_size(memory)}"
    if memory < 0 or 0 < memory < MEMORY_MINIMUM:
        yield UsageError(
            f"cannot limit memory to {format_size(memory)}: the minimum is 6m", origin=typed
        )
    if swap and not memory:
        yield UsageError(
            "cannot limit swap: --memory-swap counts memory and swap together and wants --memory",
            origin=f"--memory-swap {format_size(swap)}",
            hint=f"add --memory {format_size(swap) if swap > 0 else '512m'}",
        )
    elif 0 < swap < memory:
        yield UsageError(
            f"cannot limit memory and swap together to {format_size(swap)}: memory alone may be "
            f"{format_size(memory)}",
            origin=f"{typed} --memory-swap {format_size(swap)}",
            hint=f"no swap at all is --memory-swap {format_size(memory)}",
        )
    elif swap < -1:
        yield UsageError("cannot limit swap: it is a size or -1", origin=f"--memory-swap {swap}")
    if memory and limits.memory_reservation > memory:
        yield UsageError(
            f"cannot reserve {format_size(limits.memory_reservation)}: memory is limited to "
            f"{format_size(memory)}",
            origin=f"{typed} --memory-reservation {format_size(limits.memory_reservation)}",
        )


def _numbers(spec: MachineSpec) -> Iterator[CoveError]:
    limits = spec.limits
    bounds: tuple[tuple[str, float, float, float], ...] = (
        ("--cpus", limits.cpus, 0, 1 << 20),
        ("--cpu-shares", limits.cpu_shares, 0, 262144),
        ("--pids-limit", limits.pids, -1, 1 << 22),
        ("--oom-score-adj", limits.oom_score_adj, -1000, 1000),
        ("--shm-size", limits.shm, 0, 1 << 62),
        ("--stop-timeout", spec.stop_timeout or 0, -1, 1 << 31),
        ("--timeout", spec.timeout, 0, 1 << 31),
    )
    for flag, value, low, high in bounds:
        if not low <= value <= high:
            yield UsageError(
                f"cannot use {flag} {value:g}: it is not between {low:g} and {high:g}",
                origin=f"{flag} {value:g}",
            )
    if limits.cpu_shares == 1:
        yield UsageError("cannot use --cpu-shares 1: the minimum is 2", origin="--cpu-shares 1")
    if 0 < limits.storage < 1 << 20:
        yield UsageError(
            f"cannot limit the writable layer to {format_size(limits.storage)}: the minimum is 1m",
            origin=f"--storage-opt size={format_size(limits.storage)}",
        )


def _mounts(spec: MachineSpec) -> Iterator[CoveError]:
    seen: dict[str, str] = {}
    for mount in spec.mounts:
        origin = mount.origin or f"mount {mount.target}"
        if not mount.target.startswith("/") or mount.target == "/":
            yield UsageError(f'cannot mount on "{mount.target}": it is no path to mount on',
                             origin=origin)  # fmt: skip
        elif mount.target in seen:
            yield UsageError(
                f"cannot mount on {mount.target}: it is named twice",
                origin=f"{seen[mount.target]} and {origin}",
            )
        elif mount.target == "/proc" or mount.target.startswith("/proc/"):
            yield UsageError(f"cannot mount on {mount.target}: /proc is the machine's own",
                             origin=origin)  # fmt: skip
        elif mount.target == DEVICES and mount.type != "bind":
            yield UsageError(
                f"cannot mount on {mount.target}: the machine's devices are there",
                origin=origin,
                hint="what lies below can be mounted on: /dev/shm",
            )
        seen[mount.target] = origin
        if spec.isolation == "vm" and mount.propagation not in ("private", "rprivate"):
            yield Unsupported(
                f"cannot mount on {mount.target} with propagation {mount.propagation}: what is "
                "mounted in a virtual machine is its own kernel's",
                origin=origin,
            )
        if mount.type == "volume":
            yield from _volume(mount, origin)
        if mount.type == "image":
            yield Unsupported(f"cannot mount an image on {mount.target}: cove has no such mounts",
                              origin=origin)  # fmt: skip
        if mount.idmap != "none" and not (mount.type == "bind" and is_idmap(mount.idmap)):
            yield UsageError(
                f"cannot mount on {mount.target} with idmap={mount.idmap}: it is UID:GID of the "
                "host, of a bind",
                origin=origin,
            )
        if mount.type == "bind" and not mount.source.startswith("/"):
            yield UsageError(
                f'cannot mount "{mount.source}": the source is not an absolute path', origin=origin
            )
        yield from _strings((mount.source, mount.target), origin)


def _volume(mount: Mount, origin: str) -> Iterator[CoveError]:
    if ".." in mount.subpath.split("/") or mount.subpath.startswith("/"):
        yield UsageError(f'cannot mount "{mount.subpath}": it is no path in a volume',
                         origin=origin)  # fmt: skip
    wish = VolumeSpec(mount.source, mount.labels, mount.driver_options)
    try:
        check_volume(wish)
    except CoveError as error:
        error.origin = origin
        yield error


def _devices(spec: MachineSpec) -> Iterator[CoveError]:
    if spec.isolation == "vm" and spec.device_rules:
        yield Unsupported(
            "cannot use a rule for devices with --isolation vm: it has none of the host's",
            origin=f"--device-cgroup-rule {spec.device_rules[0]}",
        )
    if (count := len(spec.devices) + len(spec.device_rules)) > MOST_DEVICES:
        yield UsageError(
            f"cannot give a machine {count} devices and rules for them: at most {MOST_DEVICES}"
        )


def _uts(spec: MachineSpec) -> Iterator[CoveError]:
    if spec.uts and spec.hostname:
        yield UsageError(
            "cannot use --hostname with --uts host: that is the host's name",
            origin=f"--hostname {spec.hostname}",
            hint="leave one of them out",
        )


def _driver(spec: MachineSpec) -> Iterator[CoveError]:
    """Nobody asks for a driver that makes nothing: it is only remembered, as by Docker."""
    made = next((m for m in spec.mounts if m.type == "volume"), None)
    if made is not None and spec.volume_driver not in ("", "local"):
        yield no_driver(spec.volume_driver)


def _network(spec: MachineSpec) -> Iterator[CoveError]:
    if spec.network.startswith(OF_MACHINE):
        yield from joining.problems(spec)
    elif spec.network not in ALONE:
        if spec.network != ASKED_FOR:
            yield from _parsed(spec.network, "--network", parse_network_name)
    else:
        said = (("ip", spec.ip), ("ip6", spec.ip6), ("mac-address", spec.mac), *_aliases(spec))
        for flag, value in said:
            if value:
                yield UsageError(
                    f"cannot use --{flag} with --network {spec.network}: nothing is chosen there",
                    origin=f"--{flag} {value}",
                )
    yield from _more_networks(spec)
    yield from _policy(spec)
    if spec.isolation == "vm" and len(connections_of(spec)) > CARDS:
        yield Unsupported(
            f"cannot connect a virtual machine to more than {CARDS} networks",
            origin=f"--network {connections_of(spec)[CARDS].network}",
        )
    if spec.network == "host":
        for name, value in spec.sysctls:
            if name.startswith("net."):
                yield UsageError(
                    f"cannot set {name}: with --network host it belongs to the whole host",
                    origin=f"--sysctl {name}={value}",
                )


def forwards_with_policy() -> CoveError:
    return Unsupported(
        "cannot use forwarding=true with --network-policy: what a machine forwards is not its own "
        "to begin",
        origin="driver-opt=forwarding=true",
    )


def _policy(spec: MachineSpec) -> Iterator[CoveError]:
    if spec.policy is None:
        return
    if spec.network == "host" or spec.network.startswith("container:"):
        yield Unsupported(
            f"cannot use a network policy with --network {spec.network}: that is another's network",
            origin=f"--network-policy {spec.policy.words()[0]}",
        )
    if any(wish.forwards for wish in connections_of(spec)):
        yield forwards_with_policy()
    try:
        check_policy(spec.policy)
    except CoveError as error:
        yield error


def _aliases(spec: MachineSpec) -> list[tuple[str, str]]:
    return [("network-alias", alias) for alias in spec.aliases[:1]]


def _alone(network: str) -> bool:
    return network in ALONE or network.startswith(OF_MACHINE)


def _more_networks(spec: MachineSpec) -> Iterator[CoveError]:
    names = [spec.network, *(wish.network for wish in spec.connections)]
    for number, name in enumerate(names[1:], 1):
        if _alone(name) or _alone(names[0]):
            yield UsageError(
                f"cannot use --network {names[0]} and --network {name}: "
                f"with {name if _alone(name) else names[0]} there is no other",
                origin=f"--network {name}",
            )
        elif name in names[:number]:
            yield UsageError(
                f"cannot connect to {name} twice", origin=f"--network {name}",
                hint="leave one of them out",
            )  # fmt: skip
        else:
            yield from _parsed(name, "--network", parse_network_name)


def _ports(spec: MachineSpec) -> Iterator[CoveError]:
    for port in spec.ports:
        try:
            fits = publishes(str(port)) == (port,)
        except CoveError:
            fits = False
        if not fits:
            yield UsageError("cannot publish such a port", origin=one_line(f"-p {port}"))
    for word in spec.expose:
        yield from _parsed(word, "--expose", exposes)
    if spec.network == "none" and (spec.ports or spec.publish_all):
        yield UsageError(
            "cannot publish ports with --network none: nobody reaches such a machine",
            origin=f"-p {spec.ports[0]}" if spec.ports else "-P",
            hint="--network bridge",
        )


def _grants(spec: MachineSpec) -> Iterator[CoveError]:
    for flag, names in (("cap-add", spec.security.cap_add), ("cap-drop", spec.security.cap_drop)):
        for name in names:
            if name != "ALL" and name not in CAPABILITIES:
                yield UsageError(
                    f'cannot use the capability "{name}": no such capability',
                    origin=f"--{flag} {name}",
                    hint=did_you_mean(name, CAPABILITIES),
                )
    for limit in spec.limits.ulimits:
        wrong = limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard)
        if limit.name not in ULIMITS or wrong:
            yield UsageError(
                f"cannot set the limit {limit.name} to {limit.soft}:{limit.hard}",
                origin=f"--ulimit {limit.name}={limit.soft}:{limit.hard}",
            )
    for device in spec.devices:
        if not device.source.startswith("/") or not device.target.startswith("/"):
            yield UsageError(f"cannot use the device {device.source}: the path is not absolute",
                             origin=device.origin)  # fmt: skip
