"""Every parser accepts or refuses its seeds and what fuzzing found, without another error."""

from pathlib import Path

import pytest

from tests.security import export_targets, targets
from tests.security.fuzz import ALL

TARGETS = targets.TARGETS | export_targets.TARGETS

FOUND = Path(__file__).parent / "found"


def test_each_target_can_be_named_to_the_fuzzer():
    assert set(ALL) == set(TARGETS)


@pytest.mark.parametrize("name", ALL)
def test_seeds_and_their_beginnings_are_accepted_or_refused_with_a_message(name):
    for seed in TARGETS[name].seeds():
        for content in (seed, seed[: len(seed) // 2], seed[1:], b""):
            TARGETS[name].run(content)


@pytest.mark.parametrize(
    "file", sorted(FOUND.glob("*/*")), ids=lambda f: f"{f.parent.name}/{f.name}"
)
def test_what_fuzzing_found_is_refused_with_a_message(file):
    TARGETS[file.parent.name].run(file.read_bytes())
