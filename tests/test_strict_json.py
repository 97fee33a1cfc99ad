"""What is written is JSON for every reader, also where numbers are not finite."""

import ast
import json
import math
from pathlib import Path

import pytest

from pipeline.strict_json import from_json, to_json

ROOT = Path(__file__).parent.parent
# They exchange values between processes of one job, compute a digest, or pass a setting on, where
# NaN must remain NaN to be refused.
OTHERS = (
    "pipeline/strict_json.py",
    "pipeline/api/settings.py",
    "pipeline/runtimes/",
    "pipeline/launch/",
    "k8s/render.py",
)


def refuse(name):
    raise AssertionError(f"{name} is no JSON")


def test_numbers_that_are_not_finite_become_null():
    value = {"loss": math.nan, "list": [1.5, -math.inf, (math.inf, "NaN")], "n": 3, "none": None}
    read = json.loads(to_json(value), parse_constant=refuse)
    assert read == {"loss": None, "list": [1.5, None, [None, "NaN"]], "n": 3, "none": None}


def test_what_earlier_versions_wrote_is_read():
    assert from_json('{"loss": NaN, "best": [-Infinity, 0.5]}') == {
        "loss": None,
        "best": [None, 0.5],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 50_000, "nested too deeply"),
        ('{"a":' * 50_000, "nested too deeply"),
        ("9" * 10_000, "4300 digits"),
        ("{", "double quotes"),
        (b"\xff\xfe\xff", "decode"),
    ],
)
def test_whatever_is_wrong_is_a_value_error(text, message):
    with pytest.raises(ValueError, match=message):
        from_json(text)


@pytest.mark.parametrize("folder", ["pipeline", "k8s", "jobs"])
def test_nothing_else_writes_json(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if name.startswith(OTHERS):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("dump", "dumps"):
                owner = node.value
                assert not (isinstance(owner, ast.Name) and owner.id == "json"), f"{name}: to_json"
