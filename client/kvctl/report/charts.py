"""Pictures with two axes, and small ones for tables: data in, SVG out.

Owns their geometry. Every chart is as wide as there is room: places along it are percentages, and paths lie in an SVG of their
own that is stretched, so that text keeps its size. Colours are classes (`kvctl.report.palette`). Pure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kvclient.histogram import Histogram, lower_bound
from kvctl.report import palette
from kvctl.report.markup import NOTHING, Markup, join, number, percent, tag, tip
from kvctl.report.model import Kind, OverTime
from kvctl.report.scales import Linear, Log, Nines, log_around, ticks, time_step_ms, time_ticks
from kvctl.report.words import clock, count, plural, tick_duration, tick_time
from kvctl.traces.words import duration_words

PERCENTILES = (0, 50, 90, 99, 99.9, 99.99, 99.999, 99.9999)
"""What the axis of percentiles names."""
WIDE = 1000
"""Units of a stretched picture's width."""
HEIGHT, STRIP = 240, 34
LETTER_SHARE = 0.02
"""Of the width of a plot in a narrow window, 400 pixels: about a letter of an axis."""
RIDGE_BINS, RIDGE_HEIGHT = 56, 26
POINTS_MAX = 160
LAYERS_MAX = 9
"""Stages with a layer of their own; what is left shares one."""
Tick = tuple[float, str]
"""Where on the axis, as a share, and what it says."""


def frame(
    plot: Iterable[str], x: Sequence[Tick], y: Sequence[Tick], *, label: str, note: str, above: Markup = NOTHING
) -> Markup:
    """A chart: its axes around `plot`, which is HEIGHT pixels high. `label`: in words, for those who cannot see; `note`: what
    its axes are; `above`: what goes between that and the plot.
    """
    down = [(HEIGHT * (1 - share), words) for share, words in y]
    lines = (tag("line", class_="grid", x1="0", x2="100%", y1=at, y2=at) for at, _ in down)
    return tag(
        "div",
        tag("div", note, class_="unit"),
        above,
        tag(
            "svg",
            *(tag("text", words, x="100%", y=at + 4) for at, words in down),
            class_="y",
            height=HEIGHT,
            aria_hidden="true",
        ),
        tag("svg", *lines, *plot, class_="plot", height=HEIGHT, role="img", aria_label=label, tabindex=0),
        axis(x),
        class_="chart",
    )


def axis(marks: Sequence[Tick]) -> Markup:
    """A horizontal axis: a svg of its own below a plot. Where there is little room every other mark is left out."""
    return tag("svg", *_marks(marks), class_="x", height=20, aria_hidden="true")


def _marks(marks: Sequence[Tick]) -> Iterator[Markup]:
    for place, (share, words) in enumerate(marks):
        edge = max(0.03, LETTER_SHARE * len(words) / 2)  # Centred nearer to it, they would stand beyond a narrow window.
        end = "start" if share < edge else "end" if share > 1 - edge else "middle"
        odd = "odd" if place % 2 and len(marks) > 3 else None
        yield tag("text", words, x=percent(share), y="14", text_anchor=end, class_=odd)


def stretched(*paths: str, height: int = HEIGHT) -> Markup:
    """Paths in a coordinate system of WIDE by `height` units, over all of a plot."""
    view = f"0 0 {WIDE} {height}"
    return tag("svg", *paths, viewBox=view, preserveAspectRatio="none", width="100%", height=height)


# ---- percentiles ---------------------------------------------------------------------------------------------------------


def percentile_chart(distributions: Mapping[Kind, Histogram]) -> Markup:
    """A line a kind: what share of requests took at most how long. Parts of requests have none."""
    known = {kind: histogram for kind, histogram in distributions.items() if histogram.count and not kind.is_part}
    if not known:
        return tag("p", "No requests.", class_="none")
    down = log_around(
        max(min(histogram.percentile(1) for histogram in known.values()), 10), max(one.max_us for one in known.values())
    )
    across = Nines(max(2.0, *(math.log10(one.count) for one in known.values())))
    lines = [
        tag(
            "path",
            d=percentile_path(histogram, across, down, HEIGHT),
            class_=line_class(kind),
            stroke_dasharray=palette.DASHES.get(kind.consistency),
            data_series=kind.words,
        )
        for kind, histogram in known.items()
    ]
    named = [share for share in PERCENTILES if share == 0 or -math.log10(1 - share / 100) <= across.nines]
    return frame(
        [stretched(*lines), *_percentile_hits(known, across)],
        [(across.share(one), f"{one:g} %") for one in named],
        [(down.share(us), tick_duration(us * 1000)) for us in down.ticks()],
        label=f"Latency by percentile of {plural(len(known), 'kind')} of requests; the table below has the numbers",
        note="time, by share of requests that took no longer",
    )


