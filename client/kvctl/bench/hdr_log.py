"""An HdrHistogram log: a line for each interval and kind of operation, with the whole histogram in it.

Owns the format, version 1.3 of Java's HistogramLogWriter: a tag for each kind, histograms in nanoseconds (V2, compressed,
base64), intervals in seconds after the base time, maxima in milliseconds. hdrhistogram's own writer knows no tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from kvctl.bench.latency import Latency

VERSION = "1.3"


class HdrLog:
    """A log under way; what was written is in the file at once, so that an early end leaves all of it."""

    def __init__(self, path: Path, title: str) -> None:
        """Raises OSError if the file cannot be written; what was in it is gone."""
        self._file = path.open("w", encoding="utf-8", buffering=1)
        self._file.write(f"#[{title}]\n#[Histogram log format version {VERSION}]\n")

    def begin(self, at_unix_s: float) -> None:
        """The measured time begins."""
        date = datetime.fromtimestamp(at_unix_s, UTC).strftime("%a %b %d %H:%M:%S UTC %Y")
        self._file.write(f"#[StartTime: {at_unix_s:.3f} (seconds since epoch), {date}]\n")
        self._file.write(f"#[BaseTime: {at_unix_s:.3f} (seconds since epoch)]\n")
        self._file.write('"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"\n')

    def write(self, start_s: float, length_s: float, by_tag: Mapping[str, Latency]) -> None:
        """An interval, by its distance from the beginning."""
        for tag, latency in by_tag.items():
            max_ms = latency.histogram.get_max_value() / 1e6
            self._file.write(f"Tag={tag},{start_s:.3f},{length_s:.3f},{max_ms:.3f},{latency.histogram.encode().decode()}\n")

    def close(self) -> None:
        """No more intervals."""
        self._file.close()
