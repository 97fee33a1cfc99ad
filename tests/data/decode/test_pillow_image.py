"""What Pillow's errors mean."""

import io

import pytest
from PIL import Image

from pipeline.data.decode.pillow_image import read_image
from pipeline.data.decode.unreadable import UnreadableError


def png():
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    return stream.getvalue()


def test_too_little_memory_does_not_make_an_image_unreadable(monkeypatch):
    # A run that passes over unreadable images would train on fewer of them.
    def load(image):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", load)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(MemoryError):
        read_image(png(), 10**6)


@pytest.mark.parametrize("error", [ValueError("x"), SyntaxError("x"), OSError("x")])
def test_other_errors_of_a_reader_make_it_unreadable(monkeypatch, error):
    def load(image):
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(UnreadableError, match="x"):
        read_image(png(), 10**6)
