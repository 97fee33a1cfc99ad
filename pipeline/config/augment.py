"""The `data.augment` section."""

from __future__ import annotations

from pipeline.config.section import Section, setting
from pipeline.config.value_parser import PluginName


class AugmentConfig(Section):
    """Random changes to training images. The random numbers depend on (seed, epoch, example)."""

    resized_crop_min_area: float | None = setting(
        None,
        "Crop a random box and resize it. The box covers at least this fraction of the image and "
        "has an aspect ratio between 3/4 and 4/3. ImageNet recipes use 0.08. null: use the same "
        "crop as evaluation.",
        gt=0,
        le=1,
    )
    flip: bool = setting(False, "Flip images horizontally with probability 0.5.")
    crop_padding: int = setting(
        0, "Pad each side by this many pixels, then crop at a random position.", ge=0, le=4096
    )
    rotation: float = setting(
        0.0, "Rotate by a random angle, up to this fraction of a full turn.", ge=0, le=0.5
    )
    zoom: float = setting(
        0.0, "Zoom height and width in or out at random, each by up to this fraction.", ge=0, lt=1
    )
    rand_augment_layers: int = setting(
        0, "Number of RandAugment operations per image (N). 0: off.", ge=0, le=16
    )
    rand_augment_magnitude: float = setting(
        9.0, "Magnitude of the RandAugment operations (M).", ge=0, le=10
    )
    three_augment: bool = setting(
        False, "Apply 3-Augment (DeiT III): one of grayscale, solarize or Gaussian blur."
    )
    color_jitter: float = setting(
        0.0,
        "Change brightness, contrast and saturation at random, each by up to this fraction.",
        ge=0,
        le=1,
    )
    erasing: float = setting(0.0, "Probability of erasing a random rectangle.", ge=0, le=1)
    extra: tuple[PluginName, ...] = setting(
        (),
        "Augmentation functions of your own, each as module:function. They are applied after the "
        "others and before normalization.",
    )
