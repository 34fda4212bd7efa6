"""Waterfalls: rows, bars, and that they fit whatever terminal there is."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from kvctl.traces.tree import build
from kvctl.traces.waterfall import bar, draw, rows
from tests.unit.kvctl.traces.synthetic import MS, Scene, slow_put


def drawn(width: int, *, color: bool = False) -> list[str]:
    """The picture of a slow put, line by line."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, color_system="standard" if color else None)
    console.print(draw(build(slow_put().scene().spans), width))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 59, 60, 80, 200])
def test_waterfall_fits_its_terminal(width: int) -> None:
    """No line is longer than the terminal is wide, and every span has its line, its node and its time."""
    lines = drawn(width)
    assert all(cell_len(line) <= width for line in lines)
    assert len(lines) == 1 + 17
    (fsync,) = [line for line in lines if "42 ms" in line and " n2 " in line and "fs" in line]
    assert "█" in fsync
    assert lines[0].split()[:3] == ["span", "node", "time"]
    assert "0 … 52 ms" in lines[0]


def test_waterfall_nests_spans_and_marks_what_ran_beside() -> None:
    """Children are indented; an append has a sign."""
    lines = drawn(100)
    indents = {line.split()[0]: len(line) - len(line.lstrip()) for line in lines if not line.lstrip().startswith("∥")}
    assert indents["Put"] < indents["client.call"] < indents["KV/Put"] < indents["quorum"] < indents["append"]
    assert [line.split()[1] for line in lines if line.lstrip().startswith("∥")] == ["append"]


def test_waterfall_rows_say_what_was_waited_for() -> None:
    """Self times on the critical path sum to the request's duration; what took no time has no row."""
    shown = rows(build(slow_put().scene().spans))
    assert sum(row.critical_ns for row in shown) == shown[0].duration_ns
    assert next(row.critical_ns for row in shown if row.name == "fsync" and row.where == "n2") == round(41.6 * MS)
    assert "log_queue" not in [row.name for row in shown]


def test_waterfall_of_an_error_shows_its_reason() -> None:
    """In red, with its name."""
    scene = Scene()
    root = scene.client("Get", 0, 10, error__type="NO_LEADER")
    scene.stage("client.call", 0, 10, root)
    out = io.StringIO()
    Console(file=out, width=80, force_terminal=True, color_system="standard").print(draw(build(scene.spans), 80))
    assert "Get ! NO_LEADER" in out.getvalue()
    assert "\x1b[31mGet ! NO_LEADER" in out.getvalue()


def test_waterfall_of_a_large_batch_counts_most_of_its_operations() -> None:
    """Five are drawn, the one that was waited for among them; a program gets all."""
    scene = Scene()
    server = scene.server("Batch", 0, 100, None, "n1")
    scene.stages(server, "n1", 0, {"operations": 99, "reply": 1})
    for number in range(40):
        scene.server("Put", 0, 10 + number if number != 3 else 98, server, "n1", kind="internal", kvnode__batch__index=number)
    trace = build(scene.spans)
    few = rows(trace, 5)
    assert [row.name for row in few].count("Put") == 5
    assert few[-2].name == "… 35 more Put"
    assert max(row.duration_ns for row in few if row.name == "Put") == 98 * MS
    assert [row.name for row in rows(trace)].count("Put") == 40


def test_waterfall_of_names_with_control_characters_is_harmless() -> None:
    """A trace is somebody else's text: nothing in it commands the terminal, or is markup."""
    scene = Scene()
    scene.add("evil\x1b[2J[bold]x[/bold]\n", 0, 10)
    out = io.StringIO()
    Console(file=out, width=100).print(draw(build(scene.spans), 100))
    assert "evil\\x1b[2J[bold]x[/bold]\\n" in out.getvalue()


@pytest.mark.parametrize(
    ("start", "duration", "drawing"),
    [
        (0, 100, "██████████"),
        (0, 50, "█████     "),
        (50, 50, "     █████"),
        (0, 1, "▏         "),
        (99, 1, "         █"),
        (100, 0, "         █"),
        (0, 15, "█▌        "),
        (20, 0, "  ▏       "),
        (90, 80, "         █"),
    ],
)
def test_bar_shows_begin_and_end(start: int, duration: int, drawing: str) -> None:
    """Ten characters for a hundred; what is short is visible, what is late is in the last one."""
    assert bar(start, duration, 100, 10) == drawing
