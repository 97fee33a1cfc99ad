"""Threads that stand for processes, for tests of what all processes do together."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

from pipeline.runtimes.single import SingleRuntime

# For a machine that does much else; a collective that takes longer has lost a rank.
_LIMIT_S = 120


class Rank(SingleRuntime):
    """One of several threads that stand for processes; a collective without the others fails."""

    def __init__(self, rank, world_size, meeting, table):
        super().__init__("CPU:0")
        self.rank, self.world_size = rank, world_size
        self._meeting, self._table = meeting, table

    def all_gather(self, value):
        self._table[self.rank] = json.dumps(value)
        self._meeting.wait(_LIMIT_S)
        gathered = [json.loads(text) for text in self._table]
        self._meeting.wait(_LIMIT_S)
        return gathered


def on_ranks(function, world_size=3):
    """What `function` of a runtime returns or raises on each rank."""
    meeting, table = threading.Barrier(world_size), [None] * world_size

    def run(rank):
        try:
            return function(Rank(rank, world_size, meeting, table))
        except Exception as error:
            return error

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(run, range(world_size)))
