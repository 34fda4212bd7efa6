"""Random schedules of two-phase commit; see `two_phase_schedule.py` for what is checked."""

from __future__ import annotations

import pytest

from tests.scripts.two_phase_schedule import Schedule

SEEDS_PER_TEST = 25


@pytest.mark.parametrize("first", range(0, 200, SEEDS_PER_TEST))
def test_random_transactions_with_faults_keep_every_promise(first: int) -> None:
    """Loss, repetition, reordering, deaths, restarts. A failure names the command that shows what happened."""
    for seed in range(first, first + SEEDS_PER_TEST):
        try:
            Schedule(seed).run()
        except BaseException as error:
            error.add_note(f"seed {seed}: python -m tests.scripts.two_phase_schedule {seed}")
            raise
