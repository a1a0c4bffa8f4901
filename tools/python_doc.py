"""Write the reference in docs/python.md, below its mark, from the Python API; ``make docs``."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs/python.md"
MARK = "<!-- what follows is written by make docs -->\n"

SYNC = "cove/client/sync.py"
CLASSES = (
    (SYNC, "Client", ""),
    (SYNC, "Machine", ""),
    (SYNC, "Process", ""),
    (SYNC, "Images", ""),
    ("cove/client/networks.py", "Networks", ""),
    ("cove/client/volumes.py", "Volumes", ""),
    ("cove/client/results.py", "Result", ""),
    ("cove/client/results.py", "Chunk", ""),
    ("cove/store/records.py", "Cause", "Of `Result.reason`."),
    ("cove/client/options.py", "Options", ""),
    ("cove/engine/calls/machines.py", "LogEntry", "Of `Machine.logs`."),
    ("cove/engine/calls/machines.py", "Inspected", "Of `Machine.inspect`."),
    ("cove/store/records.py", "MachineRecord", "Of `Inspected.record`."),
    ("cove/engine/calls/watching.py", "Stats", "Of `Machine.stats` and `watch`."),
    ("cove/engine/calls/watching.py", "Processes", "Of `Machine.top`."),
    ("cove/engine/calls/watching.py", "Event", "Of `events`."),
    ("cove/engine/calls/images.py", "Image", "Of `images`."),
    ("cove/store/records.py", "ImageRecord", "Of `Image.record`."),
    ("cove/engine/calls/images.py", "Progress", "Of `images.pull`, `load` and the like."),
    ("cove/engine/calls/images.py", "ImageRemoved", "Of `images.remove`."),
    ("cove/engine/calls/networks.py", "Network", "Of `networks`."),
    ("cove/engine/calls/networks.py", "Member", "Of `Network.members`."),
    ("cove/store/records.py", "NetworkRecord", "Of `Network.record`."),
    ("cove/store/records.py", "Endpoint", "Of `Member.endpoint`, and of a machine's record."),
    ("cove/engine/calls/networks.py", "Refusals", "Of `networks.refused`."),
    ("cove/store/records.py", "Refused", "Of `Refusals.refused`."),
    ("cove/engine/calls/volumes.py", "Volume", "Of `volumes`."),
    ("cove/store/records.py", "VolumeRecord", "Of `Volume.record`."),
    ("cove/engine/calls/volumes.py", "VolumesPruned", "Of `volumes.prune`."),
    ("cove/engine/calls/system.py", "Info", "Of `info`."),
    ("cove/engine/calls/system.py", "Version", "Of `version`."),
)
ERRORS = (
    "CoveError", "UsageError", "NotFound", "NoSuchImage", "Conflict", "Unsupported", "HostError",
    "BadArchive", "OpError", "Failed",
)  # fmt: skip


def reference() -> str:
    parts = ["## Reference\n"]
    for path, name, more in CLASSES:
        parts += [f"### {name}\n", *_class(_find(path, name), more)]
    parts += ["### Errors\n", *_errors()]
    return "\n".join(parts)


def _find(path: str, name: str) -> ast.ClassDef:
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise LookupError(f"{path} has no class {name}")


def _class(node: ast.ClassDef, more: str) -> Iterator[str]:
    text = " ".join(filter(None, (more, _prose(ast.get_docstring(node) or ""))))
    if text:
        yield f"{text}\n"
    fields = list(_fields(node))
    if fields:
        yield from ("| field | type | meaning |", "|---|---|---|", *fields, "")
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            yield from _function(child)
        elif isinstance(child, ast.FunctionDef) and child.name == "__iter__":
            yield f"**`for chunk in …`** {_prose(ast.get_docstring(child) or '')}\n"


def _fields(node: ast.ClassDef) -> Iterator[str]:
    body = node.body
    for place, child in enumerate(body):
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            after = body[place + 1] if place + 1 < len(body) else None
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            said = str(after.value.value) if is_text else ""  # type: ignore[union-attr]
            kind = ast.unparse(child.annotation).replace("|", "\\|")
            yield f"| `{child.target.id}` | `{kind}` | {_prose(said)} |"


def _function(node: ast.FunctionDef) -> Iterator[str]:
    said = _prose(ast.get_docstring(node) or "")
    if any(ast.unparse(mark) == "property" for mark in node.decorator_list):
        yield f"**`{node.name}`** {said}\n"
        return
    node.args.args = [arg for arg in node.args.args if arg.arg != "self"]
    given = ast.unparse(node.args)
    returns = ast.unparse(node.returns) if node.returns else "None"
    result = "" if returns == "None" else f" -> {returns}"
    yield f"**`{node.name}({given}){result}`** {said}\n"


def _errors() -> Iterator[str]:
    yield from ("| class | is a | exit code | meaning |", "|---|---|---|---|")
    tree = ast.parse((ROOT / "cove/errors.py").read_text())
    found = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    from cove import errors

    for name in ERRORS:
        said = _prose(ast.get_docstring(found[name]) or "")
        base = ast.unparse(found[name].bases[0])
        yield f"| `{name}` | `{base}` | {getattr(errors, name).exit_code} | {said} |"
    yield ""


def _prose(text: str) -> str:
    """One paragraph of Markdown."""
    return re.sub(r"\s+", " ", text.replace("``", "`")).strip()


def text() -> str:
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    written, mark, _ = TARGET.read_text().partition(MARK)
    return written + (mark or MARK) + "\n" + reference()


def main() -> int:
    TARGET.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
