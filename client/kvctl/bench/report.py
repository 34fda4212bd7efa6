"""How a run's results look: a table and a few sentences for people, JSON for programs.

Owns what is said about them, and when. A sentence is only said where it changes what the figures mean.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from kvctl.bench.latency import Latency
from kvctl.bench.plan import Plan
from kvctl.bench.results import OUTCOME_UNKNOWN, KindResult, Recorder
from kvctl.bench.samples import microseconds
from kvctl.bench.words import count_text, data_text, ms_text, percent_text, plan_text, rate_text, round_rate, span_text
from kvctl.failures import CODES_BY_REASON, ExitCode
from kvctl.output import duration_text, print_json, print_table, time_text

KEPT_UP_SHARE = 0.97
"""Of the intended rate; Poisson's chance alone makes a little less of it."""
WAITED_SHARE = 1.25
"""From the intended start the 99th percentile is so many times that from the actual start: waiting is worth a sentence."""
CPU_SHARE_HIGH = 0.85
"""Of a core; beyond, a generator measures itself."""
LATE_MS_MAX = 2.0
FIGURES = ("average", "min", "p50", "p95", "p99", "p99_9", "max")
HEADERS = ("operation", "count", "ops/s", *(figure.replace("_", ".") for figure in FIGURES), "errors", "unknown")


