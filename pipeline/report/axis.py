"""Where the ticks of an axis are, and how their numbers are written."""

from __future__ import annotations

import math


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`.

    Args:
      low: Where the axis begins.
      high: Where it ends, above `low`.
      most: How many are wanted at most; there may be one more.
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 5, 10) if power * f >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # From the integer each time: adding up steps would end at 0.30000000000000004.
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def span(values: list[float], from_zero: bool) -> tuple[float, float]:
    """The ends of an axis that holds all `values`, a little apart where they are all the same."""
    low, high = min(values), max(values)
    if from_zero:
        low = min(low, 0.0)
    if high - low < 1e-12 * max(abs(high), abs(low), 1e-12):
        margin = abs(high) / 2 or 0.5
        return low - (0 if from_zero else margin), high + margin
    # So that a curve does not lie on the edge.
    margin = 0.04 * (high - low)
    return low if from_zero else low - margin, high + margin


def number(value: float, step: float | None = None) -> str:
    """A number in few characters: 1,500 or 0.25 or 3.2e-07.

    Args:
      value: It.
      step: Between ticks; it has no more decimals than tell one from the next.
    """
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    if step is None:
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def percent(value: float, step: float | None = None) -> str:
    """A share as percent, with decimals where ticks need them."""
    if step is None:
        return f"{value:.2%}"
    return f"{value:.{max(0, -math.floor(math.log10(step * 100) + 1e-9))}%}"
