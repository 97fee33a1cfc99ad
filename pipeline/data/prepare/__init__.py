"""A data set written as shards, and a prepared set verified."""
