"""dataset.json of a prepared set names files of its own folder only."""

import pytest
from pydantic import ValidationError

from pipeline.data.sources.records import ShardFacts


@pytest.mark.parametrize("file", ["/etc/passwd", "../a", "a/../../b", "..", ".", "", "a\0b", "a/b"])
def test_a_shard_is_a_file_of_the_set(file):
    facts = {"examples": 1, "size": 1, "sha256": "0", "inputs": "0"}
    assert ShardFacts(file="train-00000-of-00001.arrayrecord", **facts)
    with pytest.raises(ValidationError, match="file"):
        ShardFacts(file=file, **facts)
