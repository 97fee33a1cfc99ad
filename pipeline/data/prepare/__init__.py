"""Writes a data set as shards, and verifies a prepared set.

prepare.py       divides a data set into shards and writes them with several processes
shard_file.py    writes one shard and its report
set_facts.py     combines the reports into dataset.json and the lists for the user
shard_writers.py writes records or pixels
verify.py        reads every record of a prepared set and decodes every image
summary.py       describes a prepared set, and what is wrong with it
"""
