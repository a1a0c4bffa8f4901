"""Write docs/engine-api.md anew below its mark: every endpoint of Docker's API, from the route
table; ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "engine-api.md"
MARK = "<!-- What follows is written by `make docs` from cove/daemon/docker/routes.py. -->\n"


def main() -> int:
    TARGET.write_text(text())
    return 0


def text() -> str:
    head, mark, _ = TARGET.read_text().partition(MARK)
    return head + mark + table()


def table() -> str:
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from cove.daemon.docker.routes import NEWEST, OLDEST, ROUTES, version_text

    counts = {word: sum(r.support == word for r in ROUTES) for word in ("yes", "partial", "no")}
    lines = [
        "",
        f"Versions {version_text(OLDEST)} to {version_text(NEWEST)}; {len(ROUTES)} endpoints: "
        + ", ".join(f"{count} {word}" for word, count in counts.items())
        + ".",
        "",
        "| endpoint | | since | |",
        "|---|---|---|---|",
    ]
    for route in ROUTES:
        path = route.path.replace("*}", "}")
        since = version_text(route.since) if route.since > OLDEST else ""
        lines.append(f"| `{route.method} {path}` | {route.support} | {since} | {route.why} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
