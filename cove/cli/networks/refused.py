"""``network refused``: where a machine's network policy did not let it go."""

from __future__ import annotations

from cove.cli.command import Command, Typed
from cove.cli.machines.ps import FORMAT
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine.calls import networks as calls
from cove.shown import table, units
from cove.shown.template import Record

HEADINGS = {
    "Address": "ADDRESS",
    "Port": "PORT",
    "Protocol": "PROTOCOL",
    "Packets": "PACKETS",
    "LastAt": "LAST AT",
}
LISTING = table.Listing(
    HEADINGS, "{{.Address}}\t{{.Port}}\t{{.Protocol}}\t{{.Packets}}\t{{.LastAt}}"
)


def refused(typed: Typed, terminal: Terminal, client: Client) -> int:
    found = client.network_refused(calls.NetworkRefused(typed.words[0]))
    zone = units.time_zone(terminal.env)
    rows = [
        Record(
            Address=each.address,
            Port=str(each.port) if each.port else "",
            Protocol=each.protocol,
            Packets=str(each.packets),
            LastAt=units.clock_text(each.last, zone),
        )
        for each in found.refused
    ]
    terminal.write(table.render(rows, LISTING, typed.text("format")))
    return 0


REFUSED = Command(
    "refused",
    refused,
    help="Where a machine's network policy did not let it go",
    flags=(FORMAT,),
    words="MACHINE",
    about="Of its last run, the last attempt first; see --network-policy of cove run. Of what has "
    "no ports (icmp) the port is empty.",
)
