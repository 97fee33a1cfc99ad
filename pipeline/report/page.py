"""Renders pages from the Jinja templates in templates/.

All text is escaped, because autoescape is on and no template uses the `safe` filter. A fact that a
template names and does not get is an error.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **facts: Any) -> str:
    """Renders one template as text.

    Args:
      template: File name in templates/.
      facts: The values that the template uses.

    Raises:
      jinja2.UndefinedError: The template uses a value that is missing.
    """
    return _environment().get_template(template).render(facts)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["grouped"] = _grouped
    return environment


def _percent(share: float) -> str:
    """A share in 0..1: 12.3%."""
    return f"{share:.1%}"


def _grouped(count: int) -> str:
    """A whole number with separators: 12,345."""
    return f"{count:,}"
