"""``system check``: what is not as it was recorded, a line each."""

from __future__ import annotations

from cove.cli.command import Command, Typed
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine.calls.check import Check, Checked, Finding
from cove.errors import UsageError, printable
from cove.shown.functions import to_json
from cove.spec.flags import Flag


def check(typed: Typed, terminal: Terminal, client: Client) -> int:
    json = typed.text("format") == "json"
    bar = terminal.is_terminal(2)
    findings: list[Finding] = []
    for step in client.check(Check(repair=typed.on("repair")), terminal.cancelled):
        if step.finding is None:
            if bar:
                terminal.error(_progress(step))
            continue
        findings.append(step.finding)
        if not json:
            terminal.write(("\r\x1b[K" if bar and terminal.is_terminal(1) else "")
                           + _text(step.finding))  # fmt: skip
    if json:
        terminal.write(to_json([_document(finding) for finding in findings]) + "\n")
    left = sum(not finding.mended for finding in findings)
    if not json:
        terminal.write(_summary(len(findings), left, repaired=typed.on("repair")))
    return 1 if left else 0


def _progress(step: Checked) -> str:
    if step.stage == "done":
        return "\r\x1b[K"
    count = f" {step.current + 1} of {step.total}" if step.total else ""
    return f"\r\x1b[Kchecking {step.stage}{count}"


def _text(finding: Finding) -> str:
    line = f"{finding.kind} {finding.name}: {finding.problem}"
    if finding.means:
        line += f"; {finding.means}"
    if finding.mended:
        line += f"; {finding.mended}"
    text = printable(line) + "\n"
    if finding.hint:
        text += f"  hint: {printable(finding.hint)}\n"
    return text


def _document(finding: Finding) -> dict[str, object]:
    return {
        "Kind": finding.kind,
        "Name": finding.name,
        "Problem": finding.problem,
        "Means": finding.means,
        "Mended": finding.mended,
        "Hint": finding.hint,
    }


def _summary(found: int, left: int, *, repaired: bool) -> str:
    if not found:
        return "nothing was found: the state directory is as it was recorded\n"
    if not left:
        return f"{found} found, all mended\n"
    return (
        f"{found} found, {found - left} mended\n"
        if repaired
        else (f"{found} found; cove system check --repair mends what can be mended\n")
    )


def parse_form(text: str) -> str:
    if text not in ("json", "text"):
        raise UsageError(f'cannot use the format "{text}": it is text or json')
    return text


COMMANDS = {
    "check": Command(
        "check",
        check,
        help="Compare the state directory with its records",
        about="Exit code 1: something was found that is not mended. Machines run on meanwhile.",
        flags=(
            Flag("repair", "repair", "Mend what can be mended without losing anything"),
            Flag("format", "format", "text or json", "", "FORMAT", parse_form, default="text"),
        ),
    )
}