def line_class(kind: Kind) -> str:
    """The classes of its line: the client's view is thinner."""
    return f"line {palette.operation_class(kind.operation)}{' thin' if kind.by_client else ''}"


def percentile_path(histogram: Histogram, across: Nines, down: Log, height: int) -> str:
    """The line of one distribution, as a path: up to its longest request, which is as rare as it can tell."""
    points = [(0.0, float(histogram.min_us))]
    seen = 0
    for bucket in sorted(histogram.counts):
        seen += histogram.counts[bucket]
        middle = (lower_bound(bucket) + lower_bound(bucket + 1) - 1) / 2
        longer = max(histogram.count - seen, 1)
        points.append((100 * (1 - longer / histogram.count), min(max(middle, histogram.min_us), histogram.max_us)))
    points.append((points[-1][0], float(histogram.max_us)))
    places = [(WIDE * across.share(share), height * (1 - down.share(us))) for share, us in points]
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in _thinned(places))


def _thinned(places: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Without points that are nearer to the one before than a pixel; the last stays."""
    last: tuple[float, float] | None = None
    least = WIDE / POINTS_MAX / 3
    for place in places[:-1]:
        if last is None or abs(place[0] - last[0]) >= least or abs(place[1] - last[1]) >= 1:
            yield place
            last = place
    yield from places[-1:]


def _percentile_hits(known: Mapping[Kind, Histogram], across: Nines) -> Iterator[Markup]:
    """Bands over the plot; each tells the percentile in its middle."""
    told = [one for one in (50, 75, 90, 95, 99, 99.9, 99.99, 99.999, 99.9999) if across.share(one) < 1 or one == 50]
    places = [across.share(one) for one in told]
    ends = [0.0, *((one + other) / 2 for one, other in itertools.pairwise(places)), 1.0]
    for percentile, begin, end in zip(told, ends[:-1], ends[1:], strict=True):
        lines = [
            (palette.operation_class(kind.operation), kind.words, duration_words(histogram.percentile(percentile) * 1000))
            for kind, histogram in known.items()
            if percentile <= 50 or histogram.count >= 1 / (1 - percentile / 100)
        ]
        yield _hit(begin, end, tip(f"p{percentile:g}", lines))


def _hit(begin: float, end: float, words: str, height: int = HEIGHT) -> Markup:
    """Where the pointer finds something told."""
    return tag("rect", class_="hit", x=percent(begin), width=percent(end - begin), y="0", height=height, data_tip=words)


def ridge_axis(distributions: Iterable[Histogram]) -> Log:
    """The axis that distributions share, microseconds."""
    known = [one for one in distributions if one.count]
    if not known:
        return Log(1000, 10_000)
    return log_around(max(min(one.percentile(1) for one in known), 10), max(one.percentile(99.9) for one in known))


def ridge(histogram: Histogram, across: Log, name: str, class_: str) -> Markup:
    """The shape of one distribution over a shared axis, with marks at its median and its p99. Empty of nothing."""
    bins = [0] * RIDGE_BINS
    for bucket, held in histogram.counts.items():
        middle = (lower_bound(bucket) + lower_bound(bucket + 1) - 1) / 2
        bins[min(int(across.share(middle) * RIDGE_BINS), RIDGE_BINS - 1)] += held
    most = max(bins)
    if not most:
        return Markup("")
    wide = WIDE / RIDGE_BINS
    steps = "".join(
        f"M{number(place * wide)} {RIDGE_HEIGHT}v{number(-max(RIDGE_HEIGHT * held / most, 1))}h{number(wide)}V{RIDGE_HEIGHT}z"
        for place, held in enumerate(bins)
        if held
    )
    marks = [
        tag("line", class_=f"mark {words}", x1=percent(at), x2=percent(at), y1="0", y2=RIDGE_HEIGHT)
        for words, at in (("p50", across.share(histogram.percentile(50))), ("p99", across.share(histogram.percentile(99))))
    ]
    shape = stretched(tag("path", d=steps, class_=f"area {class_}"), height=RIDGE_HEIGHT)
    return tag("svg", shape, *marks, class_="ridge", height=RIDGE_HEIGHT, role="img", aria_label=f"Distribution of {name}")


# ---- stages over time ----------------------------------------------------------------------------------------------------


def layers(over_time: OverTime) -> list[str]:
    """The stages that get a layer: those that most time went to, in the order in which they lie; "" is the rest."""
    sums: dict[str, float] = {}
    for interval in over_time.intervals:
        for stage, mean_ns in interval.means_ns.items():
            sums[stage] = sums.get(stage, 0) + mean_ns * interval.requests
    ranked = sorted((stage for stage in sums if sums[stage]), key=lambda stage: (-sums[stage], stage))
    shown = sorted(ranked[:LAYERS_MAX], key=palette.stage_order)
    return shown + ([""] if len(ranked) > LAYERS_MAX else [])


def _layer_ns(means_ns: Mapping[str, float], stage: str, shown: Sequence[str]) -> float:
    if stage:
        return means_ns.get(stage, 0)
    return sum(ns for other, ns in means_ns.items() if other not in shown)


def stages_chart(over_time: OverTime, name: str, above: Markup = NOTHING) -> Markup:
    """Mean time by stage, interval by interval, layer upon layer. An interval without requests is empty, not zero."""
    if not over_time.intervals:
        return tag("p", "No requests.", class_="none")
    shown = layers(over_time)
    steps = ticks(max(sum(interval.means_ns.values()) for interval in over_time.intervals) / 1e6)
    down = Linear(0, steps[-1] * 1e6)
    whole_ms = over_time.to_ms - over_time.from_ms
    paths: dict[str, list[str]] = {stage: [] for stage in shown}
    hits: list[Markup] = []
    for interval in over_time.intervals:
        begin = (interval.start_ms - over_time.from_ms) / whole_ms
        end = begin + over_time.step_ms / whole_ms
        below, lines = 0.0, []
        for stage in shown:
            ns = _layer_ns(interval.means_ns, stage, shown)
            if ns <= 0:
                continue
            paths[stage].append(_block(begin, end, down.share(below), down.share(below + ns), HEIGHT))
            below += ns
            lines.append((palette.stage_class(stage), stage or "other stages", duration_words(ns)))
        title = f"{clock(interval.start_ms)} · {plural(interval.requests, 'request')} · mean {duration_words(below)}"
        hits.append(_hit(begin, end, tip(title, reversed(lines))))
    areas = (tag("path", d="".join(d), class_=f"area {palette.stage_class(stage)}") for stage, d in paths.items() if d)
    return frame(
        [stretched(*areas), *hits],
        time_marks(over_time.from_ms, over_time.to_ms),
        [(down.share(ms * 1e6), tick_duration(ms * 1e6)) for ms in steps],
        label=f"Mean time of {name} by stage, in intervals of {tick_duration(over_time.step_ms * 1e6)}",
        note=f"mean time a request, each {tick_duration(over_time.step_ms * 1e6)}",
        above=above,
    )


def _block(begin: float, end: float, low: float, high: float, height: int) -> str:
    """A rectangle as a part of a path."""
    left, right, top, bottom = begin * WIDE, end * WIDE, height * (1 - high), height * (1 - low)
    return f"M{number(left)} {number(bottom)}V{number(top)}H{number(right)}V{number(bottom)}z"


def requests_strip(over_time: OverTime) -> Markup:
    """How many requests each interval's means are of."""
    most = max((interval.requests for interval in over_time.intervals), default=1)
    whole_ms = over_time.to_ms - over_time.from_ms
    blocks = [
        _block(begin, begin + over_time.step_ms / whole_ms, 0, interval.requests / most, STRIP)
        for interval in over_time.intervals
        if (begin := (interval.start_ms - over_time.from_ms) / whole_ms) >= 0
    ]
    return tag(
        "div",
        tag("svg", tag("text", count(most), x="100%", y="10"), class_="y", height=STRIP, aria_hidden="true"),
        tag(
            "svg",
            stretched(tag("path", d="".join(blocks), class_="area counts"), height=STRIP),
            tag("line", class_="grid", x1="0", x2="100%", y1=STRIP, y2=STRIP),
            class_="plot",
            height=STRIP,
            role="img",
            aria_label=f"Requests an interval, at most {most:,}",
        ),
        class_="chart strip",
    )


def time_marks(from_ms: int, to_ms: int, about: int = 6) -> list[Tick]:
    """What an axis of time names."""
    step = time_step_ms(max(to_ms - from_ms, 1), about)
    across = Linear(from_ms, to_ms)
    return [(across.share(at), tick_time(at, step)) for at in time_ticks(from_ms, to_ms, about)]


def composition(parts: Iterable[tuple[str, str, float]], label: str) -> Markup:
    """A bar of a whole's parts: class, words and share of each."""
    at = 0.0
    drawn: list[Markup] = []
    for class_, words, share in parts:
        drawn.append(
            tag("rect", class_=f"area {class_}", x=percent(at), width=percent(share), y="0", height="100%", data_tip=words)
        )
        at += share
    return tag("svg", join(drawn), class_="composition", role="img", aria_label=label)


def share_bar(share: float, class_: str = "") -> Markup:
    """A share as a bar, in a cell."""
    filled = tag("rect", class_=f"area {class_}".strip(), width=percent(min(max(share, 0), 1)), height="100%")
    return tag("svg", filled, class_="share", aria_hidden="true")
