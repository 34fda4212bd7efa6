"""What all sections of the page have in common.

Owns a section's frame, its remarks, and the words for what is not known.
"""

from __future__ import annotations

from kvctl.report.markup import Markup, tag
from kvctl.report.words import clock, moment


def section(id_: str, title: str, lead: str, *children: str) -> Markup:
    """A part of the page with a heading, which the navigation leads to, and a first paragraph."""
    heading = f"{id_}-heading"
    return tag(
        "section",
        tag("h2", title, id=heading),
        tag("p", lead, class_="lead") if lead else "",
        *children,
        id=id_,
        aria_labelledby=heading,
    )


def missing(words: str) -> Markup:
    """What is not known, and why."""
    return tag("p", words, class_="none")


def at(unix_ms: int, *, short: bool = False) -> Markup:
    """A moment; `short`: only the time of day is shown."""
    return tag("time", clock(unix_ms) if short else moment(unix_ms), datetime=moment(unix_ms))


def chip(class_: str) -> Markup:
    """A spot of a colour, before what has it."""
    return tag("span", class_=f"chip {class_}", aria_hidden="true")
