"""Statistics: merging, intervals, the HdrHistogram log, and what is said about the figures."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from kvctl.bench.hdr_log import HdrLog
from kvctl.bench.latency import NS_MAX, NS_MIN, Latency
from kvctl.bench.report import Report
from kvctl.bench.results import Recorder
from kvctl.bench.samples import LATENCY_CODE, Finished, KindSample, Sample
from kvctl.bench.words import ms_text, rate_text, round_rate, seconds_text, span_text, sparkline
from kvctl.failures import ExitCode
from tests.unit.kvctl.bench.plans import plan


def us(milliseconds: Sequence[float]) -> bytes:
    """Latencies as a process sends them."""
    return array(LATENCY_CODE, [round(value * 1e3) for value in milliseconds]).tobytes()


def noted(
    milliseconds: Sequence[float], services: Sequence[float] = (), errors: dict[str, int] | None = None, absent: int = 0
) -> KindSample:
    """What a process noted of one kind."""
    return KindSample(us(milliseconds), us(services), errors or {}, absent)


def finished(
    ended_s: float, left_over: dict[str, bytes] | None = None, cpu: float = 0.1, late: Sequence[float] = ()
) -> Finished:
    """A process's last word."""
    return Finished(ended_s, left_over or {}, cpu, us(late))


def report(recorder: Recorder, *, interrupted: bool = False) -> Report:
    """What is said about it."""
    return Report(recorder.plan, recorder, interrupted=interrupted)


def test_latencies_are_exact_at_their_ends_and_right_to_three_digits_between() -> None:
    """A thousand latencies from 1 to 1,000 ms; merging two halves gives the same."""
    halves = [Latency(), Latency()]
    for value_ms in range(1, 1_001):
        halves[value_ms % 2].record(array(LATENCY_CODE, [value_ms * 1_000]))
    whole = Latency()
    for half in halves:
        whole.add(half)
    found = whole.summary()
    assert found is not None
    assert (found.min, found.max, found.average) == (1.0, 1_000.0, 500.5)
    assert [found.p50, found.p95, found.p99, found.p99_9] == pytest.approx([500, 950, 990, 999], rel=2e-3)
    assert whole.count == 1_000


def test_latency_of_nothing_has_no_figures() -> None:
    """Rather than zeros."""
    empty, other = Latency(), Latency()
    empty.add(other)
    empty.record(array(LATENCY_CODE))
    assert empty.summary() is None


def test_latency_beyond_a_day_counts_as_a_day_in_the_histogram() -> None:
    """It is not lost; its maximum is what it was."""
    latency = Latency()
    latency.record(array(LATENCY_CODE, [2 * 24 * 3_600 * 10**6]))
    assert latency.histogram.get_total_count() == 1
    found = latency.summary()
    assert found is not None
    assert found.max == pytest.approx(2 * 24 * 3_600e3)


def test_recorder_of_two_processes_merges_and_counts_what_ended_in_time() -> None:
    """The rate is of the successes within the measured time; all operations are in the counts and percentiles."""
    recorder = Recorder(plan(processes=2, duration_s=2.0, operations=None))
    recorder.on_message(0, Sample(0, True, {"read": noted([1, 2, 3]), "write": noted([10], errors={"OVERLOADED": 1})}))
    recorder.on_message(1, Sample(0, True, {"read": noted([4], absent=1)}))
    recorder.on_message(0, Sample(2, False, {"read": noted([5])}))
    for process in (0, 1):
        recorder.on_message(process, finished(2.5))
    total = recorder.total()
    assert (total.ended, total.succeeded_in_time, total.failed, total.absent) == (6, 4, 1, 1)
    assert recorder.measured_s == 2.0
    summary = recorder.kinds["read"].latency.summary()
    assert summary is not None
    assert (summary.min, summary.max) == (1.0, 5.0)


def test_recorder_of_a_number_of_operations_measures_until_the_last() -> None:
    """There is no planned end."""
    recorder = Recorder(plan(processes=2, operations=4))
    recorder.on_message(0, finished(1.5))
    recorder.on_message(1, finished(2.5))
    assert recorder.measured_s == 2.5


