"""Names that a spreadsheet would take for formulas stay text in CSV, and can be had back."""

import csv
import io
import re

import pytest

from jobs.predict import as_cell

FORMULAS = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\uff1d1",
    "'=1",
    "''@x",
]


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_is_text(name):
    cell = as_cell(name)
    assert cell == f"'{name}"
    text = io.StringIO()
    csv.writer(text).writerow([cell, 0.5])
    assert next(csv.reader(io.StringIO(text.getvalue(), newline=""))) == [cell, "0.5"]


@pytest.mark.parametrize("name", [*FORMULAS, "cat", "a=b", "'quoted'", "it's", "é", "", "1-2"])
def test_the_readme_says_how_to_have_the_name_back(name):
    if name[:1] not in "\t\r\uff1d":  # the first two are printed escaped
        assert re.sub("^'('*[=+@-])", r"\1", as_cell(name)) == name


@pytest.mark.parametrize("name", ["cat", "a=b", "'quoted'", "it's", "", "photos/-1.png"])
def test_other_text_is_as_it_was(name):
    assert as_cell(name) == name
