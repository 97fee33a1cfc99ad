"""Files of formats that are not read, under the names of images."""

import ast
import io
import os
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from pipeline.config import DataConfig
from pipeline.data.decode.unreadable import UnreadableError
from pipeline.data.encode import encode_image
from pipeline.data.images import bad_images_named, load_image
from pipeline.errors import DataError
from tests.data.decode.test_decoders import batch_reader, read_batch

ROOT = Path(__file__).parents[3]
CONFIG = DataConfig(source="image_folder", image_size=8)


def saved(form, mode="RGB"):
    stream = io.BytesIO()
    Image.new(mode, (64, 64)).save(stream, form)
    return stream.getvalue()


def photoshop():
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 4, 4, 8, 3)
    return head + bytes(12) + bytes(2 + 48)


def fits():
    cards = ["SIMPLE  =                    T", "BITPIX  =                    8"]
    cards += ["NAXIS   =                    2", "NAXIS1  =                    4"]
    cards += ["NAXIS2  =                    4", "END"]
    return "".join(card.ljust(80) for card in cards).encode().ljust(2880) + bytes(2880)


def hdf5():
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["image"] = np.zeros((4, 4, 3), np.uint8)
    return stream.getvalue()


def metafile():
    placeable = struct.pack("<IHhhhhHIH", 0x9AC6CDD7, 0, 0, 0, 9, 9, 96, 0, 0)
    return placeable + struct.pack("<HHHIHIH", 1, 9, 0x300, 12, 0, 3, 0) + struct.pack("<IH", 3, 0)


# Each name and content is a file that Pillow, or another program, takes for an image.
FILES = {
    "EPS": lambda: saved("EPS"),
    "PDF": lambda: saved("PDF"),
    "PSD": photoshop,
    "FITS": fits,
    "HDF5": hdf5,
    "WMF": metafile,
    "EMF": lambda: struct.pack("<II8i", 1, 88, *range(8)) + b" EMF" + bytes(44),
    "GRIB": lambda: b"GRIB" + bytes(3) + b"\1" + bytes(40),
    "BUFR": lambda: b"BUFR" + bytes(3) + b"\4" + bytes(40),
    "FPX and MIC": lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504),
    "ICNS": lambda: saved("ICNS"),
    "ICO": lambda: saved("ICO"),
    "CUR": lambda: b"\0\0\2\0\1\0" + bytes(60),
    "DDS": lambda: saved("DDS"),
    "PPM": lambda: saved("PPM"),
    "PCX": lambda: saved("PCX"),
    "SGI": lambda: saved("SGI"),
    "XBM": lambda: saved("XBM", "1"),
    "SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "HEIC": lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "JPEG XL": lambda: b"\xff\x0a\0\0",
    "DICOM": lambda: bytes(128) + b"DICM",
    "MP4": lambda: b"\0\0\0\x18ftypisom\0\0\0\0mp42isom",
    "ZIP": lambda: b"PK\3\4" + bytes(26),
}


@pytest.fixture(scope="module")
def cat(tmp_path_factory):
    """A file to be written, and a function that reads it as training does, all by one graph."""
    path = tmp_path_factory.mktemp("cat") / "cat.jpg"
    return path, batch_reader([path], CONFIG)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_format_is_refused_by_name(cat, name):
    content = FILES[name]()
    path, read = cat
    path.write_bytes(content)
    message = rf"{name}.*, which is not supported\. Convert it to one of JPEG, PNG, GIF"
    with pytest.raises(DataError, match=rf"image cat\.jpg: it is an? .*{message}"):
        load_image(content, "cat.jpg", CONFIG)
    with pytest.raises(UnreadableError, match=message):
        encode_image(content, 10**6)
    with pytest.raises(DataError, match=message), bad_images_named():
        read()


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A `gs` that leaves a file, which says that it was started."""
    marker, folder = tmp_path / "gs was started", tmp_path / "bin"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\n: > '{marker}'\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    return marker


@pytest.mark.processes
def test_postscript_named_as_a_photograph_starts_no_program(tmp_path, ghostscript):
    content = FILES["EPS"]()
    (tmp_path / "cat.jpg").write_bytes(content)
    for read in (
        lambda: load_image(content, "cat.jpg", CONFIG),
        lambda: encode_image(content, 10**6),
        lambda: read_batch([tmp_path / "cat.jpg"], CONFIG),
    ):
        with pytest.raises((DataError, UnreadableError)), bad_images_named():
            read()
    assert not ghostscript.exists()
    # Pillow without a list of formats does start it, so that the test can fail.
    with Image.open(tmp_path / "cat.jpg") as image, pytest.raises(OSError):  # noqa: PT011
        image.load()
    assert ghostscript.exists()


@pytest.mark.parametrize("folder", ["pipeline", "jobs"])
def test_pillow_opens_no_file_without_a_list_of_formats(folder):
    found = []
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name.endswith(("Image.open", "ImageFile.Parser", "ImageShow.show", "load_img")):
                if not any(keyword.arg == "formats" for keyword in node.keywords):
                    found.append(f"{path}:{node.lineno}")
            # TensorFlow's readers of any format would decode what Pillow must be asked about.
            elif name.endswith(("decode_image", "decode_gif", "decode_bmp")) and (
                name.startswith("tf.")
            ):
                found.append(f"{path}:{node.lineno}")
    assert not found
