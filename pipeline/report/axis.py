"""Positions and labels of the ticks of an axis."""

from __future__ import annotations

import math


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Returns round numbers between `low` and `high`, 1, 2 or 5 times a power of ten apart.

    Args:
      low: Lower end of the axis.
      high: Upper end, greater than `low`.
      most: Maximum number of ticks; there may be one more.
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 5, 10) if power * f >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Each tick is computed from its integer. Adding steps would give 0.30000000000000004.
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def span(values: list[float], from_zero: bool) -> tuple[float, float]:
    """Returns the ends of an axis that contains all values. They differ even if the values do not.

    Args:
      values: At least one.
      from_zero: Whether the axis starts at zero.
    """
    low, high = min(values), max(values)
    if from_zero:
        low = min(low, 0.0)
    if high - low < 1e-12 * max(abs(high), abs(low), 1e-12):
        margin = abs(high) / 2 or 0.5
        return low - (0 if from_zero else margin), high + margin
    # The margin keeps the curve off the edge.
    margin = 0.04 * (high - low)
    return low if from_zero else low - margin, high + margin


def number(value: float, step: float | None = None) -> str:
    """Formats a number in few characters: 1,500 or 0.25 or 3.2e-7.

    Args:
      value: The number.
      step: Distance between ticks, which determines the number of decimals.
    """
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    if step is None:
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def percent(value: float, step: float | None = None) -> str:
    """Formats a share as a percentage, with the decimals that the distance of the ticks needs."""
    if step is None:
        return f"{value:.2%}"
    return f"{value:.{max(0, -math.floor(math.log10(step * 100) + 1e-9))}%}"
