"""Checkpoints with checksums, each either complete or absent.

snapshot.py    the state of a run as host arrays
store.py       the folder of checkpoints: write, verify, list, delete
background.py  a thread that writes checkpoints while training continues
"""
