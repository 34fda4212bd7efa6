"""When the nemesis does what: a schedule drawn from the seed, and its execution.

Owns the times. Faults overlap; there are quiet times in between, so that the cluster gets somewhere. What the seed decides does
not depend on how fast the machine is; whether two faults that want the same process follow one another closely does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from .faults import FAULTS, WEIGHTS, Board, Fault

PAUSE_S_MEAN = 3.5
"""From the beginning of one fault to that of the next."""
QUIET_S = (2.0, 6.0)
QUIET_SHARE = 0.2
"""After so many of the faults there is a quiet time."""
FIRST_S = 1.5


@dataclass(frozen=True)
class Planned:
    """A fault of the schedule, seconds after the nemesis begins."""

    number: int
    at_s: float
    fault: Fault


def schedule(seed: str, seconds: float, names: Sequence[str], kinds: Sequence[str]) -> list[Planned]:
    """All faults of a run. None begins in the last seconds: they are for those that are there."""
    rng = random.Random(f"{seed}/nemesis")
    planned: list[Planned] = []
    at_s = FIRST_S
    weights = [WEIGHTS.get(kind, 1) for kind in kinds]
    while kinds and at_s < seconds - 1.0:
        fault = FAULTS[rng.choices(kinds, weights)[0]].draw(rng, names)
        planned.append(Planned(len(planned), at_s, fault))
        at_s += min(rng.expovariate(1 / PAUSE_S_MEAN), 3 * PAUSE_S_MEAN)
        if rng.random() < QUIET_SHARE:
            at_s += fault.duration_s + rng.uniform(*QUIET_S)
    return planned


async def execute(board: Board, planned: Sequence[Planned], over: asyncio.Event) -> None:
    """Run a schedule until it is done, or `over`; returns when everything that began has ended."""
    began = asyncio.get_running_loop().time()

    async def one(plan: Planned) -> None:
        wait_s = began + plan.at_s - asyncio.get_running_loop().time()
        try:
            await asyncio.wait_for(over.wait(), max(0.0, wait_s))
        except TimeoutError:
            await plan.fault.run(board, plan.number)

    async with asyncio.TaskGroup() as tasks:
        for plan in planned:
            tasks.create_task(one(plan))


async def heal_all(board: Board) -> None:
    """Whatever is left: all nodes run and have no faults."""
    for node in board.playground.nodes:
        if node.state == "paused":
            await asyncio.to_thread(board.playground.resume, node.name)
        elif node.state != "running":
            await board.start(node.name)
    await asyncio.gather(*(board.heal(name) for name in board.addresses))
    board.recorder.fault("heal", -1, "note", list(board.addresses), "everything is healed")
