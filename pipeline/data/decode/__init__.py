"""Encoded images to pixels.

Two decoders share the work, and the file's own bytes say which one reads it:

- TensorFlow reads every PNG, and JPEGs of one or three components, 8 bits and Huffman coding.
- Pillow reads everything else: JPEGs of four components (CMYK), GIF, WebP, TIFF, BMP, AVIF,
  JPEG 2000.

A JPEG or PNG that TensorFlow should read and cannot decode is damaged. Pillow then says why, but
its pixels are not used.

header.py        size, orientation and decoder of a batch, read from the first bytes
orientation.py   the eight EXIF orientations, and one image turned upright
upright.py       boxes in the stored frame, and batches turned upright
pillow_image.py  what Pillow reads, as RGB of 8 bits
other_formats.py names of formats that are not read
gray_levels.py   pixels of more than 8 bits, as 8 bits
integrity.py     whether a JPEG or a PNG is whole
damage.py        which images of a batch are damaged or too large
problems.py      what is known of images that are damaged
try_each.py      a function of each element of a batch, where some fail
unreadable.py    the error for an image that cannot be read
"""
