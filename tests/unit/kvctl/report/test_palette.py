"""Colours: one for each meaning, and told apart by every kind of eyes."""

from __future__ import annotations

import itertools
import re

import pytest

from kvctl.report import palette
from kvctl.report.gather import HAPPENINGS
from kvctl.traces.latency import STAGES
from kvctl.traces.words import WAITS

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
VISIONS = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
TOGETHER = {
    "put": ("network", "admission", "log_queue", "log_write", "fsync", "quorum", "append", "apply", "reply"),
    "get": ("client.queue", "network", "admission", "read_index", "reply"),
    "txn": ("network", "lock_wait", "log_queue", "fsync", "append", "apply", "prepare", "decide", "reply"),
}
"""Stages that usually lie on each other, by operation."""
DIFFERENCE_MIN = 10.0
"""In CIELAB, of two neighbours; 2.3 is what one just sees side by side."""


def linear(colour: str) -> list[float]:
    """Linear RGB of "#rrggbb"."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def lab(colour: str, vision: str) -> list[float]:
    """CIELAB (D65) of what somebody sees."""
    red, green, blue = (
        min(max(sum(weight * part for weight, part in zip(row, linear(colour), strict=True)), 0), 1) for row in VISIONS[vision]
    )
    xyz = (
        (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047,
        0.2126 * red + 0.7152 * green + 0.0722 * blue,
        (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883,
    )
    x, y, z = (one ** (1 / 3) if one > 0.008856 else 7.787 * one + 16 / 116 for one in xyz)
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("ground", ["light", "dark"])
def test_neighbouring_stages_differ_for_every_eye(vision: str, ground: str) -> None:
    """Layers that touch can be told apart, also by those who see no red, no green or no blue, on both grounds."""
    near = []
    for stages in TOGETHER.values():
        for one, other in itertools.pairwise(sorted(stages, key=palette.stage_order)):
            seen = [lab(getattr(palette.STAGES[stage], ground), vision) for stage in (one, other)]
            difference = sum((a - b) ** 2 for a, b in zip(*seen, strict=True)) ** 0.5
            near += [(one, other, round(difference, 1))] if difference < DIFFERENCE_MIN else []
    assert not near


def test_every_known_stage_has_its_colour_and_words() -> None:
    """What nodes measure and requests wait for; nothing is drawn in the colour of the rest by oversight."""
    background = {*HAPPENINGS, *(stage for stage in WAITS if stage.startswith("eventual."))}
    missing = {*STAGES, *WAITS} - background - {"", *palette.STAGES}
    assert not missing
    assert all(look.words for look in palette.STAGES.values())
    assert len({look.light for look in palette.STAGES.values()}) == len(palette.STAGES)
    assert len({look.dark for look in palette.STAGES.values()}) == len(palette.STAGES)


def test_classes_of_unknown_names_are_those_of_the_rest() -> None:
    """A stage, an operation or a node that nobody knows can put nothing into a class."""
    assert palette.stage_class('x" onload="') == "s-rest"
    assert palette.operation_class("evil") == "o-rest"
    assert palette.node_class(["n1"], "n2") == "n-rest"
    assert palette.operation_class("txn/prepare") == "o-txn"


def test_css_defines_every_class_once_a_ground() -> None:
    """Light by default, dark on a screen that asks for it; paper is light."""
    light, dark = palette.css().split("@media screen and (prefers-color-scheme:dark)")
    for part in (light, dark):
        names = re.findall(r"^\.([\w-]+)\{--c:#[0-9a-f]{6}\}$", part, re.MULTILINE)
        assert len(names) == len(set(names))
        assert {palette.stage_class(stage) for stage in palette.STAGES} <= set(names)
        assert {"s-rest", "o-put", "o-rest", "n-0", "n-rest"} <= set(names)
