"""Names that are commands to a terminal, a spreadsheet or a browser are predicted as text."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from jobs.predict import as_cell
from tests.jobs.commands import AS_INSTALLED, vit_process
from tests.report.parsed import parse

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


ESCAPE = "\x1b]0;pwned\x07"
CLASSES = [f"{ESCAPE}\u202e", "<img src=x onerror=alert(1)>", "=cmd|' /C calc'!A0", r"$\frac$",
           "[red]", "</title><script>alert(1)</script>", "+1", "-1", "@SUM(A1)",
           "a\nb"]  # fmt: skip
FILES = [
    f"{ESCAPE}.png",
    "<img src=x onerror=alert(1)>.png",
    "=cmd.png",
    r"$\frac$.png",
    "a\nb.png",
]


@pytest.fixture(scope="module")
def hostile(digits_run, tmp_path_factory):
    """A run whose record somebody has given other class names, and images of such names."""
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(digits_run, folder / "run")
    record = folder / "run/dataset.json"
    facts = json.loads(record.read_text())
    assert len(facts["classes"]) == len(CLASSES)
    record.write_text(json.dumps(facts | {"classes": CLASSES}))
    for number, name in enumerate(FILES):
        pixels = np.full((8, 8, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(folder / name, format="png")
    (folder / f"broken{ESCAPE}.png").write_bytes(b"no image")
    return folder


def is_plain(text):
    return not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


@pytest.mark.processes
@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]], ids=str)
def test_predictions_of_a_hostile_run_are_text(hostile, form):
    # From the folder itself, so that a path can begin with a formula.
    words = ["predict", "run", *FILES, f"broken{ESCAPE}.png", *form, "--top", "10"]
    words += ["--gallery", "page.html"]
    done = vit_process(*words, cwd=hostile, start=AS_INSTALLED)
    assert done.returncode == 3, done.stderr  # of the broken one
    assert "Traceback" not in done.stderr
    assert is_plain(done.stdout)
    assert is_plain(done.stderr)
    if form == ["--json"]:
        rows = list(map(json.loads, done.stdout.splitlines()))
        assert {top["class"] for row in rows for top in row["top"]} == set(CLASSES)
    if form == ["--csv"]:
        _, *rows = csv.reader(io.StringIO(done.stdout))
        assert len(rows) == len(FILES)
        for row in rows:
            assert not re.match("[=+@-]", row[0])
            assert not any(re.match("[=+@-]", cell) for cell in row[1::2])
            assert all(0 <= float(cell) <= 1 for cell in row[2::2])
    page = parse((hostile / "page.html").read_text(encoding="utf-8"))
    assert not page.find("script")
    assert not [i for i in page.find("img") if not i.attributes["src"].startswith("data:image/")]
    assert all(not name.startswith("on") for i in page.find("img") for name in i.attributes)


@pytest.mark.processes
def test_the_evaluation_of_a_hostile_run_is_text(hostile):
    words = ["evaluate", "run", "--details", "--html", "evaluation.html"]
    done = vit_process(*words, cwd=hostile, start=AS_INSTALLED)
    assert "Traceback" not in done.stderr
    assert is_plain(done.stdout + done.stderr)
    done = vit_process("report", "run", cwd=hostile, start=AS_INSTALLED)
    assert "Traceback" not in done.stderr
    assert is_plain(done.stdout + done.stderr)
    for file in hostile.glob("**/*.html"):
        page = parse(file.read_text(encoding="utf-8"))
        assert not page.find("script")
        assert not [i for i in page.find("img") if not i.attributes["src"].startswith("data:")]
