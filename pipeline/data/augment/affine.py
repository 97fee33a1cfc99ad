"""Affine transformations of whole batches, with nearest-neighbour interpolation.

The published code of AutoAugment and RandAugment uses nearest-neighbour interpolation, which is
Pillow's default. So do torchvision and big_vision.
"""

from __future__ import annotations

import tensorflow as tf

# Pillow computes coordinates in units of 1/65,536 pixel. The same is done here, to get exactly the
# same pixels.
_FRACTION_BITS = 16


def resample(images: tf.Tensor, matrix: tf.Tensor, fill: int) -> tf.Tensor:
    """Equals Pillow's `Image.transform(size, AFFINE, matrix, NEAREST, fillcolor=(fill,) * C)`.

    Args:
      images: uint8 [n, H, W, C], H and W below 2**15.
      matrix: float64 [n, 6], a to f: the pixel (x, y) of the result is the pixel
        (a x + b y + c, d x + e y + f) of the image, in pixels from the top left corner.
      fill: Value of pixels from outside the image.

    Returns:
      As `images`.
    """
    height, width, channels = images.shape[1:]
    # Add a border of one pixel. All coordinates outside the image are clipped to it.
    framed = tf.pad(
        tf.reshape(images, [-1, height, width * channels]),  # padding rows is 4 times as fast
        [[0, 0], [1, 1], [channels, channels]],
        constant_values=fill,
    )  # [n, H+2, (W+2)*C]
    a, b, c, d, e, f = tf.unstack(matrix[:, :, tf.newaxis, tf.newaxis], axis=1)  # [n, 1, 1]
    column = tf.clip_by_value(_places(a, b, c, height, width), -1, width)
    row = tf.clip_by_value(_places(d, e, f, height, width), -1, height)
    image = tf.range(tf.shape(images)[0])[:, tf.newaxis, tf.newaxis]
    corner = image * ((height + 2) * (width + 2)) + (width + 3)  # first pixel inside the border
    return tf.gather(tf.reshape(framed, [-1, channels]), row * (width + 2) + column + corner)


def _places(
    along: tf.Tensor, across: tf.Tensor, start: tf.Tensor, height: int, width: int
) -> tf.Tensor:
    """Computes floor(along * x + across * y + start) at the center of each pixel.

    Args:
      along: float64 [n, 1, 1], like the next two.
      across: Coefficient of y.
      start: Constant term.
      height: H.
      width: W.

    Returns:
      int32 [n, H, W].
    """

    def fixed(value: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.floor(value * 2.0**_FRACTION_BITS + 0.5), tf.int32)

    x = fixed(along) * tf.range(width)  # [n, 1, W]
    y = fixed(across) * tf.range(height)[:, tf.newaxis]  # [n, H, 1]
    middle = fixed(start + along / 2.0 + across / 2.0)
    return tf.bitwise.right_shift(x + (y + middle), _FRACTION_BITS)
