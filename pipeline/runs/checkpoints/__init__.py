"""Checkpoints: complete or absent, with checksums.

snapshot.py    the state of a run as host arrays
store.py       the folder of checkpoints: write, verify, list, delete
background.py  a thread that writes while training continues
"""