def test_hdr_log_is_read_back_by_tag_and_interval(tmp_path: Path) -> None:
    """hdrhistogram's reader finds every interval, its time and its latencies; late operations are in the last one."""
    path = tmp_path / "bench.hlog"
    hdr_log = HdrLog(path, "a title")
    recorder = Recorder(plan(processes=2, duration_s=2.5, operations=None), hdr_log)
    recorder.begin(1_700_000_000.25)
    recorder.on_message(0, Sample(0, True, {"read": noted([1, 2]), "write": noted([7])}))
    recorder.on_message(0, Sample(1, True, {"read": noted([3])}))
    assert "Tag=" not in path.read_text()  # the other process may still add to the first interval
    recorder.on_message(1, Sample(1, True, {"read": noted([4])}))
    recorder.on_message(1, Sample(2, True, {}))
    assert path.read_text().count("Tag=") == 2
    recorder.on_message(0, Sample(3, False, {"write": noted([900])}))
    for process in (0, 1):
        recorder.on_message(process, finished(3.4, {"read": us([40])} if process else None))
    hdr_log.close()

    reader = HistogramLogReader(str(path), HdrHistogram(NS_MIN, NS_MAX, 3))
    found = []
    while (histogram := reader.get_next_interval_histogram()) is not None:
        begin_s = histogram.get_start_time_stamp() / 1e3 - reader.get_start_time_sec()
        length_s = (histogram.get_end_time_stamp() - histogram.get_start_time_stamp()) / 1e3
        worst = histogram.get_value_at_percentile(100) / 1e6
        found.append((histogram.get_tag(), round(begin_s, 3), round(length_s, 3), histogram.get_total_count(), worst))
    reader.close()
    assert reader.get_start_time_sec() == 1_700_000_000.25
    assert [line[:4] for line in found] == [
        ("read", 0.0, 1.0, 2),
        ("write", 0.0, 1.0, 1),
        ("read", 1.0, 1.0, 2),
        ("write", 2.0, 0.5, 1),
        ("read", 2.0, 0.5, 1),
    ]
    assert [line[4] for line in found] == pytest.approx([2, 7, 4, 900, 40], rel=2e-3)
    first = next(line for line in path.read_text().splitlines() if line.startswith("Tag="))
    assert first.startswith("Tag=read,0.000,1.000,2.0")  # the maximum in milliseconds


def test_timeline_has_an_interval_a_line_with_its_own_rate() -> None:
    """The last one may be shorter."""
    recorder = Recorder(plan(duration_s=1.5, operations=None))
    recorder.on_message(0, Sample(0, True, {"read": noted([1] * 10, errors={"NO_LEADER": 2})}))
    recorder.on_message(0, Sample(1, True, {"read": noted([2] * 10)}))
    recorder.on_message(0, finished(1.5))
    lines = [(moment.at_s, moment.per_second, moment.errors) for moment in recorder.timeline]
    assert lines == [(0.0, 8.0, 2), (1.0, 20.0, 0)]
    shown = report(recorder).json(timeline=True)["timeline"]
    assert [line["latency_ms"]["p50"] for line in shown] == pytest.approx([1.0, 2.0], rel=1e-3)


def overloaded() -> Recorder:
    """An open loop at a cluster that takes four fifths of it."""
    recorder = Recorder(plan(rate=5_000.0, concurrency=1_024, duration_s=10.0, operations=None, mix={"read": 1.0}))
    recorder.on_message(0, Sample(0, True, {"read": noted([500] * 39_120, [200] * 39_120)}))
    recorder.on_message(0, finished(10.2, {"read": us([900] * 10_880)}))
    return recorder


def test_report_of_an_overloaded_open_loop_says_what_was_taken() -> None:
    """In words: how much of the load, that waiting counts, what was left over, and how long operations took once begun."""
    said = " ".join(report(overloaded()).sentences())
    assert "The cluster took 3,912 of 5,000 operations/s; latencies include the time that operations waited" in said
    assert "10,880 operations could not be started before the end" in said
    assert "Once begun, operations took 200 ms (p50) and 200 ms (p99)" in said
    assert "1,024 may be under way" in said


def test_report_of_an_open_loop_that_keeps_up_says_nothing() -> None:
    """Whoever reads a table of good figures is left alone."""
    recorder = Recorder(plan(rate=500.0, duration_s=10.0, operations=None))
    recorder.on_message(0, Sample(0, True, {"read": noted([1.1] * 4_990, [1.0] * 4_990)}))
    recorder.on_message(0, Sample(9, False, {"read": noted([1.1] * 10, [1.0] * 10)}))
    recorder.on_message(0, finished(10.0))
    assert report(recorder).sentences() == []


def test_report_of_a_short_open_loop_is_not_fooled_by_what_is_still_under_way() -> None:
    """By chance more was due than the rate, and a part of that had not ended: nobody was late."""
    recorder = Recorder(plan(rate=20.0, duration_s=1.0, operations=None))
    recorder.on_message(0, Sample(0, True, {"read": noted([200] * 23, [200] * 23)}))
    recorder.on_message(0, Sample(0, False, {"read": noted([200] * 5, [200] * 5)}))
    recorder.on_message(0, finished(1.2))
    assert report(recorder).sentences() == []


