"""A part of a request that other nodes, or other tasks, work on: a stage that is known by its span before it has ended.

Owns the trace context of that work: while the part runs, the task's current span is the stage, so whatever is sent for it, or
spawned, is its child.
"""

from __future__ import annotations

from contextvars import Token
from types import TracebackType

from opentelemetry.context import Context, attach, detach

from kvnode.observe.stages import Attributes, Timeline
from kvnode.observe.tracing import child_of, context_of


class Part:
    """`with Part(timeline, stage, next_stage):`; without a trace it is only the stage."""

    __slots__ = ("_after", "_attributes", "_stage", "_timeline", "_token")

    def __init__(self, timeline: Timeline, stage: str, after: str, attributes: Attributes | None = None) -> None:
        self._timeline, self._stage, self._after, self._attributes = timeline, stage, after, attributes
        self._token: Token[Context] | None = None

    def __enter__(self) -> None:
        within = self._timeline.span or self._timeline.parent
        span = None if within is None else child_of(within)
        self._timeline.enter(self._stage, self._attributes, span)
        if span is not None:
            self._token = attach(context_of(span))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._token is not None:
            detach(self._token)
        self._timeline.enter(self._after)
