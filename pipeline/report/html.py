"""HTML and SVG made of elements: what is not made here is escaped, and cannot be forgotten."""

from __future__ import annotations

from html import escape

_EMPTY = frozenset({"meta", "img", "line", "path", "circle", "rect"})


class Html(str):
    """Text that is markup already. Only this module and constants of the program make it."""

    __slots__ = ()


Content = str | int | None  # None is left out


def element(tag: str, *content: Content, **attributes: str | float | bool | None) -> Html:
    """One element.

    Args:
      tag: Its name.
      content: In order; a str that is not Html is escaped.
      attributes: An underscore is written as a hyphen, and one at the end is dropped (`class_`).
        None and False are left out, True has no value.
    """
    opened = f"<{tag}{''.join(_attribute(name, value) for name, value in attributes.items())}>"
    if tag in _EMPTY:
        # In SVG they must be closed, in HTML the slash is allowed.
        return Html(f"{opened[:-1]}/>")
    return Html(f"{opened}{join(*content)}</{tag}>")


def join(*content: Content) -> Html:
    """The pieces behind one another, each escaped where it is not Html."""
    return Html("".join(_text(piece) for piece in content if piece is not None))


def table(
    head: tuple[Content, ...],
    rows: list[tuple[Content, ...]],
    caption: str | None = None,
    class_: str | None = None,
) -> Html:
    """A table whose rows begin with what they are called; it scrolls on its own where it is wide.

    Args:
      head: Names of the columns.
      rows: As many cells each.
      caption: What it shows; above it, so that it does not scroll away.
      class_: Of the table.
    """
    named = element("tr", *(element("th", cell, scope="col") for cell in head))
    body = [
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest))
        for first, *rest in rows
    ]
    return scrolling_table(element("thead", named), element("tbody", *body), caption, class_)


def scrolling_table(head: Html, body: Html, caption: str | None, class_: str | None) -> Html:
    """The table of a <thead> and a <tbody>, as `table` shows it."""
    whole = element("table", head, body, class_=class_, aria_label=caption)
    return join(
        element("p", caption, class_="soft") if caption else None,
        # Reached by the keyboard too, since it may have to be scrolled.
        element("div", whole, class_="wide", tabindex="0"),
    )


def details(summary: str, *content: Content) -> Html:
    """What is folded away until it is asked for."""
    return element("details", element("summary", summary), *content)


def _text(piece: str | int) -> str:
    return piece if isinstance(piece, Html) else escape(str(piece))


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
