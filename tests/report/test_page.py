"""The templates: escaping, missing facts, and what a table has."""

import re
from pathlib import Path

import jinja2
import pytest

import pipeline.report
from pipeline.report.page import render
from tests.report.parsed import parse

NASTY = "<script>alert('&\"')</script>"
TEMPLATES = Path(pipeline.report.__file__).parent / "templates"


def comparison(**facts):
    known = {
        "title": "a",
        "names": [],
        "results": [],
        "differences": [],
        "shares_colors": False,
        "charts": [],
    }
    return render("comparison.html", **known | facts)


def test_text_and_attributes_are_escaped():
    page = render("gallery.html", title=NASTY, about=NASTY, entries=[
        {"name": NASTY, "path": NASTY, "picture": None, "top": [], "problem": NASTY},
    ])  # fmt: skip
    assert "<script" not in page
    root = parse(page)
    assert [root.find(tag)[0].text for tag in ("title", "h1", "p")] == [NASTY] * 3
    name, problem = root.find("div")
    assert (name.text, name.attributes["title"], problem.text) == (NASTY, NASTY, NASTY)


def test_a_missing_fact_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="'about' is undefined"):
        render("gallery.html", title="a", entries=[])


def test_a_table_names_its_columns_and_rows_and_escapes_its_cells():
    rows = [(NASTY, "1"), ("y", NASTY)]
    (table,) = parse(comparison(names=[NASTY], differences=rows)).find("table")[1:]
    assert table.cells() == [["setting", NASTY], [NASTY, "1"], ["y", NASTY]]
    scopes = [th.attributes["scope"] for th in table.find("th")]
    assert scopes == ["col", "col", "row", "row"]


def test_a_wide_table_is_named_and_can_be_scrolled_with_the_keyboard():
    root = parse(comparison())
    (wide,) = root.find("div", "wide")
    assert wide.attributes["tabindex"] == "0"
    caption = root.find("p", "soft")[0].text
    assert caption
    assert wide.find("table")[0].attributes["aria-label"] == caption


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.html")), ids=lambda file: file.name)
def test_no_template_turns_escaping_off(template):
    text = template.read_text()
    assert not re.search(r"\|\s*safe\b|autoescape|Markup", text)
    # A value in an attribute is inside quotes, or the filter `xmlattr` writes it.
    for value in re.findall(r"=\s*(\S?)\{\{", re.sub(r"\{%.*?%\}", "", text)):
        assert value == '"'
