"""Writes data sets as shards, and verifies prepared data sets."""
