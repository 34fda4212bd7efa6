"""Charts: places, sizes and words in the SVG, for much, little and nothing."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvctl.report import charts
from kvctl.report.model import Kind
from kvctl.report.scales import Linear, Log, Nines
from tests.unit.kvctl.report.made import AT_MS, GET, PUT, Element, Seen, histogram, over_time

DURATIONS = st.lists(st.integers(0, 10_000_000), min_size=1, max_size=300)


def points(path: str) -> list[tuple[float, float]]:
    """Of a path of straight lines."""
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]


def blocks(path: str) -> list[tuple[float, float, float, float]]:
    """Left, right, top and bottom of the rectangles of a path."""
    found = re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)H([\d.]+)V[\d.]+z", path)
    return [(float(left), float(right), float(top), float(bottom)) for left, bottom, top, right in found]


def area(page: Seen, class_: str) -> Element:
    """The layer of a class."""
    (found,) = page.all("path", class_)
    return found


@given(DURATIONS)
def test_percentile_line_goes_right_and_up(values_us: list[int]) -> None:
    """From the quickest at 0 % to the slowest, which is as rare as one of all; inside the picture, whatever the durations."""
    made = histogram(values_us)
    across = Nines(3)
    line = points(charts.percentile_path(made, across, Log(10, 10_000_000), 200))
    assert line[0][0] == 0
    rarest = across.share(100 * (1 - 1 / made.count))
    assert line[-1] == pytest.approx((1000 * rarest, 200 * (1 - Log(10, 10_000_000).share(made.max_us))), abs=0.01)
    for (x, y), (later_x, later_y) in itertools.pairwise(line):
        assert later_x >= x
        assert later_y <= y
    assert all(0 <= x <= 1000 and 0 <= y <= 200 for x, y in line)


def test_percentile_line_of_many_requests_is_short() -> None:
    """Points nearer than a pixel are left out: a page has many lines."""
    line = points(charts.percentile_path(histogram(range(100, 200_000, 3)), Nines(5), Log(10, 1_000_000), 240))
    assert len(line) < 300


def test_percentile_chart_has_a_line_a_kind_and_none_for_parts() -> None:
    """Colour by operation, dashes by consistency; the axis ends where the most frequent kind does."""
    eventual, prepare = Kind("put", "eventual"), Kind("txn/prepare", "strong")
    page = Seen(charts.percentile_chart({kind: histogram(range(1, 2001)) for kind in (PUT, eventual, prepare)}))
    lines = page.all("path", "line")
    assert [line.attributes["data-series"] for line in lines] == ["put strong", "put eventual"]
    assert [line.attributes.get("stroke-dasharray") for line in lines] == [None, "2 4"]
    assert all("o-put" in (line.attributes["class"] or "") for line in lines)
    assert [text.text for text in page.all("text") if "%" in text.text] == ["0 %", "50 %", "90 %", "99 %", "99.9 %"]


def test_percentile_chart_tells_only_what_a_kind_is_frequent_enough_for() -> None:
    """At p99.9 nothing is said of a kind with a hundred requests."""
    page = Seen(charts.percentile_chart({PUT: histogram([1000] * 5000), GET: histogram([500] * 100)}))
    tips = [hit.attributes["data-tip"] or "" for hit in page.all("rect", "hit")]
    assert tips[0] == "p50\no-put\tput strong\t1.0 ms\no-get\tget strong\t0.50 ms"
    assert next(tip for tip in tips if tip.startswith("p99.9")) == "p99.9\no-put\tput strong\t1.0 ms"


@pytest.mark.parametrize("values", [[], [7], [0], [1_000_000_000]])
def test_percentile_chart_of_hardly_anything_is_whole(values: list[int]) -> None:
    """Nothing is said to be nothing; one request is a line within the picture."""
    made = charts.percentile_chart({PUT: histogram(values)})
    assert "nan" not in made
    assert "inf" not in made
    assert ("No requests." in made) == (not values)
    assert len(Seen(made).all("path", "line")) == len(values)


def test_ridge_has_the_shape_of_the_distribution() -> None:
    """As high as the picture where most are, marks at the median and p99; nothing of nothing."""
    made = histogram([1000] * 98 + [100_000] * 2)
    across = charts.ridge_axis([made])
    page = Seen(charts.ridge(made, across, "puts", "o-put"))
    heights = [float(height) for height in re.findall(r"v-([\d.]+)", page.all("path")[0].attributes["d"] or "")]
    assert heights == [charts.RIDGE_HEIGHT, 1.0]
    median, p99 = page.all("line")
    assert float((p99.attributes["x1"] or "").rstrip("%")) > float((median.attributes["x1"] or "").rstrip("%"))
    assert charts.ridge(histogram([]), across, "puts", "o-put") == ""
    assert charts.ridge_axis([]).high > charts.ridge_axis([]).low


def test_stages_lie_on_each_other_up_to_the_mean() -> None:
    """A block a stage and interval; the second begins where the first ends, heights are durations on the axis' scale."""
    page = Seen(charts.stages_chart(over_time({"network": 1, "fsync": 3}), "puts"))
    ((left, right, network_top, network_bottom),) = blocks(area(page, "s-network").attributes["d"] or "")
    ((_, _, fsync_top, fsync_bottom),) = blocks(area(page, "s-fsync").attributes["d"] or "")
    assert (left, right) == (0, 1000)
    assert network_bottom == charts.HEIGHT
    assert fsync_bottom == network_top
    assert network_bottom - network_top == pytest.approx(charts.HEIGHT / 4)
    assert network_bottom - fsync_top == pytest.approx(charts.HEIGHT)
    assert [text.text for text in page.all("text")][:5] == ["0 ms", "1 ms", "2 ms", "3 ms", "4 ms"]


