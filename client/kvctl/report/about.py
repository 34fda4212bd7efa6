"""Section: where all of it comes from, and what is missing.

Owns its look.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvctl.report.markup import Markup, tag
from kvctl.report.model import Report
from kvctl.report.sections import at, section
from kvctl.report.words import plural

FILES_NAMED_MAX = 20


def about_section(report: Report) -> Markup:
    """A list of facts."""
    facts = [(tag("dt", name), tag("dd", value)) for name, value in _facts(report)]
    return section("about", "About this report", "", tag("dl", *(part for fact in facts for part in fact), class_="about"))


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    sources = report.sources
    yield "made", at(sources.made_at_ms)
    if sources.asked:
        answered = [member.name for member in report.members if member.name not in sources.silent]
        yield "asked", f"{', '.join(answered) or 'nobody'} at {', '.join(sources.asked)}"
    else:
        yield "asked", "no cluster: files of traces only, so without availability, outcomes and the counts of all requests"
    for node, why in sorted(sources.silent.items()):
        yield f"missing: {node}", why
    if sources.files:
        more = f" and {len(sources.files) - FILES_NAMED_MAX} more" if len(sources.files) > FILES_NAMED_MAX else ""
        yield "files", ", ".join(sources.files[:FILES_NAMED_MAX]) + more
    yield "traces", f"{plural(sources.spans, 'span')} of {plural(sources.requests, 'request')}"
    if sources.damaged_lines:
        yield "damaged", f"{plural(sources.damaged_lines, 'line')} skipped"
    yield "this file", "needs no network and asks for nothing; it can be mailed, kept and printed"
