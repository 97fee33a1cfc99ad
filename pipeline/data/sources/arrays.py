"""Data sets that fit in memory: digits, CIFAR-10 and -100, Fashion-MNIST and synthetic images."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import DataConfig
from pipeline.data.sources.cifar import MOST_BYTES, Arrays, read_cifar
from pipeline.data.split import (
    DataSource,
    Split,
    check_labels,
    hash_all,
    hold_out,
    hold_out_last,
)
from pipeline.errors import DataError, SettingsError
from pipeline.storage.archive import gunzip
from pipeline.storage.read import read_file

Images = npt.NDArray[np.uint8]

DIGITS_TEST_FRACTION = 0.2
SYNTHETIC_LIMIT_BYTES = 16 * 2**30

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
# The order of fine_label_names in the original archive: alphabetical.
CIFAR100_CLASSES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
    crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
    lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()  # noqa: SIM905
)
# https://github.com/zalandoresearch/fashion-mnist, section Labels.
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

KERAS_HOSTS = {
    "cifar10": "cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html",
    "cifar100": "cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html",
    "fashion_mnist": "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, "
    "t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz from "
    "https://github.com/zalandoresearch/fashion-mnist",
}


def open_digits(config: DataConfig) -> DataSource:
    """Opens scikit-learn's 1,797 handwritten digits of 8 x 8 pixels with gray values 0..16.

    The data set has no test split. A fifth is held out by a fixed hash, the same in every run.
    """
    rows = np.loadtxt(_digits_file(), delimiter=",")  # [N, 65]: 64 gray values and the label
    data, labels = rows[:, :-1], rows[:, -1]
    gray = np.rint(data * (255.0 / 16.0)).astype(np.uint8).reshape(-1, 8, 8)  # [N, 64] -> [N, 8, 8]
    rgb = _to_rgb(gray)
    everything = Split(labels.astype(np.int32), rgb, title="digits")
    test = hold_out(hash_all(rgb, "test"), everything.labels, DIGITS_TEST_FRACTION, "digits")
    splits = split_training(everything.select(~test, "digits, train"), config)
    splits["test"] = everything.select(test, "digits, test")
    return DataSource(tuple("0123456789"), splits, (8, 8, 3))


def _digits_file() -> Path:
    """The file that `sklearn.datasets.load_digits` reads. Importing scikit-learn takes a second."""
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("data.source=digits is a file of scikit-learn: pip install scikit-learn")
    return Path(spec.origin).parent / "datasets/data/digits.csv.gz"


def open_cifar(config: DataConfig) -> DataSource:
    """Opens CIFAR-10 or CIFAR-100, 32 x 32: original files in `data.path`, or Keras's download."""
    kind = config.source
    default = CIFAR10_CLASSES if kind == "cifar10" else CIFAR100_CLASSES
    if config.path is None:
        train, test = _load_through_keras(kind)
        return _from_arrays(config, default, train, test)
    classes, train, test = read_cifar(kind, Path(config.path).expanduser())
    return _from_arrays(config, classes or default, train, test)


def open_fashion_mnist(config: DataConfig) -> DataSource:
    """Opens Fashion-MNIST, 28 x 28 gray: idx files in `data.path`, or Keras's download."""
    if config.path is None:
        train, test = _load_through_keras("fashion_mnist")
    else:
        folder = Path(config.path).expanduser()
        train, test = (
            (
                read_idx(folder, f"{part}-images-idx3-ubyte", 3),
                read_idx(folder, f"{part}-labels-idx1-ubyte", 1).astype(np.int64),
            )
            for part in ("train", "t10k")
        )
    return _from_arrays(config, FASHION_CLASSES, train, test)


