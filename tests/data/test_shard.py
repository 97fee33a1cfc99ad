"""Which examples a process has: each of the global batch once, on any number of workers."""

import pytest
import tensorflow as tf

from pipeline.data.shard import Shard, first_piece
from pipeline.errors import SettingsError


def positions(shard, step, batch_size):
    """Positions of each element of a step, and how many pieces each replica must compute."""
    per_step = shard.splits * shard.turns
    numbers = (tf.constant(step * per_step + number, tf.int64) for number in range(per_step))
    first = [int(shard.first_position(number, batch_size)) for number in numbers]
    size = shard.piece_size(batch_size)
    return [list(range(position, position + size)) for position in first]


@pytest.mark.parametrize(("microbatches", "replicas"), [(8, 1), (8, 3), (8, 8), (12, 5), (1, 1)])
def test_each_position_of_a_step_is_computed_once(microbatches, replicas):
    batch_size, step, seen = 24, 7, []
    for index in range(replicas):
        shard = Shard(index, replicas, 1, microbatches)
        first, end = (first_piece(r, microbatches, replicas) for r in (index, index + 1))
        elements = positions(shard, step, batch_size)
        assert end - first in (len(elements), len(elements) - 1)
        seen += [p for element in elements[: end - first] for p in element]
    assert seen == list(range(step * batch_size, (step + 1) * batch_size))


def test_replicas_of_a_process_follow_each_other():
    one, other = Shard(0, 2, 2, 8), Shard(1, 2, 2, 8)
    found = [positions(shard, 0, 8) for shard in (one, other)]
    assert found == [[[0], [1], [2], [3]], [[4], [5], [6], [7]]]


def test_without_microbatches_each_replica_has_an_equal_piece():
    found = [positions(Shard(index, 2, 2), 1, 8) for index in range(2)]
    assert found == [[[8, 9], [10, 11]], [[12, 13], [14, 15]]]


def test_an_element_without_a_microbatch_of_its_own_is_within_the_step():
    elements = positions(Shard(1, 2, 1, 3), 0, 6)  # microbatches 1 and 2 of 3
    assert elements == [[2, 3], [4, 5]]
    assert positions(Shard(0, 2, 1, 3), 0, 6) == [[0, 1], [2, 3]]  # the second is not its own


@pytest.mark.parametrize("fields", [(2, 2), (-1, 1), (0, 0), (0, 1, 0), (0, 3, 1, 2)])
def test_a_shard_that_does_not_exist_is_refused(fields):
    with pytest.raises(ValueError, match=r"index|microbatch"):
        Shard(*fields)


def test_a_batch_that_cannot_be_divided_into_microbatches_is_refused():
    with pytest.raises(SettingsError, match=r"=10 .* over 4 microbatches. Set it to 8 or 12$"):
        Shard(0, 1, 1, 4).piece_size(10)
