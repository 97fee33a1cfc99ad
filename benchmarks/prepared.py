"""`python -m benchmarks prepared`"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.command import check_counts
from benchmarks.photographs import make_photographs
from pipeline.config import AugmentConfig, Config, DataConfig
from pipeline.cores import available_cores
from pipeline.data.encode import Reduction
from pipeline.data.prepare.prepare import prepare
from pipeline.data.sources.source import DataSource, open_source
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.strict_json import to_json

_EPILOG = """\
Writes photographs of 4000 x 3000 pixels, mosaics of the two of scikit-learn, and prepares them with
`vit prepare --max-side`. The input stage (random resized crop, flip, normalize) then reads the
originals and the prepared set in turn, and Pillow the originals, without draft mode, on one core
for each of ours. "levels" is the mean difference between the pixels that evaluation sees from the
prepared set and from the originals, of 255.
"""
_WIDTH, _HEIGHT, _BATCH = 4000, 3000, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("--photographs", type=int, default=48, help="default: 48")
    parser.add_argument("--image-size", type=int, default=224, help="default: 224")
    parser.add_argument("--max-side", type=int, default=512, help="default: 512")
    parser.add_argument("--quality", type=int, default=92, help="default: 92")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each (default: 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Measures and prints."""
    check_counts(arguments, photographs=2 * _BATCH, image_size=1, max_side=1, quality=1, rounds=1)
    import_tensorflow()
    with tempfile.TemporaryDirectory(prefix="vit-prepared-") as name:
        folder, out = Path(name, "originals"), Path(name, "prepared")
        make_photographs(folder, arguments.photographs, _WIDTH, _HEIGHT)
        originals = _config("image_folder", folder, arguments.image_size)
        found = prepare(
            open_source(originals.data, 0), out, originals.data, shard_size=4096,
            processes=available_cores(), on_done=lambda count: None,
            reduction=Reduction(arguments.max_side, arguments.quality),
        )  # fmt: skip
        smaller = _config("records", out, arguments.image_size)
        facts: dict[str, Any] = {
            "photographs": arguments.photographs,
            "max_side": arguments.max_side,
            "mb": sum(path.stat().st_size for path in folder.rglob("*.jpg")) / 1e6,
            "mb_prepared": sum(s.size for part in found.splits.values() for s in part.shards) / 1e6,
        }
        facts |= _rates(originals, smaller, arguments.rounds)
        facts["levels"] = _difference(originals, smaller)
    print(to_json(facts) if arguments.json else _table(facts))
    return 0


def _config(source: str, path: Path, size: int) -> Config:
    data = DataConfig(
        source=source, path=str(path), image_size=size, resize="crop", crop_fraction=0.875,
        global_batch_size=_BATCH, augment=AugmentConfig(flip=True, resized_crop_min_area=0.08),
        validation_fraction=0.25,
    )  # fmt: skip
    return Config(data=data)


def _rates(originals: Config, smaller: Config, rounds: int) -> dict[str, float]:
    """Images/s of epochs that are read in turn; each iterator has read two batches before."""
    sources = {"originals": originals, "prepared": smaller}
    epochs: dict[str, Callable[[], float]] = {
        kind: _epoch(config, open_source(config.data, 0)) for kind, config in sources.items()
    }
    epochs["pillow"] = _pillow_epoch(originals, open_source(originals.data, 0))
    times: dict[str, list[float]] = {kind: [] for kind in epochs}
    for _ in range(rounds):
        for kind, measure in epochs.items():
            times[kind].append(measure())
    rates = {f"images_per_second_{kind}": median(values) for kind, values in times.items()}
    return rates | {
        "prepared_is": rates["images_per_second_prepared"] / rates["images_per_second_originals"],
        "ours_is": rates["images_per_second_originals"] / rates["images_per_second_pillow"],
    }


def _epoch(config: Config, source: DataSource) -> Callable[[], float]:
    from pipeline.data.input import train_dataset
    from pipeline.data.shard import Shard

    gray = (0.5,) * 3
    dataset = train_dataset(
        source.splits["train"], config.data, num_classes=2, mean=gray, std=gray, seed=0,
        start_step=0, shard=Shard(),
    )  # fmt: skip
    batches = max(4, source.splits["train"].num_examples // _BATCH)

    def measure() -> float:
        iterator = iter(dataset)
        for _ in range(2):
            next(iterator)
        start_s = time.perf_counter()
        for _ in range(batches):
            next(iterator)
        return batches * _BATCH / (time.perf_counter() - start_s)

    return measure


def _pillow_epoch(config: Config, source: DataSource) -> Callable[[], float]:
    """The same work by Pillow in one thread, times the number of cores."""
    split, size, rng = source.splits["train"], config.data.image_size, np.random.default_rng(0)

    def measure() -> float:
        start_s = time.perf_counter()
        for index in range(_BATCH):
            image = Image.open(io.BytesIO(split.content(index))).convert("RGB")
            area = rng.uniform(0.08, 1.0) ** 0.5
            width, height = int(image.width * area), int(image.height * area)
            left = int(rng.integers(image.width - width + 1))
            top = int(rng.integers(image.height - height + 1))
            part = image.resize(
                (size, size), Image.Resampling.BILINEAR, (left, top, left + width, top + height)
            )
            (np.asarray(part, np.float32)[:, :: rng.choice((-1, 1))] / 255.0 - 0.5) / 0.5
        return _BATCH * available_cores() / (time.perf_counter() - start_s)

    return measure


def _difference(originals: Config, smaller: Config) -> float:
    """Mean difference of the pixels of up to 16 validation images."""

    def pixels(config: Config) -> list[npt.NDArray[np.uint8]]:
        from pipeline.data.images import load_example

        split = open_source(config.data, 0).splits["validation"]
        return [load_example(split, i, config.data) for i in range(min(16, split.num_examples))]

    pairs = zip(pixels(originals), pixels(smaller), strict=True)
    return float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in pairs]))


def _table(facts: dict[str, Any]) -> str:
    rates = {kind: facts[f"images_per_second_{kind}"] for kind in ("originals", "prepared")}
    return (
        f"originals of {_WIDTH} x {_HEIGHT}: {facts['mb']:.1f} MB, {rates['originals']:.1f} "
        f"images/s, {facts['ours_is']:.1f} times Pillow's\n"
        f"prepared, at most {facts['max_side']}: {facts['mb_prepared']:.1f} MB, "
        f"{rates['prepared']:.1f} images/s, {facts['prepared_is']:.1f} times the originals'; "
        f"pixels differ by {facts['levels']:.2f} levels"
    )
