"""The flags of instructions: which there are, and what was written. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cove.build.source import Place, fault
from cove.spec.suggest import did_you_mean

TEXT, SWITCH, MANY = "text", "switch", "many"

_TRANSFER = {"chown": TEXT, "chmod": TEXT, "link": SWITCH, "exclude": MANY}

KNOWN: dict[str, dict[str, str]] = {
    "FROM": {"platform": TEXT},
    "RUN": {"mount": MANY, "network": TEXT, "security": TEXT, "device": MANY},
    "COPY": {**_TRANSFER, "from": TEXT, "parents": SWITCH},
    "ADD": {**_TRANSFER, "checksum": TEXT, "keep-git-dir": SWITCH, "unpack": SWITCH},
    "HEALTHCHECK": {
        "interval": TEXT,
        "timeout": TEXT,
        "start-period": TEXT,
        "start-interval": TEXT,
        "retries": TEXT,
    },
}
"""Instructions that are not here have none."""


@dataclass(frozen=True, slots=True)
class Flags:
    """What was written; a switch is ``true`` or ``false``."""

    texts: dict[str, str] = field(default_factory=dict)
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        return self.texts.get(name, default)

    def many(self, name: str) -> tuple[str, ...]:
        return self.lists.get(name, ())

    def switch(self, name: str) -> bool | None:
        """None: not written."""
        return self.texts[name] == "true" if name in self.texts else None


def parse_flags(keyword: str, words: Iterable[str], place: Place) -> Flags:
    """``--name=value`` each; a switch may stand alone."""
    known = KNOWN.get(keyword, {})
    texts: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word[2:].partition("=")
        kind = known.get(name)
        if kind is None:
            raise _unknown(keyword, name, place)
        if kind == SWITCH:
            value = _switch(keyword, name, value if equals else "true", place)
        elif not equals:
            raise fault(place, f"--{name} of {keyword} has no value", hint=f"write --{name}=...")
        if kind == MANY:
            lists.setdefault(name, []).append(value)
        elif name in texts:
            raise fault(place, f"--{name} of {keyword} stands there twice")
        else:
            texts[name] = value
    return Flags(texts, {name: tuple(values) for name, values in lists.items()})


def _switch(keyword: str, name: str, value: str, place: Place) -> str:
    if value.lower() not in ("true", "false"):
        raise fault(
            place, f'--{name} of {keyword} is true or false, not "{value}"', hint=f"write --{name}"
        )
    return value.lower()


def _unknown(keyword: str, name: str, place: Place) -> Exception:
    known = [f"--{flag}" for flag in KNOWN.get(keyword, {})]
    others = [other for other, flags in KNOWN.items() if name in flags]
    hint = did_you_mean(f"--{name}", known)
    if others:
        hint = f"--{name} is a flag of {' and '.join(others)}"
    elif not hint and not known:
        hint = f"{keyword} has no flags; write -- in front of what begins with dashes"
    elif not hint:
        hint = f"it has {', '.join(known)}"
    return fault(place, f"{keyword} has no flag --{name}", hint=hint)
