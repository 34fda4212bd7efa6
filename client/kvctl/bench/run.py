"""The course of a run: connect, load, warm up, measure, report, clean up.

Owns the order, and what is shown meanwhile. What the processes do in each phase is `kvctl.bench.worker`.
"""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from pathlib import Path

from kvctl.bench.display import Display
from kvctl.bench.hdr_log import HdrLog
from kvctl.bench.plan import Plan
from kvctl.bench.processes import BEGIN_IN_S, Processes
from kvctl.bench.report import Report
from kvctl.bench.results import Recorder
from kvctl.bench.samples import Message, Progress
from kvctl.bench.words import count_text, plan_text
from kvctl.failures import nobody_answers
from kvctl.store import all_refuse


def run(plan: Plan, hdr: Path | None, *, timeline: bool, as_json: bool) -> Report | None:
    """Do it all, and print the results; None: there was no load. Raises the failure of what cannot go on."""
    if all_refuse(plan.endpoints):
        raise nobody_answers(plan.endpoints, "connection refused", "CONNECT_FAILED")
    if plan.traces:
        Path(plan.traces).write_bytes(b"")  # its processes append
    with _hdr_log(plan, hdr) as log, Processes(plan) as processes:
        with Display() as display:
            display.phase("Connecting", None)
            processes.connect()
            if plan.load:
                _keys(plan, processes, display, "Loading")
            report = _load(plan, processes, display, Recorder(plan, log)) if plan.measures else None
        if report is not None:
            report.print(as_json, timeline=timeline)
        if plan.clean:
            with Display() as display:
                _keys(plan, processes, display, "Cleaning up")
    return report


def _hdr_log(plan: Plan, path: Path | None) -> closing[HdrLog] | nullcontext[None]:
    if path is None or not plan.measures:
        return nullcontext()
    return closing(HdrLog(path, f"Latencies of kvctl bench: {plan_text(plan)}"))


def _keys(plan: Plan, processes: Processes, display: Display, title: str) -> None:
    """All keys are written, or deleted."""
    done = 0

    def on_message(_: int, message: Message) -> None:
        nonlocal done
        if isinstance(message, Progress):
            done += message.keys

    display.phase(title, plan.keys)
    processes.run(on_message, lambda: display.show(done, f"{done:,} of {count_text(plan.keys, 'key')}"))


def _load(plan: Plan, processes: Processes, display: Display, recorder: Recorder) -> Report:
    """The load: first what is not measured, then what is."""
    if plan.warmup_s:
        display.phase("Warming up", plan.warmup_s)
        processes.run(lambda index, message: None, lambda: display.show(None), may_end_early=True)
    display.phase("Measuring", plan.duration_s if plan.operations is None else plan.operations)
    recorder.begin(time.time() + BEGIN_IN_S)
    processes.run(recorder.on_message, lambda: display.show_live(plan, recorder.live()), may_end_early=True)
    return Report(plan, recorder, interrupted=processes.is_interrupted)
