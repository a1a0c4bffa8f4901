"""docs/plan.md says what the tables say."""

from __future__ import annotations

from tools.plan_doc import DOCUMENT, render


def test_the_document_is_what_the_tables_say() -> None:
    assert DOCUMENT.read_text() == render(), "write it anew: python tools/plan_doc.py"
