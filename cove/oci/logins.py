"""Logins in addresses, as in ``https://user:password@host/``: for the server, and for nobody who
reads what was made. Pure.
"""

from __future__ import annotations

import re

_LOGIN = re.compile(r'(?<=://)([^/?#\s"]*)@')
HIDDEN = "xxxxx"


def redacted(text: str) -> str:
    """A text, without the logins of its addresses; spelled as BuildKit does."""
    return _LOGIN.sub(
        lambda found: f"{HIDDEN}:{HIDDEN}@" if ":" in found[1] else f"{HIDDEN}@", text
    )
