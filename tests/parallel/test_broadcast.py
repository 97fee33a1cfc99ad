"""The multi_worker runtime gives every process the chief's variables, bit for bit."""

import json
import math
import re

import numpy as np
import pytest

from tests.parallel.launches import Launches, end

pytestmark = pytest.mark.processes

LIMITS = (2**20, 400)
TWO_RANKS = "--hosts localhost --processes-per-node 2 --runtime multi_worker --"


@pytest.fixture(scope="module")
def printed():
    """What the two ranks print for each number of bytes."""
    launches = Launches()
    limits = map(str, LIMITS)
    code, out, err = end(launches.start(TWO_RANKS, *limits, script="broadcast_of_ranks.py"), 200)
    launches.clean_up()
    assert code == 0, err
    return [json.loads(line) for line in re.findall(r"\{.*\}", out)]


@pytest.mark.parametrize("limit", LIMITS)
def test_all_variables_arrive_bit_for_bit_in_few_collectives(printed, limit):
    first, second = (row for row in printed if row["limit"] == limit)
    assert first == second
    bits = np.frombuffer(bytes.fromhex(first["special"]), np.float32)
    assert np.signbit(bits[0])
    assert bits[0] == 0
    assert bits[1] == np.inf
    assert bits.view(np.uint32)[2] == np.array([np.nan], np.float32).view(np.uint32)[0] + 5
    assert bits[3] > 0
    assert first["counter"] == 3
    # 54 variables: one collective if all fit, else at most twice what their bytes need.
    least = math.ceil(first["bytes"] / limit)
    assert least <= first["collectives"] <= max(1, 2 * least + 1)
    assert limit < 2**20 or first["collectives"] == 1
