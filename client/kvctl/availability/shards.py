"""Which shards had no leader when: from the leaderships on record, and from when the nodes that led were there.

Owns the rule: a shard is available while a node leads it that could serve and is not dead, and a majority of its replicas is
not dead. A leadership lasts from the first entry committed in its term to the last word that the next leader heard of it, or to
its own process's end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvapi.v1 import cluster_pb2
from kvctl.availability.model import Election, Outage
from kvctl.availability.nodes import MARGIN_MS, NodeHistory
from kvctl.availability.observers import Word
from kvctl.availability.spans import Span, Spans, shared_by, united, without

PREFIX = "LEADERSHIP_CAUSE_"
UNKNOWN = "UNSPECIFIED"


@dataclass(frozen=True, slots=True)
class ShardHistory:
    """How a shard was, from its first known leadership on."""

    shard: int
    observed: Spans
    led: tuple[tuple[str, Span], ...]
    elections: tuple[Election, ...]
    outages: tuple[Outage, ...]


def histories(
    answers: Sequence[cluster_pb2.AvailabilityResponse],
    nodes: Mapping[str, NodeHistory],
    replicas: Mapping[int, Sequence[str]],
    end_ms: int,
) -> tuple[ShardHistory, ...]:
    """Of every shard that somebody knows of; `replicas` of those whose placement is known."""
    by_shard: dict[int, dict[int, list[tuple[bool, bool, int, Election]]]] = {shard: {} for shard in sorted(replicas)}
    for answer in answers:
        for event in answer.leaderships:
            election = _election(event)
            # The leader's own record is best; then that of a follower which knew who led before; then the earliest.
            told = (event.leader != answer.node, election.cause == UNKNOWN, event.at_ms, election)
            by_shard.setdefault(event.shard, {}).setdefault(event.term, []).append(told)
    return tuple(
        _history(
            shard,
            [min(terms[term])[-1] for term in sorted(terms)],
            nodes,
            replicas.get(shard, ()),
            _leaderless_since(answers, shard, replicas.get(shard, ()), end_ms),
            end_ms,
        )
        for shard, terms in sorted(by_shard.items())
    )


def _election(event: cluster_pb2.LeadershipEvent) -> Election:
    cause = cluster_pb2.LeadershipCause.Name(event.cause).removeprefix(PREFIX)
    return Election(event.shard, event.term, event.leader, event.previous, event.at_ms, event.leaderless_ms, cause)


def _no_majority(replicas: Sequence[str], nodes: Mapping[str, NodeHistory]) -> Spans:
    """When at least half of the replicas were not there."""
    dead = [nodes[name].dead for name in replicas if name in nodes]
    return shared_by(dead, (len(replicas) + 1) // 2) if replicas else ()


def _leaderless_since(
    answers: Sequence[cluster_pb2.AvailabilityResponse], shard: int, replicas: Sequence[str], end_ms: int
) -> int | None:
    """Since when there is no leader now: if not one of the replicas that answered knows of any."""
    asked = [answer for answer in answers if not replicas or answer.node in replicas]
    waiting = {answer.node: waits.since_ms for answer in asked for waits in answer.without_leader if waits.shard == shard}
    if not waiting or (replicas and len(waiting) < len(asked)):
        return None
    return end_ms - min(waiting.values())


def _history(
    shard: int,
    elections: Sequence[Election],
    nodes: Mapping[str, NodeHistory],
    replicas: Sequence[str],
    leaderless_since: int | None,
    end_ms: int,
) -> ShardHistory:
    if not elections:
        return ShardHistory(shard, (), (), (), ())
    led: list[tuple[str, Span]] = []
    no_majority = _no_majority(replicas, nodes)
    for number, election in enumerate(elections):
        following = elections[number + 1] if number + 1 < len(elections) else None
        if following is not None:
            until = following.at_ms - following.leaderless_ms
        else:
            until = end_ms if leaderless_since is None else leaderless_since
        until = _end_of_process(nodes.get(election.leader), election.at_ms, until)
        dead = nodes[election.leader].dead if election.leader in nodes else ()
        for span in without(united([Span(election.at_ms, until)]), united([*dead, *no_majority])):
            led.append((election.leader, span))
    observed = united([Span(elections[0].at_ms, end_ms)])
    gaps = without(observed, united(span for _, span in led))
    outages = tuple(_outage(gap, elections, replicas, nodes) for gap in gaps)
    return ShardHistory(shard, observed, tuple(led), tuple(elections), outages)


def _end_of_process(leader: NodeHistory | None, from_ms: int, to_ms: int) -> int:
    """Where a leadership ends because its node started anew: who restarts leads nothing."""
    if leader is None:
        return to_ms
    start = next((at_ms for at_ms in leader.starts if from_ms < at_ms <= to_ms), None)
    if start is None:
        return to_ms
    ended = [s.span.from_ms for s in leader.stretches if s.word.dead and from_ms < s.span.to_ms <= start + MARGIN_MS]
    return max(from_ms, min([*ended, start]))


def _outage(gap: Span, elections: Sequence[Election], replicas: Sequence[str], nodes: Mapping[str, NodeHistory]) -> Outage:
    """Why it was without a leader: what the next leader says; where the old one came back, how that was."""
    before = max((election for election in elections if election.at_ms <= gap.from_ms), key=lambda election: election.term)
    after = next((election for election in elections if gap.from_ms < election.at_ms <= gap.to_ms), None)
    missed = [nodes[name].word_at(gap.from_ms) for name in sorted({before.leader, *replicas}) if name in nodes]
    stopped = any(word.dead for word in missed) and Word.FAILED not in missed
    if after is None:
        return Outage(gap, stopped, f"{before.leader} was not there")
    planned = after.cause == "TRANSFER" or (after.cause in ("START", UNKNOWN) and stopped)
    return Outage(gap, planned, _words(after, before.leader))


def _words(election: Election, previous: str) -> str:
    previous = election.previous or previous
    return {
        "START": f"{election.leader} leads after a start",
        "NODE_FAILED": f"{previous} was FAILED, {election.leader} leads",
        "TIMEOUT": f"{previous} was not heard, {election.leader} leads",
        "TRANSFER": f"{previous} handed over to {election.leader}",
    }.get(election.cause, f"{election.leader} leads")
