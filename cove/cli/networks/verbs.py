"""``network create/ls/inspect/rm/prune/connect/disconnect``, as Docker spells them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import tzinfo

from cove.cli.ask import ELSEWHERE, confirmed, must_go_elsewhere
from cove.cli.command import Command, Typed
from cove.cli.each import each
from cove.cli.machines import inspect
from cove.cli.machines.ps import FORMAT, FULL
from cove.cli.networks.capture import CAPTURE
from cove.cli.networks.refused import REFUSED
from cove.cli.system.disk import PRUNE_KEYS, chosen
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine.calls import networks as calls
from cove.errors import Unsupported
from cove.shown import filters, table, units
from cove.shown.networks import KEYS, SCOPE, document, keep
from cove.shown.template import Record
from cove.spec import network as spec
from cove.spec import values
from cove.spec.flags import Flag
from cove.spec.links import parse_link

HEADINGS = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "CreatedAt": "CREATED AT",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Labels": "LABELS",
    "Subnet": "SUBNET",
    "Gateway": "GATEWAY",
}
LISTING = table.Listing(HEADINGS, "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}")


def create(typed: Typed, terminal: Terminal, client: Client) -> int:
    if not typed.values.get("ipv4", True):
        raise Unsupported(f"cannot make network {typed.words[0]}: cove's networks have IPv4")
    subnet, subnet6 = spec.of_families("subnet", typed.values.get("subnet", ()))
    gateway, gateway6 = spec.of_families("gateway", typed.values.get("gateway", ()))
    range_, range6 = spec.of_families("ip-range", typed.values.get("range", ()))
    asked = spec.NetworkSpec(
        name=spec.parse_network_name(typed.words[0]),
        driver=typed.text("driver") or "bridge",
        subnet=subnet,
        gateway=gateway,
        range=range_,
        ipv6=typed.on("ipv6"),
        subnet6=subnet6,
        gateway6=gateway6,
        range6=range6,
        reserved=dict(typed.values.get("reserved", ())),
        internal=typed.on("internal"),
        labels=dict(typed.values.get("labels", ())),
    )
    spec.check_network(asked)
    terminal.write(client.network_create(calls.NetworkCreate(asked)).id + "\n")
    return 0


# ---- the list ----


def row(network: calls.Network, *, full: bool, zone: tzinfo | None) -> Record:
    record = network.record
    return Record(
        ID=record.id if full else record.id[:12],
        Name=record.name,
        Driver=record.driver,
        Scope=SCOPE,
        CreatedAt=units.clock_text(record.created, zone),
        IPv4="true",
        IPv6=str(bool(record.subnet6)).lower(),
        Internal=str(record.internal).lower(),
        Labels=",".join(f"{name}={value}" for name, value in sorted(record.labels.items())),
        Label=lambda name: record.labels.get(name, ""),
        Subnet=record.subnet,
        Gateway=record.gateway,
    )


def ls(typed: Typed, terminal: Terminal, client: Client) -> int:
    wanted = filters.gather(typed.values.get("filter", ()), KEYS)
    found = keep(client.network_list(calls.NetworkList()).networks, wanted)
    zone = units.time_zone(terminal.env)
    found.sort(key=lambda network: network.record.name)
    rows = [row(network, full=typed.on("full"), zone=zone) for network in found]
    terminal.write(table.render(rows, LISTING, typed.text("format"), quiet=typed.on("quiet")))
    return 0


# ---- one ----


def inspect_(typed: Typed, terminal: Terminal, client: Client) -> int:
    return inspect.each(
        typed, terminal, lambda name: document(client.network_inspect(calls.NetworkInspect(name)))
    )


# ---- removal ----


def remove(typed: Typed, terminal: Terminal, client: Client) -> int:
    def one(name: str) -> str:
        client.network_remove(calls.NetworkRemove(name))
        return name

    return each(typed.words, terminal, one, lenient=typed.on("force"))


def prune(typed: Typed, terminal: Terminal, client: Client) -> int:
    if not typed.on("force") and must_go_elsewhere(terminal):
        return ELSEWHERE
    given = chosen(typed, PRUNE_KEYS, time.time())
    question = "WARNING! This will remove all custom networks not used by at least one container."
    if not typed.on("force") and not confirmed(terminal, question):
        return 0
    terminal.write(pruned_text(client.network_prune(calls.NetworkPrune(**given)).names))
    return 0


def pruned_text(names: Sequence[str]) -> str:
    return "Deleted Networks:\n" + "".join(f"{name}\n" for name in names) + "\n" if names else ""


# ---- machines that are there ----


def connect(typed: Typed, terminal: Terminal, client: Client) -> int:
    network, machine = typed.words
    client.network_connect(
        calls.NetworkConnect(
            network, machine, typed.text("ip"), typed.text("mac"),
            typed.values.get("aliases", ()), typed.text("ip6"),
            (False, *typed.values.get("options", ()))[-1], {},
            typed.values.get("links", ()),
        )
    )  # fmt: skip
    return 0


def disconnect(typed: Typed, terminal: Terminal, client: Client) -> int:
    network, machine = typed.words
    client.network_disconnect(calls.NetworkDisconnect(network, machine, typed.on("force")))
    return 0


# ---- the commands ----


def parse_option(text: str) -> str:
    raise Unsupported(f"cannot use the option {text}: cove's bridges have none")


GROUP = "Networks"
FORCE = Flag("force", "force", "Do not ask", "f")
FILTER = Flag("filter", "filter", "Only what matches", "f", "FILTER", filters.parse_filter,
              repeat=True)  # fmt: skip

CREATE = Command(
    "create",
    create,
    help="Make a network",
    flags=(
        Flag("driver", "driver", "Only bridge", "d", "DRIVER", spec.parse_driver,
             default="bridge"),
        Flag("ipv6", "ipv6", "IPv6 too: a --subnet of it, or one that cove chooses"),
        Flag("ipv4", "ipv4", "Accepted; there is no network without IPv4", default=True),
        Flag("subnet", "subnet", "Its addresses, of each family; else cove chooses some that "
             "lead nowhere else", "", "SUBNET", spec.parse_subnet, repeat=True),
        Flag("gateway", "gateway", "The host's address in it; else the first", "", "ADDRESS",
             spec.parse_gateway, repeat=True),
        Flag("ip-range", "range", "Machines get addresses of this part of it", "", "RANGE",
             spec.parse_range, repeat=True),
        Flag("aux-address", "reserved", "An address of it that no machine gets", "",
             "NAME=ADDRESS", spec.parse_reserved, repeat=True),
        Flag("internal", "internal", "No way out of it, and none to the host"),
        Flag("label", "labels", "Attach a label", "", "NAME[=VALUE]", values.parse_label,
             repeat=True),
        Flag("opt", ".opt", "None so far", "o", "NAME=VALUE", parse_option, repeat=True),
    ),
    words="NETWORK",
    refused={
        "ipam-driver": ("cove gives out addresses itself", True),
        "ipam-opt": ("cove gives out addresses itself", True),
        "attachable": ("cove has no swarm", False),
        "ingress": ("cove has no swarm", False),
        "config-only": ("cove has no swarm", False),
        "config-from": ("cove has no swarm", True),
        "scope": ("cove has no swarm", True),
    },
    about="Machines of one network reach each other and, unless it is internal, what the host "
    "reaches; nobody reaches them but the host. Machines of two networks do not reach each other.",
)  # fmt: skip
LS = Command(
    "ls",
    ls,
    help="List networks",
    flags=(FILTER, FORMAT, FULL, Flag("quiet", "quiet", "Only ids", "q")),
    about=f"Filters: {', '.join(KEYS)}.",
)
INSPECT = Command(
    "inspect",
    inspect_,
    help="All about networks, and who is on them",
    flags=(inspect.FORMAT,),
    words="NETWORK [NETWORK...]",
)
RM = Command(
    "rm",
    remove,
    help="Remove networks that no running machine is on",
    flags=(Flag("force", "force", "No error where there is none", "f"),),
    words="NETWORK [NETWORK...]",
)
PRUNE = Command(
    "prune",
    prune,
    help="Remove the networks that no machine is made for",
    flags=(
        FORCE,
        Flag("filter", "filter", "Only what matches: until=24h, label=NAME", "", "FILTER",
             filters.parse_filter, repeat=True),
    ),
    about="Filters: until, label, label!.",
)  # fmt: skip
CONNECT = Command(
    "connect",
    connect,
    help="Put a machine on one more network, at once if it runs",
    flags=(
        Flag("ip", "ip", "Its IPv4 address there", "", "ADDRESS", spec.parse_ipv4),
        Flag("ip6", "ip6", "Its IPv6 address there", "", "ADDRESS", spec.parse_ipv6),
        Flag("mac-address", "mac", "Its MAC address there", "", "ADDRESS", spec.parse_mac),
        Flag(
            "alias",
            "aliases",
            "What else it is called there",
            "",
            "NAME",
            spec.parse_alias,
            repeat=True,
        ),
        Flag(
            "link",
            "links",
            "Call another one there so, in this one alone",
            "",
            "MACHINE[:ALIAS]",
            parse_link,
            repeat=True,
        ),
        Flag(
            "driver-opt",
            "options",
            "forwarding=true: it may send there what others sent",
            "",
            "NAME=VALUE",
            spec.parse_driver_option,
            repeat=True,
        ),
    ),
    words="NETWORK MACHINE",
    refused={
        "link-local-ip": (spec.LINK_LOCAL, True),
        "gw-priority": ("the first network that leads out is the way out", True),
    },
)
DISCONNECT = Command(
    "disconnect",
    disconnect,
    help="Take a machine off a network, at once if it runs",
    flags=(Flag("force", "force", "Accepted; a machine is always taken off", "f"),),
    words="NETWORK MACHINE",
)
GROUPED = {
    "create": CREATE, "ls": LS, "list": LS, "inspect": INSPECT, "rm": RM, "remove": RM,
    "prune": PRUNE, "connect": CONNECT, "disconnect": DISCONNECT, "capture": CAPTURE,
    "refused": REFUSED,
}  # fmt: skip
