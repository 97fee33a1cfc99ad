"""A page of images with the predictions of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.report.example_images import Picture, picture
from pipeline.report.page import render
from pipeline.training.predictions import Pixels


class Shown(NamedTuple):
    """An image and its prediction.

    Attributes:
      name: Of the file.
      pixels: uint8 [h, w, 3]; None if the image could not be read.
      top: Class names and probabilities, the most probable first.
      problem: Why the image could not be read.
    """

    name: str
    pixels: Pixels | None
    top: Sequence[tuple[str, float]]
    problem: str | None = None


@dataclass(frozen=True)
class GalleryEntry:
    """An entry of the page. Its encoded picture is much smaller than the pixels.

    Attributes:
      name: Of the file, without folders.
      path: Of the file.
      picture: None if the image could not be read.
      top: Class names and probabilities, the most probable first.
      problem: Why the image could not be read.
    """

    name: str
    path: str
    picture: Picture | None
    top: Sequence[tuple[str, float]]
    problem: str | None


def gallery_page(title: str, about: str, entries: Sequence[GalleryEntry]) -> str:
    """Renders the images in their order as one HTML document.

    Args:
      title: Of the page.
      about: A sentence below the title.
      entries: From `gallery_entry`.
    """
    return render("gallery.html", title=title, about=about, entries=entries)


def gallery_entry(image: Shown) -> GalleryEntry:
    """Encodes an image for the page, so that its pixels need not stay in memory."""
    shown = None
    if image.pixels is not None:
        name, probability = image.top[0]
        shown = picture(image.pixels, f"{image.name}: {name} with {probability:.1%}")
    short = image.name.rsplit("/", 1)[-1]
    return GalleryEntry(short, image.name, shown, image.top, image.problem)