def open_synthetic(config: DataConfig, seed: int) -> DataSource:
    """Creates a learnable data set: noisy copies of one random pattern of 4 x 4 fields per class.

    There are `num_examples` training images, and a quarter of that for each of validation and test.
    """
    size, num_train = config.image_size, config.num_examples
    num_held = -(-num_train // 4)
    needed = (num_train + 2 * num_held) * size * size * 3
    if needed > SYNTHETIC_LIMIT_BYTES:
        raise SettingsError(
            f"{num_train} synthetic images of {size} px would take {needed / 2**30:.0f} GiB of "
            f"memory; the limit is {SYNTHETIC_LIMIT_BYTES / 2**30:.0f} GiB. Reduce "
            "data.num_examples or data.image_size"
        )
    patterns = np.random.Generator(np.random.PCG64([seed, 0])).integers(
        48, 208, (config.num_classes, 4, 4, 3), np.uint8
    )
    field = np.arange(size) * 4 // size  # pixel -> row or column of the pattern
    splits = {}
    for number, (name, num) in enumerate(
        (("train", num_train), ("validation", num_held), ("test", num_held)), start=1
    ):
        labels = np.arange(num, dtype=np.int32) % config.num_classes
        noise = np.random.Generator(np.random.PCG64([seed, number])).integers(
            0, 97, (num, size, size, 3), np.uint8
        )
        noise += patterns[labels][:, field][:, :, field] - np.uint8(48)  # within 0..255
        splits[name] = Split(labels, noise, title=f"synthetic, {name}")
    classes = tuple(f"class_{i}" for i in range(config.num_classes))
    return DataSource(classes, splits, (size, size, 3))


def split_training(train: Split, config: DataConfig) -> dict[str, Split]:
    """Divides an in-memory training set into "train" and "validation"."""
    if config.validation_split == "last":
        held = hold_out_last(train.num_examples, config.validation_fraction)
    else:
        # Hash the pixels, so that exact duplicates are never in both splits.
        hashes = hash_all(train.images, "validation")  # type: ignore[arg-type]
        held = hold_out(hashes, train.labels, config.validation_fraction, train.title)
    if not held.any() or held.all():
        raise DataError(
            f"{train.title}: with data.validation_fraction={config.validation_fraction} of "
            f"{train.num_examples} images, one of the splits is empty. Choose another fraction"
        )
    title = train.title.removesuffix(", train")
    return {
        "train": train.select(~held, f"{title}, train"),
        "validation": train.select(held, f"{title}, validation"),
    }


def read_idx(folder: Path, name: str, rank: int) -> npt.NDArray[np.uint8]:
    """Reads an array of unsigned bytes from an idx file, plain or gzipped.

    The format is two zero bytes, the type code 8, the rank, the sizes as big-endian int32, and the
    values.

    Raises:
      DataError: The file is missing, is damaged or has another format.

    References:
      http://yann.lecun.com/exdb/mnist/, "The IDX file format".
    """
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise DataError(
            f"{folder} contains neither {name} nor {name}.gz. Put {KERAS_HOSTS['fashion_mnist']} "
            "there, or set data.path to the folder that contains them"
        )
    try:
        content = read_file(path, limit_bytes=MOST_BYTES)
        content = gunzip(content, MOST_BYTES) if path.suffix == ".gz" else content
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}. Download it again") from None
    start = 4 + 4 * rank
    if content[:4] != bytes((0, 0, 8, rank)) or len(content) < start:
        raise DataError(
            f"{path} is not an idx file with {rank} dimensions of bytes. Download it again"
        )
    shape = [int(n) for n in np.frombuffer(content, ">i4", rank, 4)]
    if min(shape) < 0 or len(content) - start != int(np.prod(shape, dtype=object)):
        raise DataError(
            f"{path} must contain {shape} values, but it has {len(content) - start} bytes"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _from_arrays(
    config: DataConfig, classes: tuple[str, ...], train: Arrays, test: Arrays
) -> DataSource:
    parts = {}
    for name, (images, labels) in (("train", train), ("test", test)):
        title = f"{config.source}, {name}"
        if len(images) != len(labels) or not len(images):
            raise DataError(f"{title} has {len(images)} images and {len(labels)} labels")
        rgb = _to_rgb(images) if images.ndim == 3 else np.ascontiguousarray(images)
        parts[name] = Split(check_labels(labels, len(classes), title), rgb, title=title)
    height, width = parts["train"].images.shape[1:3]  # type: ignore[union-attr]
    splits = split_training(parts["train"], config)
    splits["test"] = parts["test"]
    return DataSource(classes, splits, (height, width, 3))


def _load_through_keras(kind: str) -> tuple[Arrays, Arrays]:
    """Loads training and test arrays. Keras downloads them once and caches them."""
    load: Callable[[], Any] = import_module(f"keras.datasets.{kind}").load_data
    try:
        (train_images, train_labels), (test_images, test_labels) = load()
    except MemoryError:
        raise
    except Exception as error:  # Keras raises a plain Exception
        raise DataError(
            f"{kind} could not be downloaded ({error}). Put {KERAS_HOSTS[kind]} in a folder and "
            "set data.path to that folder"
        ) from None
    return (
        (train_images, train_labels.reshape(-1).astype(np.int64)),
        (test_images, test_labels.reshape(-1).astype(np.int64)),
    )


def _to_rgb(gray: Images) -> Images:
    return np.repeat(gray[..., np.newaxis], 3, axis=-1)  # [N, H, W] -> [N, H, W, 3]
