"""The `data` section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import PlainSerializer, ValidatorFunctionWrapHandler, WrapValidator

from pipeline.config.augment import AugmentConfig
from pipeline.config.section import Section, setting
from pipeline.config.value_parser import LocalPath
from pipeline.plugins import is_plugin

_SourceKind = Literal[
    "digits",
    "cifar10",
    "cifar100",
    "fashion_mnist",
    "image_folder",
    "list",
    "records",
    "tfrecord",
    "synthetic",
]


def _kind_or_plugin(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    return value if isinstance(value, str) and is_plugin(value) else validate(value)


# A kind of data set, or module:Class.
SourceName = Annotated[_SourceKind, WrapValidator(_kind_or_plugin), PlainSerializer(str)]


class DataConfig(Section):
    """Where the examples come from and how they are processed."""

    source: SourceName = setting(
        "digits",
        "Kind of data set. records: shards written by `vit prepare`. A class of your own is given "
        "as module:Class.",
    )
    path: LocalPath | None = setting(
        None, "Folder, archive or list file of the data set.", may_change=True
    )
    tfrecord_image_key: str = setting(
        "image/encoded", "Name of the TFRecord feature that holds the image."
    )
    tfrecord_label_key: str = setting(
        "image/class/label", "Name of the TFRecord feature that holds the label."
    )
    # May change: a run compares the labels themselves, and which label is class 0, with its record.
    first_label: Literal[0, 1] | None = setting(
        None,
        "Label of class 0 in TFRecord files. null: detect it from the files, and fail if it is "
        "ambiguous.",
        may_change=True,
    )
    index_path: LocalPath | None = setting(
        None,
        "Folder for the index of the TFRecord files. null: next to the files.",
        may_change=True,
    )
    allow_changes: bool = setting(
        False, "Resume a run even if the images of its data set have changed.", may_change=True
    )
    links_out: bool = setting(
        False,
        "Allow symbolic links, and paths in lists, that lead outside the data set's folder.",
        may_change=True,
    )
    image_size: int = setting(
        32, "Height and width of the model's input images, in pixels.", ge=1, le=4096
    )
    resize: Literal["none", "squash", "crop"] = setting(
        "squash",
        "How images are resized to data.image_size. none: they already have this size. squash: "
        "resize without keeping the aspect ratio. crop: crop the central square, then resize.",
    )
    crop_fraction: float = setting(
        1.0,
        "With data.resize=crop, the side of the central square as a fraction of the image's "
        "shorter side. 0.875 is 224 of 256.",
        gt=0,
        le=1,
    )
    antialias: bool = setting(
        True,
        "Apply an antialiasing filter when shrinking images, as Pillow does. false is faster but "
        "less accurate.",
    )
    max_pixels: int = setting(
        100_000_000,
        "Reject an image before decoding if its header declares more pixels than this.",
        ge=1,
        le=10**10,
    )
    global_batch_size: int = setting(
        256, "Number of examples per update, over all replicas.", ge=1, le=2**20
    )
    eval_batch_size: int | None = setting(
        None,
        "Number of examples per evaluation step, over all replicas. null: same as "
        "global_batch_size.",
        may_change=True,
        ge=1,
        le=2**20,
    )
    num_classes: int = setting(10, "Number of classes of the synthetic data.", ge=2, le=2**20)
    num_examples: int = setting(
        1024, "Number of training examples of the synthetic data.", ge=1, le=10**9
    )
    validation_fraction: float = setting(
        0.1,
        "Fraction of the training data to hold out for validation if the data set has no "
        "validation split.",
        gt=0,
        lt=1,
    )
    validation_split: Literal["hash", "last"] = setting(
        "hash",
        "Which examples to hold out. hash: chosen by a fixed hash of each example. last: the last "
        "ones.",
    )
    normalize: Literal["half", "imagenet", "dataset"] = setting(
        "half",
        "Mean and standard deviation for normalization. half: 0.5 and 0.5. imagenet: those of "
        "ImageNet. dataset: measured on the training data.",
    )
    on_bad_image: Literal["raise", "skip"] = setting(
        "raise",
        "What to do with an image that cannot be read. raise: stop the run. skip: leave the image "
        "out, count it and list it.",
        may_change=True,
    )
    label_smoothing: float = setting(
        0.0, "Fraction of the target that is spread evenly over all classes.", ge=0, lt=1
    )
    mixup_alpha: float = setting(
        0.0, "Alpha of mixup; the weights are drawn from Beta(alpha, alpha). 0: off.", ge=0, le=1000
    )
    cutmix_alpha: float = setting(
        0.0,
        "Alpha of CutMix; the box areas are drawn from Beta(alpha, alpha). 0: off.",
        ge=0,
        le=1000,
    )
    cutmix_probability: float = setting(
        0.5,
        "Probability of choosing CutMix for a pair of examples if both mixup and CutMix are on.",
        ge=0,
        le=1,
    )
    mix_probability: float = setting(
        1.0, "Probability that mixup or CutMix is applied to a pair of examples.", ge=0, le=1
    )
    augment: AugmentConfig = setting(AugmentConfig(), "Random changes to training images.")
    threads: int | None = setting(
        None,
        "Number of threads of the input pipeline. null: one per core.",
        may_change=True,
        ge=1,
        le=1024,
    )