class Report:
    """A run's results."""

    def __init__(self, plan: Plan, recorder: Recorder, *, interrupted: bool) -> None:
        self.plan, self.recorder, self.interrupted = plan, recorder, interrupted
        self.total, self.seconds = recorder.total(), recorder.measured_s

    @property
    def exit_code(self) -> ExitCode:
        """Interrupted; or, where no operation succeeded, what most of them failed with."""
        if self.interrupted:
            return ExitCode.INTERRUPTED
        if self.total.ended and self.total.errors.total() == self.total.ended:
            return CODES_BY_REASON.get(self.total.errors.most_common(1)[0][0], ExitCode.INTERNAL)
        return ExitCode.OK

    def print(self, as_json: bool) -> None:
        """On standard output."""
        if as_json:
            print_json(self.json())
        else:
            self._print_text()

    # For people.

    def _print_text(self) -> None:
        start = "it was due" if self.plan.rate is not None else "it began"
        print(plan_text(self.plan))
        print(data_text(self.plan))
        print()
        print_table(HEADERS, self._rows(), right=" ".join(HEADERS[1:]))
        print()
        print(f"Latencies are in ms, from the moment when {start}; those of operations that failed count too.")
        for sentence in self.sentences():
            print(sentence)

    def _rows(self) -> list[list[str]]:
        kinds = self.recorder.kinds
        rows = [self._row(kind, result) for kind, result in kinds.items()]
        return [*rows, self._row("all", self.total)] if len(kinds) > 1 else rows

    def _row(self, name: str, result: KindResult) -> list[str]:
        found = result.latency.summary()
        figures = ["–"] * len(FIGURES) if found is None else [ms_text(getattr(found, figure)) for figure in FIGURES]
        return [
            name,
            f"{result.ended:,}",
            rate_text(result.succeeded_in_time / self.seconds if self.seconds else 0.0),
            *figures,
            f"{result.failed:,}",
            f"{result.unknown:,}",
        ]

    def sentences(self) -> list[str]:
        """What one should know about the figures."""
        said = []
        if self.interrupted:
            when = f"after {duration_text(self.seconds)}" if self.total.ended else "before anything was measured"
            said.append(f"Ctrl-C ended it {when}.")
        said += [*self._pace(), *self._errors(), *self._generator()]
        return said

    def _pace(self) -> list[str]:
        plan, total = self.plan, self.total
        taken = self.total.succeeded_in_time / self.seconds if self.seconds else 0.0
        if plan.rate is None:
            if taken < 1 or self.interrupted:
                return []
            return [
                f"A closed loop says what the cluster can take: {rate_text(taken)} operations/s from "
                f"{count_text(plan.concurrency, 'caller')}. For latencies choose a load below that: "
                f"--rate {round_rate(taken / 2)}"
            ]
        said = []
        waited, served = total.latency.summary(), total.service.summary()
        kept_up = taken >= KEPT_UP_SHARE * plan.rate and not total.left_over
        if not kept_up:
            said.append(
                f"The cluster took {rate_text(taken)} of {rate_text(plan.rate)} operations/s; latencies include the time that "
                "operations waited for their turn."
            )
        if total.left_over:
            said.append(
                f"{count_text(total.left_over, 'operation')} could not be started before the end: they are in the percentiles "
                "with what they had waited by then, and not in the counts."
            )
        if waited is not None and served is not None and (not kept_up or waited.p99 > WAITED_SHARE * served.p99):
            said.append(
                f"Once begun, operations took {span_text(served.p50)} (p50) and {span_text(served.p99)} (p99); "
                f"at most {plan.concurrency:,} were under way at once."
            )
        return said

    def _errors(self) -> list[str]:
        said = []
        reasons = [f"{count:,} {reason}" for reason, count in self.total.errors.most_common() if reason != OUTCOME_UNKNOWN]
        if reasons:
            said.append(f"Errors: {', '.join(reasons)}.")
        if self.total.unknown:
            said.append(f"{count_text(self.total.unknown, 'write')} may have taken effect or not (OUTCOME_UNKNOWN).")
        if self.total.absent:
            why = "deleted by this run, or by others" if self.plan.load else "were they loaded? --load writes them first"
            said.append(f"{count_text(self.total.absent, 'read')} found no key: {why}.")
        return said

    def _generator(self) -> list[str]:
        busiest = max((finished.cpu_share for finished in self.recorder.finished), default=0.0)
        if busiest > CPU_SHARE_HIGH:
            return [
                f"The load generator itself was busy ({percent_text(busiest)} of a core in one process): its own time is in "
                f"these figures. Use more processes: --processes {self.plan.processes * 2}"
            ]
        late = self._wakes_late().summary()
        if late is not None and late.p99 > LATE_MS_MAX:
            return [
                f"This machine was busy: the load generator woke up {span_text(late.p99)} late (p99), which is in these "
                "figures."
            ]
        return []

    def _wakes_late(self) -> Latency:
        late = Latency()
        for finished in self.recorder.finished:
            late.record(microseconds(finished.wakes_late_us))
        return late

    # For programs.

    def json(self) -> dict[str, Any]:
        """Everything; milliseconds and seconds."""
        plan, total, recorder = self.plan, self.total, self.recorder
        found = {
            "workload": workload_json(plan),
            "began": time_text(round(recorder.began_unix_s * 1e3)),
            "measured_s": round(self.seconds, 3),
            "interrupted": self.interrupted,
            "latency_from": "actual start" if plan.rate is None else "intended start",
            "intended_per_second": plan.rate,
            "total": self._kind_json(total),
            "operations": {kind: self._kind_json(result) for kind, result in recorder.kinds.items()},
            "generator": {
                "cpu_shares": [round(finished.cpu_share, 3) for finished in recorder.finished],
                "woke_late_ms": _latency_json(self._wakes_late()),
            },
            "remarks": self.sentences(),
        }
        if recorder.timeline is not None:
            found["timeline"] = [
                {
                    "at_s": round(moment.at_s, 3),
                    "per_second": round(moment.per_second, 1),
                    "errors": moment.errors,
                    "latency_ms": None if moment.latency is None else _rounded(moment.latency._asdict()),
                }
                for moment in recorder.timeline
            ]
        return found

    def _kind_json(self, result: KindResult) -> dict[str, Any]:
        errors = {reason: count for reason, count in result.errors.most_common() if reason != OUTCOME_UNKNOWN}
        return {
            "count": result.ended,
            "per_second": round(result.succeeded_in_time / self.seconds, 1) if self.seconds else 0.0,
            "not_started": result.left_over,
            "latency_ms": _latency_json(result.latency),
            "service_ms": _latency_json(result.service if self.plan.rate is not None else result.latency),
            "errors": errors,
            "outcome_unknown": result.unknown,
            "absent": result.absent,
        }


def workload_json(plan: Plan) -> dict[str, Any]:
    """A plan for programs."""
    plain = asdict(plan)
    plain["prefix"] = plan.prefix.decode("utf-8", "backslashreplace")
    plain["duration_s"] = None if plan.operations is not None else plan.duration_s
    return plain


def _latency_json(latency: Latency) -> dict[str, float] | None:
    found = latency.summary()
    return None if found is None else _rounded(found._asdict())


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures.items()}
