"""``plan``: what ``run`` would do to the kernel, and why, without doing it."""

from __future__ import annotations

from cove.cli.command import Typed
from cove.cli.machines.run import OfImage, machine_spec
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.spec.flags import REFUSED, RUN, Flag


def plan(typed: Typed, terminal: Terminal, client: Client) -> int:
    request = calls.PlanRequest(machine_spec(typed, terminal, client), typed.on(".json"))
    text = client.plan(request).text
    terminal.write(text if text.endswith("\n") else text + "\n")
    return 0


COMMANDS = {
    "plan": OfImage(
        "plan",
        plan,
        help="Show every kernel operation that run would do, and why",
        flags=(Flag("json", ".json", "As JSON"), *RUN),
        words="IMAGE [COMMAND] [ARG...]",
        interspersed=False,
        group="Look",
        refused=REFUSED,
    )
}
