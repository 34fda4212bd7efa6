"""What kvwire is held to beside grpcio, and whether measured figures are within it.

Pure: figures come in, ratios and verdicts go out. A figure is named `scenario/measure`; it has one value a round for each side,
and a side's value is their median: machines are noisy, and a ratio of medians of interleaved rounds is what can be trusted.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

REFERENCE, SUBJECT = "reference", "subject"
SIZES = {"64 KB": 64 << 10, "1 MB": 1 << 20}
PAIRINGS = {
    "its server and client": (SUBJECT, SUBJECT),
    "its server, grpcio's client": (SUBJECT, REFERENCE),
    "grpcio's server, its client": (REFERENCE, SUBJECT),
}
"""Who serves and who calls: each is held against the reference with itself."""
Figures = Mapping[str, Mapping[str, Sequence[float]]]
"""Name of a figure -> side -> one value a round."""


class Bound(NamedTuple):
    """How a figure of the subject relates to the reference's: at least, or at most, so many times as much."""

    claim: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None

    def holds(self, ratio: float) -> bool:
        """Whether a measured ratio is within it."""
        return (self.at_least is None or ratio >= self.at_least) and (self.at_most is None or ratio <= self.at_most)

    def __str__(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


class Limit(NamedTuple):
    """How large a figure of the subject may be by itself."""

    claim: str
    figure: str
    at_most: float
    unit: str

    def holds(self, value: float) -> bool:
        """Whether a measured value is within it."""
        return value <= self.at_most

    def __str__(self) -> str:
        return f"≤ {self.at_most:g} {self.unit}"


class Verdict(NamedTuple):
    """A claim, what it asks, what was measured (None: not in this run), and whether it holds."""

    claim: str
    asked: str
    measured: float | None
    holds: bool | None


BOUNDS: tuple[Bound | Limit, ...] = (
    Bound("server: calls a second, 32 in flight", "server, 32 in flight/calls a second", at_least=8),
    Bound("server: calls a second, 1,024 in flight", "server, 1,024 in flight/calls a second", at_least=8),
    Bound("server: latency of a call alone", "server, 1 in flight/p50 µs", at_most=0.5),
    Bound("server: calls a second, TLS, 128 in flight", "server, TLS, 128 in flight/calls a second", at_least=8),
    Bound("client: CPU a call, 64 at once", "client, its server, 64 at once/CPU µs", at_most=0.2),
    *(
        Bound(f"echo of {size}: {pairing}", f"echo {size}, {pairing}/MB a second", at_least=1)
        for size in SIZES
        for pairing in PAIRINGS
    ),
    Limit("a million calls: growth of the server", "million/server MiB", 4, "MiB"),
    Limit("a million calls: growth of the client", "million/client MiB", 4, "MiB"),
)


def median(figures: Figures, figure: str, side: str) -> float | None:
    """The middle value of a side's rounds; None if it was not measured."""
    values = figures.get(figure, {}).get(side, ())
    return statistics.median(values) if values else None


def ratio(figures: Figures, figure: str) -> float | None:
    """How many times the reference's figure the subject's is; None if a side was not measured, or the reference's is 0."""
    ours, theirs = median(figures, figure, SUBJECT), median(figures, figure, REFERENCE)
    return None if ours is None or not theirs else ours / theirs


def judge(figures: Figures, bounds: Sequence[Bound | Limit] = BOUNDS) -> list[Verdict]:
    """Each bound's verdict."""
    verdicts = []
    for bound in bounds:
        measured = ratio(figures, bound.figure) if isinstance(bound, Bound) else median(figures, bound.figure, SUBJECT)
        verdicts.append(Verdict(bound.claim, str(bound), measured, None if measured is None else bound.holds(measured)))
    return verdicts
