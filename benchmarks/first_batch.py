"""The time to the first batch of a large prepared set, and the memory that the set takes."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from pipeline.config import Config, DataConfig
from pipeline.cores import available_cores
from pipeline.data.prepare.prepare import prepare
from pipeline.data.sources.arrays import open_synthetic
from pipeline.runtimes.tensorflow_start import import_tensorflow

_FEW = 1000
_SHARD = 4096
_PIXELS = 8


def measure_first_batch(records: int, folder: Path) -> dict[str, float]:
    """Prepares a large and a small set, and reads batches of each in a separate process.

    Returns:
      records, few: The sizes of the two sets.
      first_batch_s: The time from the end of the imports to the first batch, for the large set.
      added_mb: The resident memory that opening it and reading the first batches added.
      added_mb_of_few: The same for the small set, which is TensorFlow's own share.
    """
    found = {}
    for count in (_FEW, records):
        data = DataConfig(
            source="synthetic", image_size=_PIXELS, num_examples=count, validation_fraction=0.001
        )
        out = folder / str(count)
        prepare(
            open_synthetic(data, 0), out, data,
            shard_size=_SHARD, processes=available_cores(), on_done=lambda done: None,
        )  # fmt: skip
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found[count] = pool.submit(_read_batches, out).result()
    (_, few_mb), (seconds, many_mb) = found[_FEW], found[records]
    return {
        "records": records,
        "few": _FEW,
        "first_batch_s": seconds,
        "added_mb": many_mb,
        "added_mb_of_few": few_mb,
    }


def _read_batches(out: Path) -> tuple[float, float]:
    """Returns the seconds to the first batch, and the MB added after twenty more batches."""
    import_tensorflow()
    from pipeline.data.input import train_dataset
    from pipeline.data.shard import Shard
    from pipeline.data.sources.source import open_source

    config = Config(data=DataConfig(source="records", path=str(out), image_size=_PIXELS))
    before_mb, start_s = _resident_mb(), time.perf_counter()
    source = open_source(config.data, config.seed)
    batches = iter(
        train_dataset(
            source.splits["train"],
            config.data,
            num_classes=len(source.classes),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            seed=config.seed,
            start_step=0,
            shard=Shard(),
        )
    )
    next(batches)
    seconds = time.perf_counter() - start_s
    for _ in range(20):
        next(batches)
    return seconds, _resident_mb() - before_mb


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
