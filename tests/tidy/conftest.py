"""What the house rules share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tidy.source import parse


@pytest.fixture(scope="module", autouse=True)
def _syntax_trees() -> Iterator[None]:
    """Forgets the syntax trees in the end: more than a million objects, which every garbage collection would look at."""
    yield
    parse.cache_clear()
