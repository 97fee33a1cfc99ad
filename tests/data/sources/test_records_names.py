"""dataset.json of a prepared set names files of its own folder only."""

import os

import pytest
from pydantic import ValidationError

from pipeline.data.sources.records import ArrayRecordShard, ShardFacts
from pipeline.errors import DataError


@pytest.mark.parametrize("file", ["/etc/passwd", "../a", "a/../../b", "..", ".", "", "a\0b", "a/b"])
def test_a_shard_is_a_file_of_the_set(file):
    facts = {"examples": 1, "size": 1, "sha256": "0", "inputs": "0"}
    assert ShardFacts(file="train-00000-of-00001.arrayrecord", **facts)
    with pytest.raises(ValidationError, match="file"):
        ShardFacts(file=file, **facts)


@pytest.mark.timeout(60)
def test_a_fifo_in_the_place_of_a_shard_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "shard")
    with pytest.raises(DataError, match="a FIFO, not a regular file"):
        ArrayRecordShard(str(tmp_path / "shard"))
