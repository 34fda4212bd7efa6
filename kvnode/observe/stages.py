"""The stages of one request: where its time goes, recorded always, at a few hundred nanoseconds a stage.

Owns the names of stages and the timeline that a request carries with it (`RequestContext.timeline`). Never decides anything,
and never makes a span: `recorder` does, afterwards. Invariant: stages follow each other without gaps from arrival to answer, so
they explain the whole time of a request by construction; what runs at the same time on other nodes is told beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.context import attach, detach
from opentelemetry.trace import SpanContext, TraceFlags

from kvnode.observe.tracing import child_of, context_of, current, traceparent_of

if TYPE_CHECKING:
    from kvnode.observe.log_times import LogTimes, LogWrite
    from kvnode.types import Index, Shard

ADMISSION = "admission"
"""From arrival in the handler: checked, routed."""
LEADER_WAIT = "leader_wait"
"""No leader is known, or it hands over."""
LOCK_WAIT = "lock_wait"
"""A transaction holds the key."""
FORWARD = "forward"
"""Another node serves it."""
LOG_QUEUE = "log_queue"
"""Proposed; the log still writes an earlier batch."""
LOG_WRITE = "log_write"
"""This node writes and syncs its batch."""
QUORUM = "quorum"
"""Durable here; followers are waited for."""
APPLY = "apply"
"""Committed; being applied."""
READ_INDEX = "read_index"
"""A strong read: a majority confirms the leader, and this replica applies up to its index."""
SESSION_WAIT = "session_wait"
"""The replica does not yet have what the session has seen."""
ACKS = "acks"
"""Other replicas shall hold an eventual write."""
PREPARE = "prepare"
"""The shards of a transaction vote."""
DECIDE = "decide"
"""The anchor's log decides."""
COLLECT = "collect"
"""Several shards are read."""
OPERATIONS = "operations"
"""The operations of a batch run."""
RETRY_PAUSE = "retry_pause"
"""A transaction was aborted for another; a pause before it is tried again."""
REPLY = "reply"
"""The answer is made."""

Clock = Callable[[], float]
"""Seconds that only grow; `time.perf_counter` of a real node."""
Attributes = Mapping[str, Any]


class Stage(NamedTuple):
    """One stage of a request, in the clock's seconds."""

    name: str
    start: float
    end: float
    attributes: Attributes | LogWrite | None
    """Of a write of the log: the batch."""
    span: SpanContext | None
    """Its identity, where somebody else has heard of it already."""


class Aside(NamedTuple):
    """Something that was asked of another shard or node beside the stages."""

    name: str
    start: float
    end: float
    attributes: Attributes
    span: SpanContext
    parent: SpanContext


