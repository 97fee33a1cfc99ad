"""`python -m benchmarks input RECIPE`"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.contenders.process import Contender, python_of
from benchmarks.first_batch import measure_first_batch
from benchmarks.photographs import make_photographs
from pipeline.config import Config, DataConfig, load_config
from pipeline.cores import available_cores
from pipeline.data.sources.find_source import find_source
from pipeline.errors import SettingsError
from pipeline.recipes import find_recipe
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.strict_json import to_json

_EPILOG = """\
Each line is a tf.data pipeline that produces batches as in training, without a model. All are timed
in turn, --rounds times; the results are medians. Each stage includes the stages above it. Other
implementations follow, with the factor by which ours is faster at the same work:
  in memory  Keras layers and NumPy. "image by image" does the same work as ours: random numbers for
             each image. On a batch, Keras crops all images at the same place and applies the same
             RandAugment operations to all of them
  JPEG       decoding of the same files only; Pillow; Keras layers, which have no random resized
             crop: they resize the short side to 8/7 of the size and crop at random. Pillow-SIMD,
             torchvision v2 and NVIDIA DALI, if `make contenders` has installed them and the
             recipe has no RandAugment. Each runs in its own process with as many threads or
             workers as there are cores
"""

_WARM_UP = 0.3  # As a fraction of each timing.
# Title, environment, and module of benchmarks.contenders.
_LIBRARIES = (
    ("Pillow-SIMD in threads", "pillow_simd", "pillow_input"),
    ("torchvision v2", "torchvision", "torchvision_input"),
    ("NVIDIA DALI", "dali", "dali_input"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("recipe", nargs="?", default="cifar10", help="recipe (default: cifar10)")
    parser.add_argument("settings", nargs="*", default=[], metavar="section.key=value")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--data", metavar="DIR", help="use this data set instead of the recipe's")
    what.add_argument(
        "--photographs",
        type=int,
        metavar="N",
        help="use N photographs of 500 x 375 pixels, cut from the two of scikit-learn",
    )
    what.add_argument(
        "--records",
        type=int,
        metavar="N",
        help="instead of the speed, measure the time to the first batch and the memory for N small "
        "prepared records, in a separate process",
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="duration of a timing (default: 3)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="number of timings of each line (default: 3)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Times the recipe's input stage, stage by stage, and what others do."""
    for name in ("photographs", "records"):
        number = getattr(arguments, name)
        if number is not None and number < 20:
            raise SettingsError(f"--{name} must be at least 20. Received: {number}")
    if arguments.seconds <= 0 or arguments.rounds < 1:
        raise SettingsError(
            "--seconds must be above 0 and --rounds at least 1. Received: "
            f"{arguments.seconds:g} and {arguments.rounds}"
        )
    config = load_config(find_recipe(arguments.recipe), arguments.settings)
    with tempfile.TemporaryDirectory(prefix="vit-benchmark-") as folder:
        if arguments.records is not None:
            found = measure_first_batch(arguments.records, Path(folder))
            print(to_json(found) if arguments.json else _facts(found))
            return 0
        place = arguments.data
        if arguments.photographs is not None:
            place = make_photographs(Path(folder), arguments.photographs)
        if place is not None:
            data = config.data.model_copy(update=find_source(str(place)))
            config = config.model_copy(update={"data": data})
        rows = _measure(config, arguments.seconds, arguments.rounds)
    print(to_json(rows) if arguments.json else "\n".join(_table(config, rows)))
    return 0


def _measure(config: Config, seconds: float, rounds: int) -> list[dict[str, Any]]:
    import_tensorflow()
    from benchmarks.input_others import jpeg_contents, others
    from benchmarks.input_stages import AUGMENT, stages
    from pipeline.data.sources.source import open_source

    source = open_source(config.data, config.seed)
    split, ours = source.splits["train"], stages(config, source)
    timed = [
        _Timed(line.title, line.against, partial(_time_dataset, line.make(), line.batch_size))
        for line in [*ours, *others(config.data, split, ours)]
    ]
    with ExitStack() as stack:
        if AUGMENT in {line.title for line in ours}:
            for title, contender in _contenders(config.data, jpeg_contents(split), stack):
                timed.append(_Timed(title, AUGMENT, partial(_time_contender, contender)))
        timings: list[list[_Timing]] = [[] for _ in timed]
        for _ in range(rounds):
            for line, found in zip(timed, timings, strict=True):
                found.append(line.time(seconds))
    return _rows(timed, timings)


