from pipeline.report.html import Html, element, join, table
from tests.report.parsed import parse

NASTY = "<script>alert('&\"')</script>"


def test_text_and_attributes_that_are_no_markup_are_escaped():
    page = element("p", NASTY, title=NASTY)
    assert page.count("<") == 2
    (p,) = parse(page).find("p")
    assert (p.text, p.attributes["title"]) == (NASTY, NASTY)


def test_elements_inside_elements_are_not_escaped_again():
    (p,) = parse(element("p", element("b", "a & b"), " ", 3)).find("p")
    assert p.text == "a & b 3"
    assert p.find("b")[0].text == "a & b"


def test_what_comes_of_a_string_operation_on_markup_is_no_markup():
    markup = element("b", "x")
    assert not isinstance(markup + NASTY, Html)
    assert not isinstance(f"{markup}", Html)
    assert element("p", markup + NASTY).count("<") == 2


def test_none_is_left_out_and_true_has_no_value():
    assert join(None, "a", None) == "a"
    assert element("p", None, class_=None, hidden=True, title=False) == "<p hidden></p>"


def test_a_table_names_its_columns_and_rows_and_escapes_its_cells():
    root = parse(table(("a", "b"), [(NASTY, 1), ("y", NASTY)], caption=NASTY))
    assert root.find("table")[0].cells() == [["a", "b"], [NASTY, "1"], ["y", NASTY]]
    scopes = [th.attributes["scope"] for th in root.find("th")]
    assert scopes == ["col", "col", "row", "row"]
    assert root.find("p")[0].text == NASTY
