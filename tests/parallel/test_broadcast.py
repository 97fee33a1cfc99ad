"""The multi_worker runtime gives every process the chief's variables, bit for bit."""

import json
import math
import re

import numpy as np
import pytest

from tests.parallel.launches import end

TWO_RANKS = "--hosts localhost --processes-per-node 2 --runtime multi_worker --"


@pytest.mark.parametrize("limit", [2**20, 400])
def test_all_variables_arrive_bit_for_bit_in_few_collectives(vit, limit):
    code, out, err = end(vit.start(TWO_RANKS, str(limit), script="broadcast_of_ranks.py"), 200)
    assert code == 0, err
    first, second = (json.loads(line) for line in re.findall(r"\{.*\}", out))
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
