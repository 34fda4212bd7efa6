"""Tables of the page.

Owns their form: a caption, columns of text or numbers, and a box that scrolls by itself where the window is narrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvctl.report.markup import Markup, tag

NUMERIC = "num"


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str, numeric: str = "", class_: str = ""
) -> Markup:
    """A table; `numeric` names the columns to align right, with "|" between. `caption` is for those who cannot see."""
    right = set(numeric.split("|"))
    classes = [NUMERIC if header in right else None for header in headers]
    head = tag("tr", *(tag("th", header, scope="col", class_=one) for header, one in zip(headers, classes, strict=True)))
    body = [tag("tr", *(tag("td", cell, class_=one) for cell, one in zip(row, classes, strict=True))) for row in rows]
    made = tag(
        "table",
        tag("caption", caption, class_="unseen"),
        tag("thead", head),
        tag("tbody", *body),
        class_=class_ or None,
    )
    return tag("div", made, class_="scroll", tabindex=0, role="region", aria_label=caption)
