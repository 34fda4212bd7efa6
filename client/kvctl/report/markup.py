"""HTML and SVG by construction: what is not markup already is escaped.

Owns the only way from text to markup. Invariant: whatever comes from data (keys, names, errors) goes through `tag` or `text`,
which escape it and make its control characters visible; only literals of this package become `Markup` directly.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from kvctl.failures import printable

VOID = frozenset({"br", "col", "hr", "link", "meta"})
"""Elements of HTML that have no end."""
SHAPES = frozenset({"circle", "line", "path", "rect"})
"""Elements of SVG that hold nothing."""


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


NOTHING = Markup("")


def text(value: str) -> Markup:
    """As it stands, whatever it holds."""
    return value if isinstance(value, Markup) else Markup(html.escape(printable(value, keep="\n\t")))


def join(parts: Iterable[str], between: str = "") -> Markup:
    """One after the other; what is not markup is escaped."""
    return Markup(text(between).join(text(part) for part in parts))


def tag(name: str, /, *children: str, **attributes: object) -> Markup:
    """An element. Of attributes "_" stands for "-", and one at the end for nothing: class_, data_tip; None and False leave
    them out, True has no value.
    """
    opening = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}"
    if name in SHAPES:
        return Markup(f"{opening}/>")
    if name in VOID:
        return Markup(f"{opening}>")
    return Markup(f"{opening}>{join(children)}</{name}>")


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.removesuffix("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{text(number(value) if isinstance(value, float) else str(value))}"'


def number(value: float) -> str:
    """A coordinate, to the hundredth."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def percent(share: float) -> str:
    """A coordinate as a share of the width: it follows the window, and what stands beside it does not shrink."""
    return f"{number(100 * share)}%"


def tip(title: str, lines: Iterable[Sequence[str]] = ()) -> str:
    """What the script shows where the pointer is, for `data_tip`: a title, then lines of a colour's class, name and value."""
    rows = ["\t".join(_plain(cell) for cell in line) for line in lines]
    return "\n".join([_plain(title), *rows])


def _plain(cell: str) -> str:
    """Without the separators."""
    return printable(cell)
