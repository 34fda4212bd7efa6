"""Text to markup: nothing that comes from data can be an element, an attribute or a command to a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvctl.failures import printable
from kvctl.report.markup import Markup, join, number, percent, tag, text, tip
from tests.unit.kvctl.report.made import Seen


@given(st.text(), st.text())
def test_tag_with_any_text_holds_it_as_text(content: str, attribute: str) -> None:
    """A browser reads back what was written, one element, whatever the text is; control characters are made visible."""
    seen = Seen(tag("p", content, title=attribute))
    assert [element.name for element in seen.elements] == ["p"]
    assert seen.elements[0].text == printable(content, keep="\n\t")
    assert seen.elements[0].attributes == {"title": printable(attribute, keep="\n\t")}


def test_tag_with_markup_nests_it_as_it_is() -> None:
    """Only markup is not escaped, and a list of both keeps the difference."""
    assert tag("p", tag("b", "<i>"), "&") == "<p><b>&lt;i&gt;</b>&amp;</p>"
    assert join([Markup("<b>"), "<b>"], " & ") == "<b> &amp; &lt;b&gt;"
    assert text(Markup("<hr>")) == "<hr>"


def test_tag_attributes_follow_their_names() -> None:
    """A trailing underscore is for Python, others are hyphens; None and False leave an attribute out."""
    made = tag("div", class_="a", data_tip="b", hidden=True, id=None, open=False, tabindex=0)
    assert made == '<div class="a" data-tip="b" hidden tabindex="0"></div>'


def test_elements_without_content_close_themselves() -> None:
    """As HTML and SVG have it."""
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert tag("rect", x="1") == '<rect x="1"/>'


def test_numbers_have_two_digits_at_most() -> None:
    """Coordinates are short: a page has many."""
    assert [number(one) for one in (0, 1, 1.5, 1 / 3, 1e-9, 120)] == ["0", "1", "1.5", "0.33", "0", "120"]
    assert tag("rect", x=1 / 3) == '<rect x="0.33"/>'
    assert percent(0.12345) == "12.35%"


def test_tip_keeps_separators_out_of_its_cells() -> None:
    """A name with a newline or a tab in it makes no line of its own."""
    assert tip("a\nb", [("s-fsync", "x\ty", "1 ms")]) == "a\\nb\ns-fsync\tx\\ty\t1 ms"
