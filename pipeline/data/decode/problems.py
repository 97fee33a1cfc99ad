"""Images that are damaged: which were left out, and which were looked at to their end."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from pipeline.data.split import Split

# What is known of an image's bytes.
UNKNOWN, WHOLE, DAMAGED = 0, 1, 2


class SkippedImages:
    """The images that were left out or repaired, each once, whichever thread found it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reasons: dict[str, str] = {}
        self._repaired: dict[str, str] = {}
        self._states: dict[int, tuple[Split, npt.NDArray[np.uint8]]] = {}

    def add(self, name: str, reason: str) -> None:
        with self._lock:
            self._reasons.setdefault(name, reason)

    def add_repaired(self, name: str, warning: str) -> None:
        """Notes an image whose data libjpeg repaired; it is used."""
        with self._lock:
            self._repaired.setdefault(name, warning)

    @property
    def count(self) -> int:
        return len(self._reasons)

    @property
    def paths(self) -> tuple[str, ...]:
        """Their names, sorted."""
        with self._lock:
            return tuple(sorted(self._reasons))

    @property
    def reasons(self) -> dict[str, str]:
        """What was wrong with each."""
        with self._lock:
            return dict(self._reasons)

    @property
    def repaired(self) -> dict[str, str]:
        """libjpeg's warning of each image that it repaired."""
        with self._lock:
            return dict(self._repaired)

    def states(self, split: Split) -> npt.NDArray[np.uint8]:
        """What this process knows of each image of a split, uint8 [N]: UNKNOWN, WHOLE or DAMAGED.

        The array is shared by all iterators over the split, and whoever examines an image writes
        into it.
        """
        with self._lock:
            entry = self._states.get(id(split))
            if entry is None:
                entry = split, np.full(split.num_examples, UNKNOWN, np.uint8)
                self._states[id(split)] = entry
            return entry[1]
