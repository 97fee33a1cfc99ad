"""A page of images with what a model says of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.report.example_images import picture
from pipeline.report.html import Html, element, join
from pipeline.report.run_page import document
from pipeline.training.predictions import Pixels


class Shown(NamedTuple):
    """One image of a gallery.

    Attributes:
      name: Of its file.
      pixels: uint8 [h, w, 3]; None where it could not be read.
      top: Class names and probabilities, the likeliest first.
      problem: Why it could not be read.
    """

    name: str
    pixels: Pixels | None
    top: Sequence[tuple[str, float]]
    problem: str | None = None


def gallery_page(title: str, about: str, entries: Sequence[Html]) -> Html:
    """The images in their order, as one HTML document that needs nothing from anywhere else.

    Args:
      title: Of the page.
      about: A sentence below it.
      entries: Of `gallery_entry`, which take less room than the pixels of thousands of images.
    """
    return document(
        title,
        element("h1", title),
        element("p", about, class_="soft"),
        element("ul", *entries, class_="pictures large"),
    )


def gallery_entry(image: Shown) -> Html:
    """One image with its classes, or why it could not be read."""
    short = element("div", image.name.rsplit("/", 1)[-1], class_="soft", title=image.name)
    if image.pixels is None:
        return element("li", short, element("div", image.problem, class_="warn"))
    name, probability = image.top[0]
    shown = picture(image.pixels, f"{image.name}: {name} with {probability:.1%}")
    return element("li", shown, short, *(_bar(*one) for one in image.top))


def _bar(name: str, probability: float) -> Html:
    filled = element("i", style=f"width:{probability:.1%}")
    bar = element("span", filled, class_="bar", aria_hidden="true")
    return element("div", bar, join(" ", f"{probability:.1%} ", element("strong", name)))
