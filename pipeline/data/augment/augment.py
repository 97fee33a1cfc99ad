"""Applies the augmentations of the recipe to whole batches of images."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from pipeline.config import AugmentConfig
from pipeline.data.augment import color
from pipeline.data.augment.batched_switch import batched_switch
from pipeline.data.augment.erase import erase
from pipeline.data.augment.rand_augment import rand_augment
from pipeline.data.order import uniforms

# The index of each random draw. Give a new augmentation a new index: reusing one would correlate
# two augmentations, and renumbering would change the results of existing recipes.
_DRAWS = range(11)
_FLIP, _CROP_TOP, _CROP_LEFT, _ANGLE, _ZOOM_HEIGHT, _ZOOM_WIDTH = _DRAWS[:6]
_BRIGHTNESS, _CONTRAST, _SATURATION, _ONE_OF_THREE, _BLUR = _DRAWS[6:]
_ERASE_DRAWS = range(11, 16)  # whether to erase, area, aspect, top, left

_BLUR_RADIUS = (0.1, 2.0)  # in pixels, as in DeiT III


def augment(
    images: tf.Tensor, config: AugmentConfig, seed: int, epoch: tf.Tensor, index: tf.Tensor
) -> tf.Tensor:
    """Applies all augmentations of the recipe, except erasing, which follows normalization.

    Args:
      images: uint8 [B, H, W, 3].
      config: Which augmentations to apply.
      seed: The run's seed.
      epoch: int64 [B].
      index: int64 [B], index of the example in its data set. Seed, epoch and index determine the
        random numbers.

    Returns:
      uint8 [B, H, W, 3], or float32 in 0..255 if images are rotated or zoomed.
    """
    drawn = tf.unstack(uniforms(seed, epoch, index, _DRAWS))
    if config.flip:
        images = flip(images, drawn[_FLIP] < 0.5)
    if config.crop_padding:
        images = crop(images, drawn[_CROP_TOP], drawn[_CROP_LEFT], config.crop_padding)
    if config.rand_augment_layers:
        images = rand_augment(
            images, config.rand_augment_layers, config.rand_augment_magnitude, seed, epoch, index
        )
    if config.three_augment:
        low, high = _BLUR_RADIUS
        choice = tf.cast(drawn[_ONE_OF_THREE] * 3.0, tf.int32)
        images = color.three_augment(images, choice, low + drawn[_BLUR] * (high - low))
    if config.color_jitter:
        factors = [
            1.0 + (2.0 * drawn[number] - 1.0) * config.color_jitter
            for number in (_BRIGHTNESS, _CONTRAST, _SATURATION)
        ]
        images = color.jitter(images, *factors)
    if config.rotation or config.zoom:
        images = rotate_and_zoom(
            images,
            angle=(2.0 * drawn[_ANGLE] - 1.0) * (2.0 * math.pi * config.rotation),
            height_zoom=1.0 + (2.0 * drawn[_ZOOM_HEIGHT] - 1.0) * config.zoom,
            width_zoom=1.0 + (2.0 * drawn[_ZOOM_WIDTH] - 1.0) * config.zoom,
        )
    return images


def erase_some(
    images: tf.Tensor, probability: float, seed: int, epoch: tf.Tensor, index: tf.Tensor
) -> tf.Tensor:
    """Erases a rectangle in some of the normalized images.

    Args:
      images: float32 [B, H, W, 3].
      probability: Probability of erasing per image.
      seed: The run's seed.
      epoch: int64 [B].
      index: int64 [B], index of the example in its data set.

    Returns:
      As `images`.
    """
    chosen, *places = tf.unstack(uniforms(seed, epoch, index, _ERASE_DRAWS))
    return erase(images, chosen < probability, *places)


def flip(images: tf.Tensor, flipped: tf.Tensor) -> tf.Tensor:
    """Flips the chosen images horizontally.

    Args:
      images: [B, H, W, C].
      flipped: bool [B].

    Returns:
      As `images`.
    """
    height, width, channels = images.shape[1:]

    def mirror(some: tf.Tensor) -> tf.Tensor:
        # TensorFlow reverses the second of three axes five times as fast as other axes.
        rows = tf.reverse(tf.reshape(some, [-1, width, channels]), axis=[1])
        return tf.reshape(rows, [-1, height, width, channels])

    return batched_switch(tf.cast(flipped, tf.int32), [lambda some: some, mirror], images)


def crop(images: tf.Tensor, top: tf.Tensor, left: tf.Tensor, padding: int) -> tf.Tensor:
    """Pads images with black and crops them at a random position.

    Args:
      images: [B, H, W, C].
      top: float32 [B] in [0, 1): top of the crop, from 0 to 2 * padding pixels.
      left: float32 [B] in [0, 1): left of the crop, likewise.
      padding: Pixels added on each side.

    Returns:
      As `images`.
    """
    height, width, channels = images.shape[1:]
    side = padding * channels
    padded = tf.pad(  # padding rows instead of pixels is four times as fast
        tf.reshape(images, [-1, height, width * channels]),
        [[0, 0], [padding, padding], [side, side]],
    )  # [B, H+2P, (W+2P)*C]
    places = 2 * padding + 1
    first_row = tf.cast(top * places, tf.int32)[:, tf.newaxis]  # [B, 1]
    tall = tf.gather(padded, first_row + tf.range(height), batch_dims=1)  # [B, H, (W+2P)*C]

    # Use one slice for all images with the same column; gathering pixels takes ten times as long.
    def cut(column: int) -> Callable[[tf.Tensor], tf.Tensor]:
        start = column * channels
        return lambda some: some[:, :, start : start + width * channels]

    first_column = tf.cast(left * places, tf.int32)
    cropped = batched_switch(first_column, [cut(column) for column in range(places)], tall)
    return tf.reshape(cropped, [-1, height, width, channels])


def rotate_and_zoom(
    images: tf.Tensor, angle: tf.Tensor, height_zoom: tf.Tensor, width_zoom: tf.Tensor
) -> tf.Tensor:
    """Rotates and then zooms about the center, with bilinear interpolation and reflected borders.

    Equals Keras's RandomRotation followed by RandomZoom, but resamples once instead of twice, which
    is faster and blurs less.

    Args:
      images: [B, H, W, C].
      angle: float32 [B], in radians, counter-clockwise.
      height_zoom: float32 [B], the visible fraction of the height; above 1 zooms out.
      width_zoom: float32 [B], likewise.

    Returns:
      float32 [B, H, W, C].
    """
    height, width = images.shape[1:3]
    center_x, center_y = (width - 1) / 2.0, (height - 1) / 2.0
    cos, sin = tf.cos(angle), tf.sin(angle)
    # The matrix maps a pixel of the result to a pixel of the image: zoom, then rotation.
    a0, a1 = cos * width_zoom, -sin * height_zoom
    b0, b1 = sin * width_zoom, cos * height_zoom
    a2 = center_x - a0 * center_x - a1 * center_y
    b2 = center_y - b0 * center_x - b1 * center_y
    zero = tf.zeros_like(angle)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=tf.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1),  # [B, 8]
        output_shape=[height, width],
        interpolation="BILINEAR",
        fill_mode="REFLECT",
        fill_value=0.0,
    )
