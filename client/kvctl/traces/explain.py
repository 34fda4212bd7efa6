"""Why was this request slow: a sentence with numbers.

Owns which parts of the critical path are worth saying, and the text. Compares with what is usual for its kind where that is
known: then what took longer than usual counts, not what took long. Pure, and deterministic: the same trace has the same
explanation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kvctl.traces.causes import causes_of
from kvctl.traces.critical_path import Part, Step, by_part, critical_path
from kvctl.traces.node import Node
from kvctl.traces.tree import Trace, served
from kvctl.traces.words import duration_words, listed, of_words, wait_words

SHARES_MAX = 3
SHARE_MIN = 0.1
"""Of the whole; what is less is not worth a word."""
EXPLAINED = 0.8
"""Of the whole; what explains so much is enough."""
USUAL_MAX = 1.25
"""Times the median: up to this nothing is slow."""
PHASES = ("prepare", "decide", "collect")
"""Stages of transactions, in which nodes do what they do for every write."""


@dataclass(frozen=True, slots=True)
class Typical:
    """What is usual for one operation and consistency: medians, in nanoseconds."""

    count: int
    """Of requests that it is from."""
    duration_ns: float
    stages_ns: Mapping[str, float] = field(default_factory=dict)
    """Time on the critical path by stage, on all nodes together."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the time, in words."""

    part: Part
    ns: int
    typical_ns: float | None
    """None: unknown."""
    words: str
    """As "waiting for fsync on n2"."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one request took as long as it did."""

    trace_id: str
    operation: str
    node: str
    """Whose view it is; empty: the client's."""
    duration_ns: int
    typical_ns: float | None
    """None: unknown."""
    error: str
    """Why it failed; empty: it did not."""
    shares: tuple[Share, ...]
    """What explains most of it, the largest first."""
    causes: tuple[str, ...]
    """Facts behind it, as "n3 was FAILED, so n2 was needed for the quorum"."""

    @property
    def is_usual(self) -> bool:
        """Whether it took no longer than such requests do."""
        return self.typical_ns is not None and self.duration_ns <= USUAL_MAX * self.typical_ns

    @property
    def text(self) -> str:
        """All of it, in a sentence."""
        said = "; ".join(filter(None, (self._parts(), *self.causes)))
        return f"{self._beginning()}{': ' if said else ''}{said}."

    def _beginning(self) -> str:
        name = self.operation[:1].upper() + self.operation[1:]
        took = duration_words(self.duration_ns) + (f" on {self.node}" if self.node else "")
        usual = "" if self.typical_ns is None else f" (usually {duration_words(self.typical_ns)})"
        if self.error:
            return f"{name} failed with {self.error} after {took}{usual}"
        return f"{name} took {took}, as usual" if self.is_usual else f"{name} took {took}{usual}"

    def _parts(self) -> str:
        texts: list[str] = []
        for share in self.shares:
            amount = duration_words(share.ns) if texts else of_words(share.ns, self.duration_ns)
            usual = "" if share.typical_ns is None or self.is_usual else f" (usually {duration_words(share.typical_ns)})"
            texts.append(f"{amount} {share.words}{usual}")
        return ", ".join(texts)


def explain(trace: Trace, request: Node, typical: Typical | None = None) -> Explanation:
    """Why `request`, one of `trace.requests()`, took its time."""
    steps = critical_path(request)
    server = served(request)
    about = [node.span for node in (request, server) if node is not None]
    shares = _shares(steps, request, typical)
    return Explanation(
        trace.trace_id,
        request.span.operation or request.span.name.removeprefix("kvnode."),
        request.span.node,
        request.duration_ns,
        typical.duration_ns if typical else None,
        next((span.error for span in about if span.error), ""),
        shares,
        tuple(causes_of(trace, request, steps, [share.part for share in shares])),
    )


def _shares(steps: Iterable[Step], request: Node, typical: Typical | None) -> tuple[Share, ...]:
    """What to say: what took longer than usual, if that is known and it did; else what took long."""
    steps = list(steps)
    usual = typical.stages_ns if typical and request.duration_ns > USUAL_MAX * typical.duration_ns else {}
    excess = {part: ns - usual.get(part.stage, 0) for part, ns in by_part(steps).items()}
    whole = request.duration_ns - (typical.duration_ns if usual and typical else 0)
    chosen: list[Part] = []
    for part in sorted(excess, key=lambda part: (-excess[part], part)):
        enough = sum(excess[one] for one in chosen) >= EXPLAINED * whole
        if chosen and (enough or len(chosen) == SHARES_MAX or excess[part] < SHARE_MIN * whole):
            break
        chosen.append(part)
    phases = _phases(request)
    parts = by_part(steps)
    return tuple(
        Share(part, parts[part], typical.stages_ns.get(part.stage, 0.0) if typical else None, _words(part, steps, phases))
        for part in chosen
    )


def _words(part: Part, steps: Iterable[Step], phases: Mapping[int, str]) -> str:
    nodes = [step.node for step in steps if step.part == part]
    ends = sorted({node.span.node or "the client" for node in nodes})
    phase = {phases.get(id(node), "") for node in nodes}
    suffix = f" ({phase.pop()})" if len(phase) == 1 and phase != {""} else ""
    return wait_words(part.stage, part.where, listed(ends)) + suffix


def _phases(request: Node) -> dict[int, str]:
    """Of each node within a transaction's phase: which."""
    return {
        id(node): stage.stage
        for stage in request.walk()
        if stage.stage in PHASES
        for node in stage.walk()
        if node.stage not in PHASES
    }
