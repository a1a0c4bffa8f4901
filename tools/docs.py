"""Write the generated documents: docs/cli.md from the commands, docs/plan.md, docs/python.md,
docs/engine-api.md, docs/scenarios.md from the tests, and the Python API for asyncio; ``make docs``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "cli.md"

HEAD = """# The command line

Written by `make docs` from the commands themselves; `cove COMMAND --help` shows the same.

Flags are spelled and read as Docker's: `-it`, `-m64m`, `-m=64m`, `--memory 64m`, `--rm=false`. For
`run`, `create`, `plan` and `exec` the first word that is no flag ends the flags; what follows
belongs to the machine. A mistake exits with 125 and names what was typed.

`cove container …` and `cove machine …` take the machines' verbs too, as in `cove container ls`.
"""


def main() -> int:
    import aio
    import api_doc
    import plan_doc
    import python_doc
    import scenarios

    TARGET.write_text(text())
    plan_doc.main()
    api_doc.main()
    aio.main()
    python_doc.main()
    scenarios.main()
    return 0


def text() -> str:
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from cove.cli.main import root

    parts = [HEAD, _commands(root()), *_pages(root(), "cove")]
    return "\n".join(parts)


def _commands(group: object) -> str:
    from cove.cli.command import Group

    assert isinstance(group, Group)
    shown = {name: c for name, c in group.commands.items() if not c.hidden}
    lines = ["| command | what it does |", "|---|---|"]
    lines += [f"| [`cove {name}`](#cove-{name}) | {c.help} |" for name, c in shown.items()]
    return "\n".join(lines) + "\n"


def _pages(group: object, path: str) -> Iterator[str]:
    from cove.cli.command import Command, Group

    assert isinstance(group, Group)
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if isinstance(command, Command):
            yield _page(command, f"{path} {name}")
        elif isinstance(command, Group):
            yield f"## {path} {name}\n\n{command.help}.\n"
            yield from _pages(command, f"{path} {name}")


def _page(command: object, path: str) -> str:
    from cove.cli.command import Command

    assert isinstance(command, Command)
    options = "[OPTIONS] " if command.flags else ""
    lines = [f"## {path}", "", f"{command.help}.", ""]
    lines += ["```", f"{path} {options}{command.words}".rstrip(), "```", ""]
    if command.about:
        lines += [command.about, ""]
    if command.flags:
        lines += ["| flag | meaning | default |", "|---|---|---|"]
    for flag in command.flags:
        typed = ", ".join(f"`{s}`" for s in flag.spellings)
        metavar = f" `{flag.metavar}`" if flag.metavar else ""
        more = " (may be repeated)" if flag.repeat else ""
        default = "" if flag.default is None else f"`{_shown(flag.default)}`"
        row = f"| {typed}{metavar} | {flag.help}{more} | {default} |"
        lines.append(row.replace("|FILE", "\\|FILE"))
    return "\n".join(lines) + "\n"


def _shown(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


if __name__ == "__main__":
    sys.exit(main())