def _rows(timed: Sequence[_Timed], timings: Sequence[list[_Timing]]) -> list[dict[str, Any]]:
    speed = {
        line.title: median(timing.images_per_second for timing in found)
        for line, found in zip(timed, timings, strict=True)
    }
    rows: list[dict[str, Any]] = []
    for line, found in zip(timed, timings, strict=True):
        row = {
            "line": line.title,
            "images_per_second": speed[line.title],
            "least": min(timing.images_per_second for timing in found),
            "most": max(timing.images_per_second for timing in found),
        }
        cpu_us = [t.cpu_us_per_image for t in found if t.cpu_us_per_image is not None]
        if cpu_us:
            row["cpu_us_per_image"] = median(cpu_us)
        if line.against is not None:
            row |= {"ours": line.against, "ours_is": speed[line.against] / speed[line.title]}
        rows.append(row)
    return rows


def _contenders(
    data: DataConfig, contents: list[bytes] | None, stack: ExitStack
) -> Iterator[tuple[str, Contender]]:
    """Starts the installed libraries, which do the work of a random resized crop and a flip."""
    min_area = data.augment.resized_crop_min_area
    if contents is None or min_area is None or data.augment.rand_augment_layers:
        return
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vit-benchmark-")))
    for number, content in enumerate(contents):
        (folder / f"{number:05d}.jpg").write_bytes(content)
    numbers = (data.image_size, data.global_batch_size, min_area, available_cores())
    for title, environment, module in _LIBRARIES:
        if python := python_of(environment):
            arguments = [str(folder), *map(str, numbers)]
            yield title, stack.enter_context(Contender(python, module, arguments))


class _Timing(NamedTuple):
    """One timing of a line. The CPU time of another process is not known."""

    images_per_second: float
    cpu_us_per_image: float | None


class _Timed(NamedTuple):
    """A line: what it does, the line of ours that does the same, and a function that times it."""

    title: str
    against: str | None
    time: Callable[[float], _Timing]  # Takes the duration in seconds.


def _time_dataset(dataset: Any, batch_size: int, seconds: float) -> _Timing:
    # A new iterator each time: a waiting one would fill its buffers during the timings of the
    # others, and return the buffered batches when it is timed again.
    iterator = iter(dataset)
    _time(iterator, batch_size, _WARM_UP * seconds)
    return _time(iterator, batch_size, seconds)


def _time_contender(contender: Contender, seconds: float) -> _Timing:
    return _Timing(contender.time(_WARM_UP * seconds, seconds), None)


def _time(iterator: Iterator[Any], batch_size: int, seconds: float) -> _Timing:
    batches, start_s, start_cpu_s = 0, time.perf_counter(), time.process_time()
    while (passed_s := time.perf_counter() - start_s) < seconds:
        next(iterator)
        batches += 1
    images = batches * batch_size
    return _Timing(images / passed_s, (time.process_time() - start_cpu_s) / images * 1e6)


def _table(config: Config, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    data = config.data
    yield f"{data.source}, {data.image_size} px, batches of {data.global_batch_size}"
    yield f"{'':<52}{'images/s':>10}{'CPU us/image':>17}{'ours is':>10}"
    for row in rows:
        rate = row["images_per_second"]
        ratio = f"{row['ours_is']:>9.2f}x" if "ours_is" in row else ""
        cpu = f"{row['cpu_us_per_image']:>17.1f}" if "cpu_us_per_image" in row else " " * 17
        yield f"{row['line']:<52}{rate:>10,.0f}{cpu}{ratio}"


def _facts(found: dict[str, float]) -> str:
    return (
        f"{found['records']:,.0f} records: first batch {found['first_batch_s']:.2f} s after the "
        f"imports, {found['added_mb']:.0f} MB added to the process, of which "
        f"{found['added_mb_of_few']:.0f} MB with {found['few']:,.0f} records"
    )
