"""The maximum size, in bytes, of files that are read as a whole.

A file may be unexpectedly large by mistake, through a link, or because it is sparse. A file that is
too large for its kind is rejected before any memory is allocated for it.
"""

from __future__ import annotations

LIST_BYTES = 2**30  # a list of images: 10 million lines of 100 bytes
NAMES_BYTES = 2**26  # class names, one per line
REPORT_BYTES = 2**28  # for one shard: names, labels and hashes of 4,096 examples take 1 MB
HOSTFILE_BYTES = 2**20
OUTCOME_BYTES = 2**20

_METADATA_BYTES = 2**26
_BYTES_PER_PIXEL = 8  # four channels of 16 bits, uncompressed


def image_bytes(max_pixels: int) -> int:
    """The limit for an image file: `max_pixels` uncompressed pixels plus 64 MiB of metadata.

    With the default of 100 million pixels, this is 867 MB.
    """
    return _METADATA_BYTES + _BYTES_PER_PIXEL * max_pixels
