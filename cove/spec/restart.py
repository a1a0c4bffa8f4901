"""Restart policies, as Docker has them: which there are, and when a machine that ended is started
again. Pure.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from cove.spec import values

Policy = Literal["no", "on-failure", "always", "unless-stopped"]

FIRST, MOST = 0.1, 60.0
"""Seconds before the first start anew, and the most there are: each time twice as many."""
SETTLED = 10.0
"""Who ran for so many seconds begins at ``FIRST`` again."""
RETRIES_MOST = 1 << 31


class Restart(msgspec.Struct, frozen=True, omit_defaults=True):
    policy: Policy = "no"
    retries: int = 0
    """Of on-failure: how often; 0: without end."""

    def __str__(self) -> str:
        return f"{self.policy}:{self.retries}" if self.retries else self.policy


def parse_restart(text: str) -> Restart:
    """``no``, ``always``, ``unless-stopped``, ``on-failure``, ``on-failure:5``; empty: no."""
    name, colon, count = (text or "no").partition(":")
    policy: Policy
    if name == "no":
        policy = "no"
    elif name == "always":
        policy = "always"
    elif name == "unless-stopped":
        policy = "unless-stopped"
    elif name == "on-failure":
        policy = "on-failure"
    else:
        hint = "no, on-failure[:N], always or unless-stopped"
        raise values.bad("restart policy", text, f'no policy is called "{name}"', hint=hint)
    if not colon:
        return Restart(policy)
    if policy != "on-failure":
        raise values.bad("restart policy", text, "only on-failure is told how often")
    if not re.fullmatch(r"[0-9]{1,9}", count):
        raise values.bad("restart policy", text, f'"{count}" is no number', hint="on-failure:5")
    return Restart(policy, int(count))


def again(
    restart: Restart, *, code: int, stopped: bool, restarts: int, ran: float, delay: float,
    first: float = FIRST,
) -> float | None:  # fmt: skip
    """In how many seconds a machine that ended starts again; None: not at all. ``stopped``:
    somebody asked for its end. ``restarts``: how often that was done since it was last started by
    hand; ``delay``: what was waited the last time.
    """
    if stopped or restart.policy == "no":
        return None
    spent = 0 < restart.retries <= restarts
    if restart.policy == "on-failure" and (not code or spent):
        return None
    if not delay or ran >= SETTLED:
        return first
    return min(2 * delay, MOST)


def with_host(restart: Restart, *, stopped: bool) -> bool:
    """Whether a machine that does not run is started when the host has been."""
    return restart.policy == "always" or (restart.policy == "unless-stopped" and not stopped)
