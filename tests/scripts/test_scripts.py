"""Every golden script still says what it said; see `script.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scripts.script import run

SCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_replayed_says_what_it_said(path: Path) -> None:
    """A dialogue of the protocols is the same, message by message."""
    text = path.read_text()
    assert run(text) == text


def test_scripts_listed_cover_the_dialogues() -> None:
    """The scripts are found: an empty list would pass in silence."""
    assert len(SCRIPTS) >= 29
