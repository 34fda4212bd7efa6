"""One line of log for a request that failed or was slow, with its trace id: the way from a node's log to `kvctl trace`.

Owns which of them are told: of each outcome one a second, and how many others there were since, so that a bad minute does not
fill the disk. Never looks into requests.
"""

from __future__ import annotations

from kvnode.observe.logging import get_logger
from kvnode.observe.spans import CONSISTENCIES
from kvnode.observe.stages import Clock, Timeline
from kvnode.types import Seconds

logger = get_logger("requests")

INTERVAL: Seconds = 1.0
"""Between two lines about the same outcome."""
OPERATORS = "cluster."
"""What operators ask begins so. It is not told: they see the answer, and their questions would take users' requests' place."""


class RequestLog:
    """Of one node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[str, tuple[Seconds, int]] = {}
        """Outcome -> when it was told last, and how many there were since then."""

    def tell(self, timeline: Timeline, outcome: str, failed: bool) -> None:
        """A request has ended: it failed, or was slow. To be called in its task, whose trace context the line gets."""
        if timeline.operation.startswith(OPERATORS):
            return
        now = self._clock()
        told, others = self._told.get(outcome, (now - INTERVAL, 0))
        if now - told < INTERVAL:
            self._told[outcome] = told, others + 1
            return
        self._told[outcome] = now, 0
        stage, spent = max(timeline.sums().items(), key=lambda item: item[1])
        log = logger.warning if failed else logger.info
        log(
            "request failed" if failed else "request was slow",
            operation=timeline.operation,
            consistency=CONSISTENCIES.get(timeline.consistency, ""),
            outcome=outcome,
            ms=_ms(timeline.ended - timeline.began),
            longest_stage=stage,
            longest_stage_ms=_ms(spent),
            **({"peer": timeline.peer} if timeline.peer else {}),
            **({"others_since": others} if others else {}),
        )


def _ms(seconds: Seconds) -> float:
    return round(seconds * 1000, 1)