def test_report_of_a_run_with_a_bad_moment_says_when_and_how_bad() -> None:
    """A stall is found again in the course of the run; without one there is nothing to say."""
    for stall_ms, words in (
        (1_730.0, "p99 over the run ▁▁▁█▁▁ : 1.73 s at worst, after 3 s."),
        (6.0, ""),
    ):
        recorder = Recorder(plan(rate=10.0, duration_s=6.0, operations=None))
        for second in range(6):
            latencies = [stall_ms if second == 3 else 5.0] * 10
            recorder.on_message(0, Sample(second, True, {"read": noted(latencies, latencies)}))
        recorder.on_message(0, finished(6.0))
        assert "".join(report(recorder).sentences()) == words


def test_report_of_a_closed_loop_names_a_rate_to_try() -> None:
    """About half of what it got, in two digits."""
    recorder = Recorder(plan(concurrency=64, duration_s=10.0, operations=None))
    recorder.on_message(0, Sample(0, True, {"read": noted([1.0] * 26_030)}))
    recorder.on_message(0, finished(10.0))
    (said,) = report(recorder).sentences()
    assert said.startswith("64 callers got 2,603 operations/s done.")
    assert said.endswith("--rate 1300")


def test_report_keeps_unknown_outcomes_apart_and_explains_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """Errors by reason in words and in JSON."""
    recorder = Recorder(plan(operations=6, mix={"cas": 1.0}))
    errors = {"COMPARE_FAILED": 2, "OUTCOME_UNKNOWN": 1, "OVERLOADED": 1}
    recorder.on_message(0, Sample(0, True, {"cas": noted([1] * 6, errors=errors)}))
    recorder.on_message(0, finished(1.0))
    said = report(recorder).sentences()
    assert "Errors: 2 COMPARE_FAILED (another writer was faster), 1 OVERLOADED." in said
    assert "1 write may have taken effect, or not (OUTCOME_UNKNOWN)." in said
    shown = report(recorder).json()["operations"]["cas"]
    assert shown["errors"] == {"COMPARE_FAILED": 2, "OVERLOADED": 1}
    assert (shown["outcome_unknown"], shown["count"], shown["per_second"]) == (1, 6, 2.0)
    report(recorder).print(as_json=False)
    head, row = capsys.readouterr().out.splitlines()[3:5]
    assert (head.split()[-2:], row.split()[-2:]) == (["ERRORS", "UNKNOWN"], ["3", "1"])
    assert report(recorder).exit_code is ExitCode.OK


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"load": True}, "somebody else deletes them"),
        ({"load": False}, "without --no-load they are written first"),
        ({"load": False, "mix": {"read": 0.9, "delete": 0.1}}, "the mix deletes some"),
    ],
)
def test_report_of_reads_that_found_nothing_says_why(changes: dict[str, Any], words: str) -> None:
    """Reading nothing is quick, and no measurement."""
    recorder = Recorder(plan(**changes))
    recorder.on_message(0, Sample(0, True, {"read": noted([1, 1, 1], absent=2)}))
    recorder.on_message(0, finished(10.0))
    assert f"2 reads found no key; {words}." in report(recorder).sentences()


@pytest.mark.parametrize(
    ("cpu", "late", "words"), [(0.97, [9.0], "busy (97 % of a core"), (0.3, [9.0], "woke up 9.00 ms late")]
)
def test_report_of_a_busy_generator_warns(cpu: float, late: list[float], words: str) -> None:
    """Else it measures itself, and nobody notices."""
    recorder = Recorder(plan(rate=10.0, operations=1))
    recorder.on_message(0, Sample(0, True, {"read": noted([1], [1])}))
    recorder.on_message(0, finished(1.0, cpu=cpu, late=late))
    (said,) = report(recorder).sentences()
    assert words in said


def test_report_of_failures_alone_has_their_exit_code() -> None:
    """As other commands; an interrupted run has its own."""
    recorder = Recorder(plan(operations=3))
    recorder.on_message(0, Sample(0, True, {"read": noted([1, 1, 1], errors={"NO_LEADER": 2, "OVERLOADED": 1})}))
    recorder.on_message(0, finished(1.0))
    assert report(recorder).exit_code is ExitCode.UNAVAILABLE
    assert report(recorder, interrupted=True).exit_code is ExitCode.INTERRUPTED


