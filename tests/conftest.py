"""What all tests share: no setting of the caller's environment reaches them, and no example of a property is too slow."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import settings

settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KVNODE_")]:
        monkeypatch.delenv(name)


def pytest_collection_finish() -> None:
    """What was imported and collected lives as long as the run: no garbage collection looks at it again."""
    gc.collect()
    gc.freeze()
