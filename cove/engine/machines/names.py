"""Names for machines that were given none: an adjective and a noun, chosen from the id."""

from __future__ import annotations

import secrets
from collections.abc import Callable

_ADJECTIVES = """
able amber ample azure bold brave bright brisk calm candid clear clever cosy crisp curious
daring deft eager early easy fair fleet fond frank free fresh gentle glad golden grand green
happy hardy hidden high humble jolly keen kind light lively loyal lucid lucky mellow merry mild
modest neat nimble noble open patient placid plain polite prime proud quick quiet rapid ready
robust rosy royal rustic sage serene sharp silent silver simple sleek smart smooth snug solid
sound spry steady still stout sturdy subtle sunny sure swift tame tidy tranquil trim true vast
vivid warm wary wide wise witty young zesty
"""

_NOUNS = """
alder anchor anvil arch aspen badger bay beacon beam birch bluff bough breeze bridge brook cape
cedar cliff cloud clover coast comet coral cove crane creek crest curlew dale dawn delta dove
dune eagle elm falcon fern finch fjord flint ford forest fox gale garden glade glen grove gull
harbor hare haven hawk hazel heath heron hill holly inlet iris island ivy jetty juniper kelp
kestrel kite lagoon lake larch lark lichen linden lynx maple marsh meadow mesa mill moor moss
oak ocean otter owl pebble pier pike pine plover pond poplar quarry quay rain raven reef ridge
river robin rowan sail seal shore sky slate sparrow spring spruce star stone stork stream summit
swan teal thistle tide trail trout tulip vale valley vine wave willow wind wren yew
"""

SHORT = 12
"""Letters of an id that are enough to tell it by, and a machine's host name if it has no other."""

ADJECTIVES, NOUNS = _ADJECTIVES.split(), _NOUNS.split()


def choose_name(machine_id: str, taken: Callable[[str], bool]) -> str:
    """A name that is free; with a number once the words alone are used up."""
    seed = int(machine_id[:15], 16)
    for attempt in range(1000):
        adjective = ADJECTIVES[seed % len(ADJECTIVES)]
        noun = NOUNS[seed // len(ADJECTIVES) % len(NOUNS)]
        name = f"{adjective}_{noun}" + (str(attempt) if attempt > 2 else "")
        if not taken(name):
            return name
        seed = seed * 6364136223846793005 + 1442695040888963407 & (1 << 60) - 1
    return machine_id[:12]


def choose_id(token: Callable[[int], str] = secrets.token_hex) -> str:
    """Of a machine. The C library's resolver takes a host name of nothing but digits for an
    address that is wrong, and asks nobody: ``hostname -i`` was "unknown host" in one of 281.
    """
    while (found := token(32))[:SHORT].isdecimal():
        pass
    return found
