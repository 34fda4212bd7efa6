"""What a run shows while it runs: a bar with live figures, on a terminal.

Owns the bar, on standard error; without a terminal there is none.
"""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from kvctl.bench.plan import Plan
from kvctl.bench.results import Live
from kvctl.bench.words import count_text, rate_text, span_text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Display:
    """One bar at a time; use it with `with`."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            from rich import progress as bars
            from rich.console import Console

            self._progress = bars.Progress(
                bars.TextColumn("{task.description:10}"),
                bars.BarColumn(30),
                bars.TextColumn("{task.fields[text]}"),
                console=Console(stderr=True, highlight=False),
                transient=True,
            )
        self._task: TaskID | None = None
        self._total, self._began = 1.0, 0.0

    def __enter__(self) -> Display:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def phase(self, text: str, total: float | None) -> None:
        """The next bar; None: nobody knows how long it takes."""
        self._began = time.monotonic()
        if self._progress is not None:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(text, total=total, text="")

    def show(self, completed: float | None, text: str = "") -> None:
        """How far it is; None: as far as the seconds since its beginning."""
        if self._progress is not None and self._task is not None:
            done = time.monotonic() - self._began if completed is None else completed
            self._progress.update(self._task, completed=done, text=text)

    def show_live(self, plan: Plan, live: Live) -> None:
        """The load's figures."""
        errors = f"  [red]{count_text(live.errors, 'error')}[/]" if live.errors else ""
        latencies = "no answers" if math.isnan(live.p50_ms) else f"p50 {span_text(live.p50_ms)}  p99 {span_text(live.p99_ms)}"
        text = f"[bold]{rate_text(live.per_second)}[/]/s  {latencies}{errors}"
        self.show(None if plan.operations is None else live.ended, text)
