"""Random schedules over three and five pure replicas; see `tests/scripts/schedule.py` for what is checked."""

from __future__ import annotations

import pytest

from tests.scripts.schedule import Schedule

SEEDS_PER_TEST = 25
KEPT_SEEDS = (54, 1720, 3415)
"""Once failed: an entry acknowledged behind a snapshot's mark; a snapshot whose receiver died."""


@pytest.mark.parametrize("first", range(0, 200, SEEDS_PER_TEST))
def test_random_schedules_with_faults_keep_every_promise(first: int) -> None:
    """Loss, duplication, reordering, slow disks, crashes. A failure names its seed: `python -m tests.scripts.schedule SEED`."""
    for seed in range(first, first + SEEDS_PER_TEST):
        run(seed)


@pytest.mark.parametrize("seed", KEPT_SEEDS)
def test_random_schedule_that_once_failed_keeps_every_promise(seed: int) -> None:
    """Every seed that found a bug stays."""
    run(seed)


def run(seed: int) -> None:
    """One schedule, its seed in the failure."""
    try:
        Schedule(seed).run(800)
    except BaseException as error:
        error.add_note(f"seed {seed}: python -m tests.scripts.schedule {seed}")
        raise
