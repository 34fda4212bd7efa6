"""The page: one file that needs nothing else.

Owns the document around the sections. Invariant: it can load nothing and runs only its own script, whose hash the policy in
its head names; text that slipped through as markup could not run.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from kvctl.report import palette
from kvctl.report.about import about_section
from kvctl.report.availability import availability_section
from kvctl.report.latency import latency_section
from kvctl.report.markup import Markup, tag
from kvctl.report.model import Report
from kvctl.report.outcomes import outcomes_section
from kvctl.report.overview import overview
from kvctl.report.slowest import slowest_section
from kvctl.report.stages import stages_section

PARTS = (
    ("overview", "Overview"),
    ("latency", "Latency"),
    ("stages", "Stages"),
    ("slowest", "Slowest"),
    ("availability", "Availability"),
    ("outcomes", "Outcomes"),
    ("about", "About"),
)
"""Ids of sections and what the navigation calls them."""


def page(report: Report) -> str:
    """The whole document."""
    style = Markup(palette.css() + _own("style.css"))
    script = Markup(_own("script.js"))
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", _title(report)),
        tag("style", style),
    )
    links = (tag("a", words, href=f"#{id_}") for id_, words in PARTS)
    body = tag(
        "body",
        tag("a", "Skip to the content", href="#latency", class_="skip"),
        tag("nav", *links, aria_label="Sections"),
        tag(
            "main",
            overview(report),
            latency_section(report),
            stages_section(report),
            slowest_section(report),
            availability_section(report),
            outcomes_section(report),
            about_section(report),
        ),
        tag("div", id="tip", role="tooltip", hidden=True),
        tag("script", script),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _title(report: Report) -> str:
    return f"kvnode report: {report.cluster_id[:8]}" if report.cluster_id else "kvnode report"


def _own(name: str) -> str:
    return files("kvctl.report").joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """As a content security policy names an inline element."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
