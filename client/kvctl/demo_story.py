"""The demo's voice: chapters, facts and claims, on a terminal or as plain text.

Owns the look, and the list of claims: a claim that does not hold is shown as such, and makes the demo fail.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from kvctl.demo_load import LatencyRow

WIDTH_WITHOUT_TERMINAL = 110
INDENT = 9
"""Of what is told under a chapter's title: the width of its time."""


class Story:
    """Tells what happens, with the time of each thing."""

    def __init__(self, console: Console | None = None) -> None:
        if console is None:
            console = (
                Console(highlight=False) if sys.stdout.isatty() else Console(width=WIDTH_WITHOUT_TERMINAL, highlight=False)
            )
        self._console = console
        self._began = time.monotonic()
        self._chapters = 0
        self.claims: list[tuple[bool, str]] = []

    @property
    def held(self) -> bool:
        """Whether every claim so far held."""
        return all(ok for ok, _ in self.claims)

    @property
    def seconds(self) -> float:
        """Since the story began."""
        return time.monotonic() - self._began

    def title(self, text: str, subtitle: str) -> None:
        """The first lines."""
        self._console.print(f"\n[bold]{escape(text)}[/]\n[dim]{escape(subtitle)}[/]")

    def chapter(self, text: str) -> None:
        """A new chapter."""
        self._chapters += 1
        self._console.print(f"\n[dim]{self.seconds:5.1f} s[/]  [bold cyan]{self._chapters}. {escape(text)}[/]")

    def fact(self, text: str) -> None:
        """Something that happened. Durations and counts in [bold]markup[/] stand out."""
        self._print_lines(text)

    def claim(self, ok: bool, text: str) -> bool:
        """Something that must hold. Returns `ok`."""
        self.claims.append((ok, Text.from_markup(text).plain))
        mark = "[green]✓[/]" if ok else "[bold red]✗[/]"
        self._print_lines(f"{mark} {text}" if ok else f"{mark} [bold red]{text}[/]")
        return ok

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Something that turns meanwhile, on a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(text):
            yield

    def table(self, headers: list[str], rows: list[list[str]], *, left: int = 1) -> None:
        """A table; the first `left` columns are words, the others numbers."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        for position, header in enumerate(headers):
            table.add_column(header, justify="left" if position < left else "right")
        for row in rows:
            table.add_row(*row)
        self._console.print(Padding(table, (0, 0, 0, INDENT), expand=False))

    def _print_lines(self, markup: str) -> None:
        for line in Text.from_markup(markup).wrap(self._console, self._console.width - INDENT):
            line.rstrip()
            self._console.print(Text(" " * INDENT) + line)

    def latencies(self, rows: list[LatencyRow]) -> None:
        """The latency table."""
        headers = ["operation", "consistency", "count", "failed", "average", "min", "p50", "p95", "p99", "max"]
        self.table(
            headers,
            [
                [
                    *(row.operation, row.consistency, f"{row.operations:,}", f"{row.failed:,}"),
                    *map(ms, (row.average_ms, row.min_ms, row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms)),
                ]
                for row in rows
            ],
            left=2,
        )

    def end(self) -> None:
        """The last lines."""
        if self.held:
            self._console.print(f"\n[bold green]All {len(self.claims)} claims held.[/] It took {self.seconds:.1f} s.\n")
            return
        self._console.print(f"\n[bold red]{sum(not ok for ok, _ in self.claims)} of {len(self.claims)} claims did not hold:[/]")
        for ok, text in self.claims:
            if not ok:
                self._console.print(f"  ✗ {escape(text)}")


def ms(value_ms: float) -> str:
    """Milliseconds with three significant digits: 0.85 ms, 12.3 ms, 1.24 s."""
    if value_ms >= 1000:
        return f"{value_ms / 1000:.2f} s"
    return f"{value_ms:.3g} ms" if value_ms < 100 else f"{value_ms:.0f} ms"


def span(seconds: float) -> str:
    """A duration: 850 ms, 1.24 s."""
    return ms(seconds * 1000)
