"""Whoever dies, and whenever: a transaction over several shards ends, the same everywhere, once, and its locks go in time.

KVNODE_SIM_CRASH_POINTS says how many of the points are run, evenly spread; "all"; or one point by its name, as a failure tells
it. KVNODE_SIM_JOBS: in how many processes.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import pytest

from tests.sim.crash_points import LOCKED_S_MAX, Death, Outcome, Point, run_point

WANTED = os.environ.get("KVNODE_SIM_CRASH_POINTS", "40")
JOBS = int(os.environ.get("KVNODE_SIM_JOBS", "1"))


def _events(point: Point) -> list[str]:
    outcome = run_point(point)
    assert not outcome.violations, f"{point}: {outcome.violations[0]}\n{outcome.tail}"
    return outcome.events


WITHOUT_THE_LAST_VOTE, DECIDED = ("PrepareResponse", -1), ("ResolveRequest", 0)
"""A message of a transaction, and which of that name. When the last vote gets lost all others have voted, so that, whoever
leads the anchor next, another one must ask it."""


def _without_coordinator(message: tuple[str, int]) -> Point:
    """The coordinator of a transaction over three shards dies before this message leaves."""
    name, which = message
    event = [number for number, one in enumerate(_events(Point(3))) if one.startswith(name)][which]
    return Point(3, (Death(event, (0,), after=False),), insists=False)


def _deaths(point: Point, *victims: tuple[int, ...]) -> Iterator[Death]:
    """Every further death in a run: at every event, of every victim, before it and after it; at syncs also without power."""
    first = point.deaths[-1].event + 1 if point.deaths else 0
    for event, name in enumerate(_events(point)[first:], first):
        for who, after, power in product(victims, (False, True), (False, True)):
            if name.startswith("sync") or not power:
                yield Death(event, who, after, power)


def _points() -> Iterator[Point]:
    """Deaths in a transaction over two shards, with both kinds of clients; over three; and in recovery, when the coordinator
    has died without all votes, or decided and told nobody."""
    for death, insists in product(_deaths(Point(2), (0,), (1,), (0, 1)), (True, False)):
        yield Point(2, (death,), insists)
    for death in _deaths(Point(3), (0,), (1,), (2,), (0, 1), (0, 2)):
        yield Point(3, (death,))
    for message in (WITHOUT_THE_LAST_VOTE, DECIDED):
        base = _without_coordinator(message)
        for death in _deaths(base, (1,), (2,), (1, 2)):
            yield replace(base, deaths=(*base.deaths, death))


def _wanted() -> list[Point]:
    points = list(_points())
    if WANTED.isdigit():
        number = min(int(WANTED), len(points))
        return [points[at * len(points) // number] for at in range(number)]
    return [point for point in points if WANTED in ("all", str(point))]


def _summary(outcomes: Sequence[Outcome]) -> str:
    told = Counter(outcome.first for outcome in outcomes if outcome.first)
    attempts = Counter(outcome.attempts for outcome in outcomes)
    longest = max(outcomes, key=lambda outcome: outcome.locked_s)
    return "\n".join(
        [
            f"{len(outcomes)} points, {sum(outcome.died for outcome in outcomes)} deaths",
            f"clients that waited were told, and it was: {', '.join(f'{what} {n}' for what, n in told.most_common())}",
            f"attempts until a commit: {', '.join(f'{n} in {runs}' for n, runs in sorted(attempts.items()))}",
            f"the longest vote: {longest.locked_s:.3f} s of {LOCKED_S_MAX} s, in {longest.point}",
        ]
    )


@pytest.mark.timeout(120 if WANTED.isdigit() else 7200)
def test_transaction_whoever_dies_at_any_point_ends_everywhere_alike_once_and_in_time() -> None:
    """The coordinator, another participant's leader, or both die at every message and sync, before and after it."""
    points = _wanted()
    if JOBS > 1:
        with multiprocessing.Pool(JOBS) as pool:
            outcomes = pool.map(run_point, points, chunksize=8)
    else:
        outcomes = list(map(run_point, points))
    print(_summary(outcomes))
    failed = [outcome for outcome in outcomes if outcome.violations]
    if failed:
        names = "\n".join(f"{outcome.point}: {outcome.violations[0][:500]}" for outcome in failed[:50])
        pytest.fail(f"{len(failed)} of {len(points)} points\n{names}\n{failed[0].tail}")


def test_crash_points_of_a_transaction_cover_its_protocol_and_its_disks() -> None:
    """The points are those of the protocol: were a message no event any more, nobody would die there."""
    kinds = {name.split()[0] for name in _events(Point(2))}
    kinds |= {name.split()[0] for name in _events(_without_coordinator(WITHOUT_THE_LAST_VOTE))}
    messages = ("Txn", "Prepare", "Append", "Resolve", "TransactionStatus")
    assert kinds >= {"sync", *(f"{message}{kind}" for message in messages for kind in ("Request", "Response"))}
