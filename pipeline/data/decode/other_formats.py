"""Recognizes unsupported formats. Importing this module does not import TensorFlow.

References:
  The signatures come from the specifications of the formats, as listed in Pillow's plug-ins and
  libmagic.
"""

from __future__ import annotations

# Offset of the signature, signature, name.
_SIGNATURES = (
    (0, b"%!PS", "an EPS or PostScript file"),
    (0, b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (0, b"%PDF", "a PDF file"),
    (0, b"8BPS", "a Photoshop file (PSD)"),
    (0, b"<svg", "an SVG file"),
    (0, b"<?xml", "an XML or SVG file"),
    (0, b"\xff\x0a", "a JPEG XL file"),
    (4, b"JXL ", "a JPEG XL file"),
    (4, b"ftyphei", "a HEIC file"),
    (4, b"ftyphev", "a HEIC file"),
    (4, b"ftypmif1", "a HEIF file"),
    (4, b"ftypisom", "a video (MP4)"),
    (4, b"ftypmp4", "a video (MP4)"),
    (4, b"ftypqt  ", "a video (QuickTime)"),
    (0, b"\0\0\1\xba", "a video (MPEG)"),
    (0, b"\0\0\1\xb3", "a video (MPEG)"),
    (128, b"DICM", "a DICOM file"),
    (0, b"\0\0\1\0", "an icon (ICO)"),
    (0, b"\0\0\2\0", "a cursor (CUR)"),
    (0, b"icns", "an icon of macOS (ICNS)"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (0, b"SIMPLE  =", "a FITS file"),
    (0, b"GRIB", "a GRIB file"),
    (0, b"BUFR", "a BUFR file"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
    (40, b" EMF", "a Windows metafile (EMF)"),
    # FlashPix and Microsoft Image Composer are OLE files, like old Office documents.
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an OLE file, such as FPX and MIC"),
    (0, b"DDS ", "a DDS file"),
    (0, b"qoif", "a QOI file"),
    (0, b"\x0a\x05\x01", "a PCX file"),
    (0, b"/* XPM */", "an XPM file"),
    (0, b"#define ", "an XBM file"),
    (0, b"\x01\xda", "an SGI file"),
    (0, b"\x59\xa6\x6a\x95", "a Sun raster file"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"<!DOCTYPE", "a web page (HTML)"),
    (0, b"<html", "a web page (HTML)"),
    *((0, b"P%d" % kind + blank, "a PPM, PGM or PBM file")
      for kind in range(1, 7) for blank in (b"\n", b" ", b"\r\n", b"\t")),
)  # fmt: skip


def other_format(content: bytes) -> str | None:
    """Returns the format of an unsupported file, such as "an EPS file"; None if unknown."""
    return next(
        (name for place, mark, name in _SIGNATURES if content.startswith(mark, place)), None
    )
