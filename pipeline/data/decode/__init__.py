"""Decodes images.

There are three decoders. The bytes of a file determine which one is used:

- simplejpeg decodes JPEGs with one or three components, 8 bits and Huffman coding.
- TensorFlow decodes all PNGs, and those of these JPEGs for which simplejpeg reports a problem.
- Pillow decodes everything else: JPEGs with four components (CMYK), GIF, WebP, TIFF, BMP, AVIF and
  JPEG 2000.

If TensorFlow cannot decode one of its JPEGs or PNGs, the image is damaged. Pillow then provides the
reason, but its pixels are not used.

jpeg.py          decodes and resizes JPEGs in threads
header.py        reads size, orientation and decoder of a batch from the first bytes
orientation.py   the eight EXIF orientations; turns one image upright
upright.py       crop boxes in stored images; turns batches upright
pillow_image.py  decodes images with Pillow to 8-bit RGB
other_formats.py recognizes unsupported formats
gray_levels.py   converts pixels with more than 8 bits to 8 bits
integrity.py     checks that a JPEG or a PNG is complete
damage.py        finds the images of a batch that are damaged or too large
problems.py      records images that are damaged
try_each.py      applies a function to each element of a batch and tolerates errors
unreadable.py    the exception for an image that cannot be read
"""
