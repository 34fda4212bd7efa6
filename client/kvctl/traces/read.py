"""Spans from files of traces and from live nodes.

Owns where spans come from: OTLP JSON lines as nodes, SDKs and the OpenTelemetry Collector's file exporter write them, with
their rotated predecessors; and `Cluster.Traces`. What is damaged, as the last line of a file whose writer died, is skipped and
counted. Never writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kvctl.failures import usage
from kvctl.traces.span import NotTraces, Span, decode_line

if TYPE_CHECKING:
    from kvctl.admin import Admin

_LOOKS_LIKE_TRACES = b'"resourceSpans"'
_HEAD_SIZE_BYTES = 4096
LIVE_SPANS_MAX = 10_000
"""Of one node: about a third of what one message may hold."""


@dataclass
class Reading:
    """What became of an attempt to read; complete when its spans have been consumed."""

    files: list[Path] = field(default_factory=list)
    """In the order of reading."""
    nodes: list[str] = field(default_factory=list)
    """Those that answered."""
    silent: dict[str, str] = field(default_factory=dict)
    """Those that did not, and why."""
    damaged_lines: int = 0


def files_of(paths: Iterable[Path]) -> list[Path]:
    """The files of traces that these paths mean: a file with its rotated predecessors (FILE.1, FILE.2, ...), a directory with
    all files of traces below it. Raises OSError for what is not there, a usage failure for a directory without traces.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and _holds_traces(file))
            if not inside:
                raise usage(f"{path}: no file of traces below it", "nodes write them where tracing.file says")
            found |= dict.fromkeys(inside)
            continue
        path.open("rb").close()  # says what is wrong with it
        rotated = (file for file in path.parent.glob(f"{path.name}.*") if file.suffix[1:].isdigit())
        found |= dict.fromkeys([path, *sorted(rotated, key=lambda file: int(file.suffix[1:]))])
    return list(found)


def _holds_traces(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return _LOOKS_LIKE_TRACES in opened.read(_HEAD_SIZE_BYTES).split(b"\n", 1)[0]
    except OSError:
        return False


def read_files(paths: Iterable[Path], reading: Reading) -> Iterator[Span]:
    """All spans of the files that `paths` mean, in no order; one may come twice. Fills `reading`. Raises a usage failure for a
    file of something else.
    """
    for file in files_of(paths):
        reading.files.append(file)
        spans = 0
        with file.open("rb") as lines:
            for span in decode(lines, reading):
                spans += 1
                yield span
            if not spans and lines.tell():
                raise usage(f"{file}: no traces in it", "expected OTLP JSON, a TracesData message a line")


def decode(lines: Iterable[str | bytes], reading: Reading) -> Iterator[Span]:
    """The spans of lines; counts those that are damaged. A line with other telemetry (logs, metrics) is passed over."""
    for line in lines:
        if not line.strip():
            continue
        try:
            yield from decode_line(line)
        except NotTraces:
            continue
        except ValueError:
            reading.damaged_lines += 1


def read_live(admin: Admin, reading: Reading) -> Iterator[Span]:
    """What all nodes of the cluster keep in memory. Fills `reading`; raises Failure when no node answers."""
    from kvapi.v1 import observability_pb2
    from kvctl.failures import Failure

    _, known = admin.members()
    names = {member.address: member.name for member in known.members}
    request = observability_pb2.TracesRequest(limit=LIVE_SPANS_MAX)
    answers = admin.each(list(names), lambda stub, timeout_s: stub.Traces.future(request, timeout=timeout_s))
    for address, answer in answers.items():
        if isinstance(answer, Failure):
            reading.silent[names[address]] = answer.message
            continue
        reading.nodes.append(names[address])
        yield from decode(answer.lines, reading)
