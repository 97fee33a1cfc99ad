"""Where examples come from: data sets in memory, files, and records of shards."""
