"""Listings in Docker's forms: aligned columns, one JSON document a line, or a template a row.

Plain text made by hand: the pretty library costs 70 ms to import, more than a listing takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cove.errors import printable
from cove.shown.functions import to_json
from cove.shown.template import Record, Template, compile_template, wrong

MINIMUM, PADDING = 10, 3
"""As Docker's tabwriter: a column is at least this wide, and this far from the next."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What may be listed of a kind of thing."""

    headings: dict[str, str]
    """Field to heading."""
    default: str
    """The template of the plain table."""
    identity: str = "ID"
    """What ``--quiet`` prints."""


def align(lines: Sequence[Sequence[str]], *, minimum: int = MINIMUM) -> str:
    """Columns side by side; the last one is not padded."""
    widths: list[int] = []
    for cells in lines:
        for place, cell in enumerate(cells[:-1]):
            wanted = max(minimum, len(cell) + PADDING)
            if place == len(widths):
                widths.append(wanted)
            elif wanted > widths[place]:
                widths[place] = wanted
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(cells[:-1], widths, strict=False))
        + cells[-1]
        + "\n"
        for cells in lines
    )


def template_of(typed: str, listing: Listing) -> tuple[bool, Template | None]:
    """Whether a table is wanted, and the template of a row; None: JSON."""
    text = typed.strip()
    if text in ("", "table"):
        return True, compile_template(listing.default)
    if text == "json":
        return False, None
    if text in ("raw",):
        fields = [f"{name.lower()}: {{{{.{name}}}}}" for name in listing.headings]
        return False, compile_template("\n".join(fields) + "\n")
    table = text.startswith(("table ", "table\\t"))
    body = text.removeprefix("table").strip() if table else text
    return table, compile_template(body.replace("\\t", "\t").replace("\\n", "\n"))


def render(rows: Sequence[Record], listing: Listing, typed: str, *, quiet: bool = False) -> str:
    """The whole listing, as ``--format`` says; names from machines and images are escaped."""
    if quiet and not typed:
        return "".join(f"{row[listing.identity]}\n" for row in rows)
    table, template = template_of(typed, listing)
    if template is None:
        return "".join(to_json(dict(sorted(row.whole().items()))) + "\n" for row in rows)
    if not rows:
        _heading(listing, template)  # a wrong template is wrong without rows too
    if not table:
        return "".join(safe(template.render(row)) + "\n" for row in rows)
    return align([[printable(cell) for cell in cells] for cells in _lines(rows, listing, template)])


def safe(text: str) -> str:
    """Control characters escaped, but for the tabs and newlines of the template."""
    return "\t".join(printable(part) for part in text.split("\t"))


def _heading(listing: Listing, template: Template) -> str:
    return template.render(Record(listing.headings | {"Label": label_heading}))


def _lines(rows: Sequence[Record], listing: Listing, template: Template) -> Iterator[list[str]]:
    for text in (_heading(listing, template), *(template.render(row) for row in rows)):
        if "\n" in text.rstrip("\n"):
            raise wrong("a table's row has one line", hint="leave the word table out")
        yield text.rstrip("\n").split("\t")


def label_heading(name: str) -> str:
    """``com.example.cpu-count``: ``cpu count``, as Docker heads a column of labels."""
    return name.rpartition(".")[2].replace("-", " ").replace("_", " ")
