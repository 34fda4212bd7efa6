"""What is known of a cluster's availability: figures, outages and elections. Data only; times are Unix milliseconds.

Words, as in IEC 60050-192 (Dependability) and IEC 61703: a *failure* is an outage that nobody planned; *up* is able to serve;
*MTTF*, mean time to failure, is up time per failure; *MTTR*, mean time to restoration, failed time per failure. Without planned
stops the uptime share is MTTF / (MTTF + MTTR), the steady-state availability. docs/availability.md has the rules by which a
node or a shard counts as down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kvctl.availability.spans import Span, Spans, total_ms


@dataclass(frozen=True, slots=True)
class Outage:
    """One time in which something could not serve, as far as it falls into the window."""

    span: Span
    planned: bool = False
    """A stop that was announced, or a leadership handed over: no failure."""
    why: str = ""
    """In the words of whoever noticed first."""
    began_before: bool = False
    """It began before the window does."""
    ongoing: bool = False
    """It was not over at the window's end."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The sums of a time that was observed."""

    up_ms: int = 0
    failed_ms: int = 0
    planned_ms: int = 0
    """Down by plan."""
    failures: int = 0
    """Also one that began before the window, or is not over."""
    stops: int = 0
    """Planned outages."""
    longest: Outage | None = None
    """Of the failures."""

    @property
    def down_ms(self) -> int:
        """Whatever the reason."""
        return self.failed_ms + self.planned_ms

    @property
    def uptime_share(self) -> float | None:
        """Up time by observed time, 0 to 1; None: nothing was observed."""
        observed_ms = self.up_ms + self.down_ms
        return self.up_ms / observed_ms if observed_ms else None

    @property
    def mttf_ms(self) -> float | None:
        """Mean time to failure; None: there was no failure, so that it is longer than `up_ms` as far as anybody knows."""
        return self.up_ms / self.failures if self.failures else None

    @property
    def mttr_ms(self) -> float | None:
        """Mean time to restoration; None: there was no failure. Too short where an outage is cut by the window's ends."""
        return self.failed_ms / self.failures if self.failures else None


def figures(observed: Spans, outages: Iterable[Outage]) -> Figures:
    """The sums over what was observed; `outages` are disjoint and within it."""
    failed = [outage for outage in outages if not outage.planned]
    planned = [outage for outage in outages if outage.planned]
    failed_ms, planned_ms = (sum(outage.span.ms for outage in part) for part in (failed, planned))
    return Figures(
        up_ms=total_ms(observed) - failed_ms - planned_ms,
        failed_ms=failed_ms,
        planned_ms=planned_ms,
        failures=len(failed),
        stops=len(planned),
        longest=max(failed, key=lambda outage: outage.span.ms, default=None),
    )


@dataclass(frozen=True, slots=True)
class NodeAvailability:
    """A node, as the others saw it and as it remembers its own starts."""

    name: str
    state: str
    """At the window's end: ACTIVE, RECOVERING, FAILED, INACTIVE (stopped by plan), or UNKNOWN."""
    figures: Figures
    outages: tuple[Outage, ...]
    observed: Spans
    """When it is known how it was: from its first service on, without the time in which nobody could see it."""
    recovering: Spans = ()
    """Up, and catching up or short of disk space, by its own word."""
    starts: tuple[int, ...] = ()
    """When its process started."""
    answers: bool = True
    """Whether it told its own record."""


@dataclass(frozen=True, slots=True, order=True)
class Election:
    """A node came to lead a shard: by its own record, or, where that is not to be had, by a follower's."""

    shard: int
    term: int
    leader: str
    previous: str
    """Empty: it knew of none."""
    at_ms: int
    """When it could serve; by a follower's record, when it was first heard."""
    leaderless_ms: int
    """Since the last word of the leader before, as far as whoever tells it knew."""
    cause: str
    """START, NODE_FAILED, TIMEOUT, TRANSFER or UNSPECIFIED."""


@dataclass(frozen=True, slots=True)
class ShardAvailability:
    """A shard: available while it has a leader that can serve."""

    shard: int
    leader: str
    """At the window's end, as far as known; empty: none."""
    figures: Figures
    outages: tuple[Outage, ...]
    observed: Spans
    """From its first leader on."""
    elections: tuple[Election, ...]
    """Within the window, the oldest first."""
    led: tuple[tuple[str, Span], ...] = ()
    """Who led when, within the window."""


@dataclass(frozen=True, slots=True)
class SystemAvailability:
    """The cluster: available while every shard is."""

    figures: Figures
    outages: tuple[Outage, ...]
    observed: Spans


@dataclass(frozen=True, slots=True)
class SuccessRate:
    """How requests of one kind ended."""

    operation: str
    consistency: str
    """STRONG, EVENTUAL, ..."""
    counts: Mapping[str, int]
    """By outcome: "OK", or the error's reason."""
    answered: int
    """Of them those that were answered, a refusal for a reason of the caller's too; see `outcomes.ANSWERS`."""
    unanswered: int
    """Those that the cluster owed."""

    @property
    def share(self) -> float | None:
        """Answered by all that count, 0 to 1; None: there were none."""
        counted = self.answered + self.unanswered
        return self.answered / counted if counted else None


@dataclass(frozen=True, slots=True)
class Availability:
    """Everything."""

    window: Span
    observers: tuple[str, ...]
    """Nodes whose records this is made of."""
    missing: Mapping[str, str]
    """Nodes that did not answer, and why: what only they saw is not in here."""
    clock_spread_ms: int
    """How far apart the observers' wall clocks may be: their answers, asked for at once, were so far apart."""
    nodes: tuple[NodeAvailability, ...]
    shards: tuple[ShardAvailability, ...]
    system: SystemAvailability
    outcomes: tuple[SuccessRate, ...] = ()
    """As the nodes answered, since each one's start."""
    clients: tuple[SuccessRate, ...] = field(default=())
    """As clients saw it, from their traces."""
