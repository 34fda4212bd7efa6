"""The diagrams in the docs are those of the tables in the code."""

from __future__ import annotations

from tools.state_tables import PAGE, PLACE, TABLES, drawn


def test_state_diagrams_in_docs_are_what_the_tables_say() -> None:
    """A transition that is added, or taken away, shows in the docs; and every table is drawn there."""
    text = PAGE.read_text(encoding="utf-8")
    assert drawn(text) == text, "run python tools/state_tables.py"
    assert [found[2] for found in PLACE.finditer(text)] == list(TABLES)
