"""How a run's results look: a table and a few sentences for people, JSON for programs.

Owns what is said about them, and when. A sentence is only said where it changes what the figures mean.
"""

from __future__ import annotations

import shutil
import statistics
import textwrap
from dataclasses import asdict
from typing import Any

from kvctl.bench.latency import Latency
from kvctl.bench.plan import Plan
from kvctl.bench.results import OUTCOME_UNKNOWN, KindResult, Recorder
from kvctl.bench.samples import CUT_SHORT, microseconds
from kvctl.bench.words import (
    count_text,
    data_text,
    given_text,
    ms_text,
    percent_text,
    plan_text,
    rate_text,
    round_rate,
    seconds_text,
    span_text,
    sparkline,
)
from kvctl.failures import CODES_BY_REASON, ExitCode
from kvctl.output import print_json, print_table, time_text

KEPT_UP_SHARE = 0.95
"""Of the intended rate, or of what was due; the others had not ended when the time was over."""
WAITED_SHARE = 1.25
"""From the intended start the 99th percentile is so many times that from the actual start: waiting is worth a sentence."""
CPU_SHARE_HIGH = 0.85
"""Of a core; beyond, a generator measures itself."""
LATE_MS_MAX = 2.0
INTERVALS_MIN = 4
UNEVEN_FACTOR = 3.0
"""The worst interval's 99th percentile is so many times the median one."""
WIDTH_MAX = 100
"""Of sentences."""
MEANINGS = {
    "COMPARE_FAILED": "another writer was faster",
    "CONFLICT": "lost against another transaction",
    CUT_SHORT: "under way at Ctrl-C",
}
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

    def print(self, as_json: bool, *, timeline: bool = False) -> None:
        """On standard output; the time line only as JSON."""
        if as_json:
            print_json(self.json(timeline=timeline))
        else:
            self._print_text()

    # For people.

    def _print_text(self) -> None:
        print(plan_text(self.plan))
        print(data_text(self.plan))
        print()
        if self.total.latency.count:
            headers = HEADERS if self.total.unknown else HEADERS[:-1]
            rows = [row[: len(headers)] for row in self._rows()]
            print_table(headers, rows, right=" ".join(headers[1:]))
            print()
            start = "was due" if self.plan.rate is not None else "began"
            print(f"Latencies in ms, from the moment when an operation {start}; those of failed operations count, too.")
        width = min(WIDTH_MAX, shutil.get_terminal_size((WIDTH_MAX, 0)).columns)
        for sentence in self.sentences():
            print(textwrap.fill(sentence, width, break_long_words=False, break_on_hyphens=False))

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
            when = f"after {seconds_text(self.seconds)}" if self.total.ended else "before anything was measured"
            said.append(f"Ctrl-C ended it {when}.")
        said += [*self._pace(), *self._unevenness(), *self._errors(), *self._generator()]
        return said

    def _pace(self) -> list[str]:
        plan, total = self.plan, self.total
        taken = total.succeeded_in_time / self.seconds if self.seconds else 0.0
        if plan.rate is not None:
            return self._open_pace(plan.rate, taken)
        if taken < 1 or self.interrupted:
            return []
        return [
            f"{count_text(plan.concurrency, 'caller')} got {rate_text(taken)} operations/s done. Such a closed loop slows down "
            f"with the cluster; for latencies under a load of your choice: --rate {round_rate(taken / 2)}"
        ]

    def _open_pace(self, rate: float, taken: float) -> list[str]:
        total, said = self.total, []
        keeps_up = not total.left_over and (taken >= KEPT_UP_SHARE * rate or total.ended_in_time >= KEPT_UP_SHARE * total.ended)
        if not keeps_up:
            said.append(
                f"The cluster took {rate_text(taken)} of {given_text(rate)} operations/s; latencies include the time that "
                "operations waited for their turn."
            )
        if total.left_over:
            said.append(
                f"{count_text(total.left_over, 'operation')} could not be started before the end: they are in the percentiles "
                "with what they had waited by then, and not in the counts."
            )
        waited, served = total.latency.summary(), total.service.summary()
        if waited is not None and served is not None and (total.left_over or waited.p99 > WAITED_SHARE * served.p99):
            said.append(
                f"Once begun, operations took {span_text(served.p50)} (p50) and {span_text(served.p99)} (p99); the rest is "
                f"waiting for a turn, as at most {self.plan.concurrency:,} may be under way (--concurrency)."
            )
        return said

    def _unevenness(self) -> list[str]:
        """Where a run has had a bad moment: when, and how bad."""
        p99s = [0.0 if moment.latency is None else moment.latency.p99 for moment in self.recorder.timeline]
        seen = [p99 for p99 in p99s if p99]
        if len(seen) < INTERVALS_MIN or max(seen) < UNEVEN_FACTOR * statistics.median(seen):
            return []
        at_s = self.recorder.timeline[p99s.index(max(p99s))].at_s
        when = f"after {seconds_text(at_s)}" if at_s else "at the beginning"
        return [f"p99 over the run {sparkline(p99s)} : {span_text(max(p99s))} at worst, {when}."]

    def _errors(self) -> list[str]:
        total, said = self.total, []
        reasons = [
            f"{count:,} {reason}" + (f" ({MEANINGS[reason]})" if reason in MEANINGS else "")
            for reason, count in total.errors.most_common()
            if reason != OUTCOME_UNKNOWN
        ]
        if reasons:
            said.append(f"Errors: {', '.join(reasons)}.")
        if total.unknown:
            said.append(f"{count_text(total.unknown, 'write')} may have taken effect, or not (OUTCOME_UNKNOWN).")
        if total.absent:
            said.append(f"{count_text(total.absent, 'read')} found no key; {self._why_absent()}.")
        return said

    def _why_absent(self) -> str:
        if "delete" in self.plan.mix:
            return "the mix deletes some"
        return "somebody else deletes them" if self.plan.load else "without --no-load they are written first"

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

    def json(self, *, timeline: bool = False) -> dict[str, Any]:
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
        if timeline:
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