def test_stages_of_an_interval_without_requests_are_a_gap() -> None:
    """Nothing is drawn, and nothing told, where nothing is known."""
    page = Seen(charts.stages_chart(over_time({"fsync": 2}, None, {"fsync": 2}), "puts"))
    assert [(left, right) for left, right, *_ in blocks(area(page, "s-fsync").attributes["d"] or "")] == [
        (0, 333.33),
        (666.67, 1000),
    ]
    assert len(page.all("rect", "hit")) == 2


def test_stages_beyond_the_limit_share_a_layer() -> None:
    """The largest have their own; the tooltip's figures still sum to the mean."""
    means = {f"stage{at}": 1.0 + at for at in range(charts.LAYERS_MAX + 3)}
    found = over_time(means)
    shown = charts.layers(found)
    assert shown[-1] == ""
    assert len(shown) == charts.LAYERS_MAX + 1
    assert "stage0" not in shown
    (hit,) = Seen(charts.stages_chart(found, "puts")).all("rect", "hit")
    title, *lines = (hit.attributes["data-tip"] or "").split("\n")
    assert title == f"22:13:20.000Z · 10 requests · mean {sum(means.values()):.0f} ms"
    assert "s-rest\tother stages\t6.0 ms" in lines
    assert sum(float(line.split("\t")[2].removesuffix(" ms")) for line in lines) == sum(means.values())


def test_stages_of_no_time_are_drawn_without_harm() -> None:
    """Requests that took nothing, and no requests."""
    assert "nan" not in charts.stages_chart(over_time({"fsync": 0}), "puts")
    assert "No requests." in charts.stages_chart(replace(over_time({"fsync": 1}), intervals=[]), "puts")


def test_strip_counts_requests_on_the_scale_of_the_most() -> None:
    """Half as many are half as high."""
    found = over_time({"fsync": 1}, {"fsync": 1})
    found = replace(found, intervals=[found.intervals[0], replace(found.intervals[1], requests=5)])
    first, second = blocks(area(Seen(charts.requests_strip(found)), "counts").attributes["d"] or "")
    assert first[3] - first[2] == charts.STRIP
    assert second[3] - second[2] == charts.STRIP / 2


def test_axis_labels_stay_inside_the_picture() -> None:
    """The first begins at the edge, the last ends there; every other one may be left out where it is narrow."""
    page = Seen(charts.axis([(0, "a"), (0.25, "b"), (0.5, "c"), (1, "d")]))
    assert [text.attributes["text-anchor"] for text in page.all("text")] == ["start", "middle", "middle", "end"]
    assert [text.text for text in page.all("text", "odd")] == ["b", "d"]


def test_time_marks_are_where_their_moment_is() -> None:
    """A minute: six or seven round times of day."""
    marks = charts.time_marks(AT_MS, AT_MS + 60_000)
    assert [words for _, words in marks][:2] == ["22:13:20", "22:13:30"]
    assert marks[1][0] == pytest.approx(Linear(0, 60).share(10))


def test_composition_lays_parts_end_to_end() -> None:
    """Each where the one before ends."""
    page = Seen(charts.composition([("s-fsync", "x", 0.5), ("s-network", "y", 0.25)], "what"))
    assert [(rect.attributes["x"], rect.attributes["width"]) for rect in page.all("rect")] == [("0%", "50%"), ("50%", "25%")]


def test_axis_long_words_near_an_edge_end_there() -> None:
    """A time of day with milliseconds is wider than what a narrow window has beside 95 %: centred, it stood beyond the page."""
    page = Seen(charts.axis([(0.05, "22:26:40.000"), (0.5, "22:26:44.000"), (0.9485, "22:26:48.500"), (0.95, "1 s")]))
    assert [text.attributes["text-anchor"] for text in page.all("text")] == ["start", "middle", "end", "middle"]
