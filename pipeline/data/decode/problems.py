"""Records damaged images, and which images have been checked for damage."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from pipeline.data.split import Split

# The state of an image.
UNKNOWN, WHOLE, DAMAGED = 0, 1, 2


class SkippedImages:
    """Records the images that were left out or repaired, each once. It is thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reasons: dict[str, str] = {}
        self._repaired: dict[str, str] = {}
        self._states: dict[int, tuple[Split, npt.NDArray[np.uint8]]] = {}

    def add(self, name: str, reason: str) -> None:
        with self._lock:
            self._reasons.setdefault(name, reason)

    def add_repaired(self, name: str, warning: str) -> None:
        """Records an image that libjpeg repaired and that is used."""
        with self._lock:
            self._repaired.setdefault(name, warning)

    @property
    def count(self) -> int:
        return len(self._reasons)

    @property
    def paths(self) -> tuple[str, ...]:
        """The names of the images that were left out, sorted."""
        with self._lock:
            return tuple(sorted(self._reasons))

    @property
    def reasons(self) -> dict[str, str]:
        """The reason for each image that was left out."""
        with self._lock:
            return dict(self._reasons)

    @property
    def repaired(self) -> dict[str, str]:
        """libjpeg's warning for each image that it repaired."""
        with self._lock:
            return dict(self._repaired)

    def states(self, split: Split) -> npt.NDArray[np.uint8]:
        """Returns the state of each image of a split, uint8 [N]: UNKNOWN, WHOLE or DAMAGED.

        All iterators over the split share the array and update it.
        """
        with self._lock:
            entry = self._states.get(id(split))
            if entry is None:
                entry = split, np.full(split.num_examples, UNKNOWN, np.uint8)
                self._states[id(split)] = entry
            return entry[1]