class Timeline:
    """One request, from its arrival on. Made by `Recorder.begin`, ended by `Recorder.end`."""

    __slots__ = (
        *("_attributes", "_clock", "_current", "_pieces", "_span", "asides", "attributes", "began", "consistency", "ended"),
        *("hops", "log", "operation", "parent", "peer", "shard", "span"),
    )

    def __init__(self, clock: Clock, operation: str, consistency: int, span: SpanContext | None, parent: SpanContext | None):
        self._clock = clock
        self.operation, self.consistency = operation, consistency
        self.span, self.parent = span, parent
        """Its identity in traces (None: that of its batch's trace, given when it is wanted), and whose child it is."""
        self.began = self.ended = clock()
        self._current = ADMISSION
        self._attributes: Attributes | None = None
        self._span: SpanContext | None = None
        self._pieces: list[tuple[str, float, Attributes | LogWrite | None, SpanContext | None]] = []
        self.hops = 0
        """How often other nodes have forwarded it before it came here."""
        self.shard: int | None = None
        self.asides: list[Aside] | None = None
        self.attributes: dict[str, Any] | None = None
        """Of its span, beside the usual ones."""
        self.peer: str | None = None
        """Of a request that is a call of its own: its caller, as gRPC writes it."""
        self.log: tuple[Shard, Index] | None = None
        """Where in which log it went."""

    def enter(self, stage: str, attributes: Attributes | None = None, span: SpanContext | None = None) -> None:
        """The present stage ends now; another begins."""
        self._pieces.append((self._current, self._clock(), self._attributes, self._span))
        self._current, self._attributes, self._span = stage, attributes, span

    def proposed(self, times: LogTimes, shard: Shard, index: Index) -> None:
        """A proposal's way through the log has ended, well or not: what was one stage since LOG_QUEUE began becomes several.

        It is called in that stage; the next one is REPLY.
        """
        now = self._clock()
        began = self._pieces[-1][1] if self._pieces else self.began
        self.shard, self.log = shard, (shard, index)
        write, commit = times.write_of(shard, index), times.commit_of(shard, index)
        # (Not committed: it was given up, and now is as far as it came.)
        committed = now if commit is None else min(commit.at, now)
        pieces, at = self._pieces, began
        if write is not None:
            at = min(max(write.submitted, at), committed)
            pieces.append((LOG_QUEUE, at, None, None))
            durable = min(write.done or now, committed)
            if durable > at:
                at = durable
                pieces.append((LOG_WRITE, at, write, None))
        if committed > at:
            at = committed
            waited_for = LOG_QUEUE if write is None and commit is None else QUORUM
            pieces.append((waited_for, at, {"kvnode.quorum.node": commit.by} if commit else None, None))
        if commit is not None:
            pieces.append((APPLY, max(min(times.applied_at(shard, index) or now, now), at), None, None))
        self._current, self._attributes, self._span = REPLY, None, None

    def accepted(self, times: LogTimes, shard: Shard, sequence: int) -> None:
        """The same for an eventual write that is durable here, called in LOG_QUEUE; the next stage is REPLY."""
        now = self._clock()
        self.shard = shard
        write = times.eventual_write_of(shard, sequence)
        if write is None:
            self.enter(REPLY)
            return
        began = self._pieces[-1][1] if self._pieces else self.began
        submitted = min(max(write.submitted, began), now)
        self._pieces.append((LOG_QUEUE, submitted, None, None))
        done = max(min(write.done or now, now), submitted)
        self._pieces.append((LOG_WRITE, done, write, None))
        self._current = REPLY

    def finish(self) -> None:
        """The answer is there: the last stage ends."""
        self.ended = self._clock()
        self._pieces.append((self._current, self.ended, self._attributes, self._span))

    def stages(self) -> Iterator[Stage]:
        """All that have ended, in order."""
        start = self.began
        for name, end, attributes, span in self._pieces:
            yield Stage(name, start, end, attributes, span)
            start = end

    def sums(self) -> dict[str, float]:
        """Stage -> seconds; a stage that came several times has their sum."""
        sums: dict[str, float] = {}
        start = self.began
        for name, end, _, _ in self._pieces:
            sums[name] = sums.get(name, 0.0) + end - start
            start = end
        return sums

    @property
    def traceparent(self) -> str:
        """What links later work to it, if it is sampled; else empty."""
        span = self.span
        if span is None or not span.trace_flags & TraceFlags.SAMPLED:
            return ""
        return traceparent_of(span)

    @contextmanager
    def aside(self, name: str, attributes: Attributes) -> Iterator[None]:
        """What is asked meanwhile is a child of the task's current span, and the parent of whatever is sent for it."""
        parent = current()
        if parent is None or not self.is_recorded:
            yield
            return
        span, start = child_of(parent), self._clock()
        token = attach(context_of(span))
        try:
            yield
        finally:
            detach(token)
            if self.asides is None:
                self.asides = []
            self.asides.append(Aside(name, start, self._clock(), attributes, span, parent))

    def describe(self, name: str, value: Any) -> None:
        """An attribute of its span."""
        if self.attributes is None:
            self.attributes = {}
        self.attributes[name] = value

    @property
    def is_recorded(self) -> bool:
        """Whether anybody will look at it."""
        return True


class _Untimed(Timeline):
    """The timeline of what is no request of its own: it takes everything and keeps nothing."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(lambda: 0.0, "", 0, None, None)

    def enter(self, stage: str, attributes: Attributes | None = None, span: SpanContext | None = None) -> None:
        """See `Timeline.enter`."""

    def proposed(self, times: LogTimes, shard: Shard, index: Index) -> None:
        """See `Timeline.proposed`."""

    def accepted(self, times: LogTimes, shard: Shard, sequence: int) -> None:
        """See `Timeline.accepted`."""

    def describe(self, name: str, value: Any) -> None:
        """See `Timeline.describe`."""

    @property
    def is_recorded(self) -> bool:
        """See `Timeline.is_recorded`."""
        return False


UNTIMED: Timeline = _Untimed()


def server_timing(timeline: Timeline) -> str:
    """The stages in the syntax of W3C Server-Timing, durations in milliseconds: "total;dur=4.1, admission;dur=0.2"."""
    whole = f"total;dur={(timeline.ended - timeline.began) * 1000:.3f}"
    return ", ".join([whole, *(f"{name};dur={seconds * 1000:.3f}" for name, seconds in timeline.sums().items())])
