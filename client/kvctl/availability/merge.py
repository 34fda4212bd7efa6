"""From the nodes' records to figures: the whole computation, without I/O.

found = availability(answers, missing, replicas, window=(None, None))
found.nodes[0].figures.mttr_ms
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from kvapi.v1 import cluster_pb2
from kvctl.availability import nodes, observers, outcomes, shards
from kvctl.availability.model import (
    Availability,
    NodeAvailability,
    Outage,
    ShardAvailability,
    SuccessRate,
    SystemAvailability,
    figures,
)
from kvctl.availability.observers import Word
from kvctl.availability.spans import Span, clipped, shared_by, united

STATES = {
    Word.NONE: "UNKNOWN",
    Word.UP: "ACTIVE",
    Word.DEGRADED: "RECOVERING",
    Word.REPAIR: "RECOVERING",
    Word.STOPPED: "INACTIVE",
    Word.FAILED: "FAILED",
}


def availability(
    answers: Sequence[cluster_pb2.AvailabilityResponse],
    missing: Mapping[str, str] | None = None,
    replicas: Mapping[int, Sequence[str]] | None = None,
    window: tuple[int | None, int | None] = (None, None),
    clients: tuple[SuccessRate, ...] = (),
) -> Availability:
    """What the records of the nodes that answered say together, within a window.

    `missing`: nodes that did not answer, with the reason. `replicas`: the nodes of each shard, where known; without most of
    them a shard is down, too. `window` in Unix milliseconds, None: from the first record, and up to the last answer. Raises
    ValueError without any answer.
    """
    if not answers:
        raise ValueError("no node's record: nothing is known")
    missing = dict(missing or {})
    records = [observers.read(answer) for answer in sorted(answers, key=lambda answer: answer.node)]
    names = sorted({*missing, *(answer.node for answer in answers), *_mentioned(answers), *_placed(replicas or {})})
    end_ms = max(record.lives[-1].to_ms for record in records)
    node_histories = nodes.histories(records, names, end_ms)
    shard_histories = shards.histories(answers, node_histories, replicas or {}, end_ms)
    within = _window(window, node_histories.values(), shard_histories, end_ms)
    answered = {record.name for record in records}
    shard_availability = tuple(_shard(history, within, end_ms) for history in shard_histories)
    times = [answer.at_ms for answer in answers]
    return Availability(
        window=within,
        observers=tuple(sorted(answered)),
        missing=missing,
        clock_spread_ms=max(times) - min(times),
        nodes=tuple(_node(node_histories[name], within, end_ms, name in answered) for name in names),
        shards=shard_availability,
        system=_system(shard_availability),
        outcomes=outcomes.of_nodes(answers),
        clients=clients,
    )


def _mentioned(answers: Iterable[cluster_pb2.AvailabilityResponse]) -> Iterable[str]:
    return (event.node for answer in answers for event in answer.events)


def _placed(replicas: Mapping[int, Sequence[str]]) -> Iterable[str]:
    return (name for names in replicas.values() for name in names)


def _window(
    wanted: tuple[int | None, int | None],
    node_histories: Iterable[nodes.NodeHistory],
    shard_histories: Iterable[shards.ShardHistory],
    end_ms: int,
) -> Span:
    begins = [history.stretches[0].span.from_ms for history in node_histories if history.stretches]
    begins += [history.observed[0].from_ms for history in shard_histories if history.observed]
    from_ms, to_ms = wanted
    to_ms = end_ms if to_ms is None else min(to_ms, end_ms)
    return Span(min(min(begins, default=end_ms) if from_ms is None else from_ms, to_ms), to_ms)


def _cut(outage: Outage, window: Span, end_ms: int) -> Outage | None:
    """What of an outage is within the window; one without length is within it or not."""
    span = outage.span
    if span.ms and (span.to_ms <= window.from_ms or span.from_ms >= window.to_ms):
        return None
    if not window.from_ms <= span.from_ms <= window.to_ms and not span.ms:
        return None
    return replace(
        outage,
        span=Span(max(span.from_ms, window.from_ms), min(span.to_ms, window.to_ms)),
        began_before=span.from_ms < window.from_ms,
        ongoing=span.ms > 0 and (span.to_ms > window.to_ms or span.to_ms >= end_ms),
    )


def _within(outages: Iterable[Outage], window: Span, end_ms: int) -> tuple[Outage, ...]:
    return tuple(cut for outage in outages if (cut := _cut(outage, window, end_ms)) is not None)


def _node(history: nodes.NodeHistory, window: Span, end_ms: int, answers: bool) -> NodeAvailability:
    known = clipped(history.times(*(word for word in Word if word is not Word.NONE)), window)
    outages = _within(_node_outages(history), window, end_ms)
    at_end = [stretch.word for stretch in history.stretches if stretch.span.from_ms < window.to_ms <= stretch.span.to_ms]
    last = at_end[0] if at_end else history.last if window.to_ms == end_ms else Word.NONE
    return NodeAvailability(
        name=history.name,
        state=STATES[last],
        figures=figures(known, outages),
        outages=outages,
        observed=known,
        recovering=clipped(history.times(Word.DEGRADED), window),
        starts=tuple(at_ms for at_ms in history.starts if window.from_ms <= at_ms < window.to_ms),
        answers=answers,
    )


def _node_outages(history: nodes.NodeHistory) -> list[Outage]:
    """Each run of stretches in which it was down, and each start that only its incarnation tells of."""
    found = [Outage(Span(at_ms, at_ms), why=f"{observers.RESTARTED}, unnoticed") for at_ms in history.restarts]
    running: Outage | None = None
    for stretch in history.stretches:
        if not stretch.word.down:
            running = None
            continue
        if running is not None:
            found.remove(running)
            running = replace(running, span=Span(running.span.from_ms, stretch.span.to_ms))
        else:
            running = Outage(stretch.span, stretch.word is Word.STOPPED, stretch.why)
        found.append(running)
    return sorted(found, key=lambda outage: outage.span)


def _shard(history: shards.ShardHistory, window: Span, end_ms: int) -> ShardAvailability:
    observed = clipped(history.observed, window)
    outages = _within(history.outages, window, end_ms)
    led = tuple((name, span) for name, whole in history.led for span in clipped([whole], window))
    leads = led[-1][0] if led and led[-1][1].to_ms == window.to_ms else ""
    elections = tuple(election for election in history.elections if window.from_ms <= election.at_ms <= window.to_ms)
    return ShardAvailability(history.shard, leads, figures(observed, outages), outages, observed, elections, led)


def _system(found: Sequence[ShardAvailability]) -> SystemAvailability:
    """Down while any shard is. Observed while all are of which anything is known."""
    known = [shard for shard in found if shard.observed]
    observed = shared_by([shard.observed for shard in known], len(known)) if known else ()
    outages = []
    down = united(outage.span for shard in known for outage in shard.outages)
    for span in (part for whole in observed for part in clipped(down, whole)):
        parts = [
            (shard.shard, outage)
            for shard in known
            for outage in shard.outages
            if outage.span.from_ms < span.to_ms and outage.span.to_ms > span.from_ms
        ]
        why = min(parts, key=lambda part: (part[1].planned, part[1].span.from_ms))[1].why
        outages.append(
            Outage(
                span,
                all(outage.planned for _, outage in parts),
                f"{_shards_text(sorted({shard for shard, _ in parts}))}: {why}",
                any(outage.began_before for _, outage in parts if outage.span.from_ms <= span.from_ms),
                any(outage.ongoing for _, outage in parts if outage.span.to_ms >= span.to_ms),
            )
        )
    return SystemAvailability(figures(observed, outages), tuple(outages), observed)


def _shards_text(numbers: Sequence[int]) -> str:
    return f"shard {numbers[0]}" if len(numbers) == 1 else f"shards {', '.join(map(str, numbers))}"