def test_report_interrupted_before_anything_was_measured_has_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    """A table of dashes says nothing."""
    recorder = Recorder(plan(duration_s=10.0, operations=None))
    recorder.on_message(0, finished(0.0))
    report(recorder, interrupted=True).print(as_json=False)
    out = capsys.readouterr().out
    assert "Ctrl-C ended it before anything was measured." in out
    assert "P99" not in out


def test_report_as_a_table_has_a_row_for_each_kind_and_one_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the mix, with units once."""
    recorder = Recorder(plan(rate=2.0, duration_s=2.0, operations=None))
    recorder.on_message(0, Sample(0, True, {"read": noted([1.25, 1.25], [1.0, 1.0]), "write": noted([20.5, 1_500], [20, 20])}))
    recorder.on_message(0, finished(2.0))
    report(recorder).print(as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 s, an open loop of 2 operations/s (Poisson): 50 % read, 50 % write"
    assert lines[1] == "100 keys bench/… (uniform), values of 10 B to 20 B, strong reads, strong writes"
    assert " ".join(lines[3].split()) == "OPERATION COUNT OPS/S AVERAGE MIN P50 P95 P99 P99.9 MAX ERRORS"
    assert lines[4].split() == ["read", "2", "1.00", "1.25", "1.25", "1.25", "1.25", "1.25", "1.25", "1.25", "0"]
    assert lines[5].split()[:5] == ["write", "2", "1.00", "760", "20.5"]
    assert lines[6].split()[:5] == ["all", "4", "2.00", "381", "1.25"]
    assert "from the moment when an operation was due" in lines[8]


def test_report_as_json_holds_the_whole_workload(capsys: pytest.CaptureFixture[str]) -> None:
    """So that a run can be repeated from its results."""
    recorder = overloaded()
    report(recorder).print(as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["workload"]["seed"] == 1
    assert shown["workload"]["prefix"] == "bench/"
    assert (shown["latency_from"], shown["intended_per_second"], shown["measured_s"]) == ("intended start", 5_000.0, 10.0)
    assert (shown["total"]["count"], shown["total"]["not_started"], shown["total"]["per_second"]) == (39_120, 10_880, 3_912.0)
    assert shown["total"]["latency_ms"]["max"] == 900.0
    assert shown["total"]["service_ms"]["max"] == 200.0
    assert "timeline" not in shown


def test_live_figures_are_of_the_last_moments() -> None:
    """Before anything has ended there are none."""
    recorder = Recorder(plan())
    recorder.begin(0.0)
    assert str(recorder.live().p50_ms) == "nan"
    recorder.on_message(0, Sample(0, True, {"read": noted([1, 2, 3, 4], errors={"NO_LEADER": 1})}))
    live = recorder.live()
    assert (live.ended, live.p50_ms, live.p99_ms, live.errors) == (4, 3.0, 4.0, 1)


def test_figures_read_well() -> None:
    """Three digits are enough."""
    values = (0.8512, 9.994, 12.34, 99.94, 432.1, 1_240.0)
    assert [ms_text(value) for value in values] == ["0.85", "9.99", "12.3", "99.9", "432", "1,240"]
    assert [span_text(value) for value in (0.8512, 432.1, 1_240.0)] == ["0.85 ms", "432 ms", "1.24 s"]
    assert [rate_text(value) for value in (0.0, 0.39, 39.1, 3_912.4)] == ["0", "0.39", "39.1", "3,912"]
    assert [round_rate(value) for value in (0.4, 7.0, 98.0, 1_301.5, 45_678.0)] == ["1", "7", "98", "1300", "45000"]
    assert sparkline([1.0, 8.0, 0.0, 4.0]) == "▂█·▅"
    assert sparkline([0.0]) == "·"
    assert sparkline([1.0] * 100 + [2.0] * 100) == "▅" * 25 + "█" * 25
    assert [seconds_text(value) for value in (0.5, 10.0, 2.5)] == ["500 ms", "10 s", "2.5 s"]


def test_report_of_an_open_loop_whose_operations_fail_blames_nobody_for_being_late() -> None:
    """Failures are errors; the cluster kept up."""
    recorder = Recorder(plan(rate=10.0, duration_s=1.0, operations=None, mix={"cas": 1.0}))
    recorder.on_message(0, Sample(0, True, {"cas": noted([1] * 10, [1] * 10, errors={"COMPARE_FAILED": 8})}))
    recorder.on_message(0, finished(1.0))
    assert report(recorder).sentences() == ["Errors: 8 COMPARE_FAILED (another writer was faster)."]
