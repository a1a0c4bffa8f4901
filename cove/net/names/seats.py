"""Who may hold one of the connections, of which there is a certain number for all. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cove.net.names.upstream import Asker

OF_ONE, OF_ALL = 8, 256


def given_up(held: Sequence[Asker], new: Asker) -> int | None:
    """The place among ``held``, from whom was quiet longest, that ``new`` gets; -1: there is one
    that is free; None: it has its share. Every network has the same share, and on it every machine:
    however many somebody can have, who comes with none is let in.
    """
    own = held.count(new)
    if own >= OF_ONE:
        return None
    if len(held) < OF_ALL:
        return -1
    networks = Counter(network for network, _ in held)
    crowded, most = networks.most_common(1)[0]
    network = new[0] if networks[new[0]] >= most else crowded
    machines = Counter(asker for asker in held if asker[0] == network)
    greedy, most = machines.most_common(1)[0]
    if network == new[0] and own + 1 > most:
        return None
    return held.index(greedy)
