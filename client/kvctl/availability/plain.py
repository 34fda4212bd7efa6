"""Availability as JSON values, for programs: every moment as Unix milliseconds and as text, every share from 0 to 1."""

from __future__ import annotations

from typing import Any

from kvctl.availability.model import Availability, Election, Figures, Outage, SuccessRate
from kvctl.availability.spans import Span, Spans
from kvctl.output import time_text


def as_json(found: Availability) -> dict[str, Any]:
    """All of it."""
    return {
        "window": _span(found.window),
        "observers": list(found.observers),
        "missing": dict(found.missing),
        "clock_spread_ms": found.clock_spread_ms,
        "system": _figures(found.system.figures) | {"outages": _outages(found.system.outages)},
        "nodes": [
            {"name": node.name, "state": node.state, "answers": node.answers}
            | _figures(node.figures)
            | {"outages": _outages(node.outages), "observed": _spans(node.observed), "recovering": _spans(node.recovering)}
            | {"starts": [_moment(at_ms) for at_ms in node.starts]}
            for node in found.nodes
        ],
        "shards": [
            {"shard": shard.shard, "leader": shard.leader or None}
            | _figures(shard.figures)
            | {"outages": _outages(shard.outages), "observed": _spans(shard.observed)}
            | {"elections": [_election(election) for election in shard.elections]}
            | {"led": [{"leader": leader} | _span(span) for leader, span in shard.led]}
            for shard in found.shards
        ],
        "requests": [_rate(rate) for rate in found.outcomes],
        "clients": [_rate(rate) for rate in found.clients],
    }


def _moment(at_ms: int) -> dict[str, Any]:
    return {"time": time_text(at_ms), "at_ms": at_ms}


def _span(span: Span) -> dict[str, Any]:
    return {
        "from": time_text(span.from_ms),
        "to": time_text(span.to_ms),
        "from_ms": span.from_ms,
        "to_ms": span.to_ms,
        "duration_ms": span.ms,
    }


def _spans(spans: Spans) -> list[dict[str, Any]]:
    return [_span(span) for span in spans]


def _outages(outages: tuple[Outage, ...]) -> list[dict[str, Any]]:
    return [_outage(outage) for outage in outages]


def _outage(outage: Outage) -> dict[str, Any]:
    return _span(outage.span) | {
        "planned": outage.planned,
        "began_before": outage.began_before,
        "ongoing": outage.ongoing,
        "why": outage.why,
    }


def _figures(figures: Figures) -> dict[str, Any]:
    return {
        "uptime_share": figures.uptime_share,
        "up_ms": figures.up_ms,
        "down_ms": figures.down_ms,
        "failed_ms": figures.failed_ms,
        "planned_ms": figures.planned_ms,
        "failures": figures.failures,
        "stops": figures.stops,
        "mttf_ms": figures.mttf_ms,
        "mttr_ms": figures.mttr_ms,
        "longest_ms": figures.longest.span.ms if figures.longest else None,
    }


def _election(election: Election) -> dict[str, Any]:
    return _moment(election.at_ms) | {
        "term": election.term,
        "leader": election.leader,
        "previous": election.previous or None,
        "leaderless_ms": election.leaderless_ms,
        "cause": election.cause,
    }


def _rate(rate: SuccessRate) -> dict[str, Any]:
    return {
        "operation": rate.operation,
        "consistency": rate.consistency,
        "answered": rate.answered,
        "unanswered": rate.unanswered,
        "share": rate.share,
        "outcomes": dict(rate.counts),
    }
