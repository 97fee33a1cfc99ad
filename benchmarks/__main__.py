"""Runs `python -m benchmarks WHAT ...`."""

from benchmarks.command import main
from jobs.cli import run_process

run_process(command=main)
