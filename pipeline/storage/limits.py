"""How large files may be that are read as a whole, in bytes.

A link, a sparse file or a mistake may put anything under a file's name; what is larger than any
file of its kind is refused before memory is allocated for it.
"""

from __future__ import annotations

LIST_BYTES = 2**30  # a list of images: 10 million lines of 100 bytes
NAMES_BYTES = 2**26  # class names, a line each
REPORT_BYTES = 2**28  # of one shard: names, labels and hashes of 4,096 examples take 1 MB
HOSTFILE_BYTES = 2**20
OUTCOME_BYTES = 2**20

_METADATA_BYTES = 2**26
_BYTES_A_PIXEL = 8  # four channels of 16 bits, uncompressed


def image_bytes(max_pixels: int) -> int:
    """Of an image file: `data.max_pixels` without compression, and 64 MiB for all that is no pixel.

    With the default of 100 million pixels these are 867 MB.
    """
    return _METADATA_BYTES + _BYTES_A_PIXEL * max_pixels
