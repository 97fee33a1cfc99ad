"""Compiles functions to native code with numba, which is slow to import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(signature: Any) -> Callable[[Any], Any]:
    """Compiles a function when its module is imported, or takes its code from numba's cache.

    The function runs without the interpreter lock. Products and sums are rounded separately, as in
    TensorFlow.

    Args:
      signature: numba's signature of the function.
    """

    def compile_(function: Any) -> Any:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        try:
            return numba.njit(signature, cache=True, **options)(function)
        except RuntimeError:  # neither this folder nor the user's cache can be written
            return numba.njit(signature, **options)(function)

    return compile_
