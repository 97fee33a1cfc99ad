"""`vit plan RECIPE --gpus 1,8,64 --gpu h100 --network 400Gbit`"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.cli import run_process
from pipeline.config import Config, load_config
from pipeline.errors import SettingsError
from pipeline.plan.hardware import GPUS, Links
from pipeline.recipes import RECIPES, find_recipe
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.strict_json import to_json

if TYPE_CHECKING:
    from pipeline.plan.scenario import Data, GpuCluster, Row

# Training and validation images, test images and classes of data sets whose size is no secret.
_KNOWN = {
    "digits": (1430, 367, 10),
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "fashion_mnist": (60_000, 10_000, 10),
}
# Of the data set that a shipped recipe is for. A recipe of the user, whatever its name, is for any.
_IMAGENET = (1_281_167, 50_000, 1000)
_SHIPPED = {
    RECIPES / f"{name}.yaml": _IMAGENET for name in ("imagenet_b16_300ep", "imagenet_s16_90ep")
}
_USUAL = (1, 8, 64, 512)
_BITS = {"mbit": 1e6, "gbit": 1e9}
_WIRE = 0.95  # of a link's bits are gradients: headers of TCP/IP or RoCE at the usual packet sizes

_EPILOG = """\
By default the recipe's global batch is divided over the GPUs, which trains the same model;
--batch-per-gpu gives each as many images, and multiplies the batch.

Nothing is measured: times follow from a written model (pipeline/plan/): operations of the network
and the part of a GPU's peak that ViT-B/16 was reported to reach; latency and bandwidth of rings and
trees for the gradients, behind the backward pass as far as that goes; the slowest of N. Give
--images-per-second where you have measured one GPU (`vit train`, or `python -m benchmarks step`).

  vit plan imagenet_b16_300ep --gpus 1,8,64,512 --gpu h100 --network 400Gbit
  vit plan imagenet_s16_90ep --gpus 8 --images-per-second 2900 --price 2.5 --plot plan.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("recipe", help="name of a shipped recipe, or path of a YAML file")
    parser.add_argument("settings", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument(
        "--gpus", help="numbers (default: those of 1, 8, 64, 512 that the batch divides over)"
    )
    parser.add_argument("--gpu", choices=GPUS, default="h100", help="their kind (default: h100)")
    parser.add_argument("--network", default="400Gbit", help="of a node (default: 400Gbit)")
    parser.add_argument("--latency-us", type=float, default=10.0, help="of it (default: 10)")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="default: 8")
    parser.add_argument("--batch-per-gpu", type=int, help="images; default: the recipe's batch / N")
    parser.add_argument("--images-per-second", type=float, help="measured on one GPU")
    parser.add_argument(
        "--spread", type=float, default=0.02,
        help="deviation of a GPU's step time, as a part of it (default: 0.02)",
    )  # fmt: skip
    parser.add_argument(
        "--cycle-ms", type=float, default=1.0, help="HOROVOD_CYCLE_TIME (default: 1)"
    )
    parser.add_argument("--images", type=int, help="to train on; default: those at data.path")
    parser.add_argument("--classes", type=int, help="default: those at data.path")
    parser.add_argument("--image-kb", type=float, default=110.0, help="a file (default: 110)")
    parser.add_argument("--price", type=float, help="of one GPU for an hour, to show the cost")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the plan")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Prints the plan of each number of GPUs."""
    _check(arguments)
    config = load_config(find_recipe(arguments.recipe), arguments.settings)
    links = Links(
        per_node=arguments.gpus_per_node,
        node_bytes_per_s=_bytes_per_s(arguments.network),
        node_latency_s=arguments.latency_us * 1e-6,
        local_bytes_per_s=GPUS[arguments.gpu].link_gb_per_s * 1e9,
    )
    import_tensorflow()
    from pipeline.plan.scenario import GpuCluster, make_plan
    from pipeline.training.precision import resolve_precision

    config = resolve_precision(config, [None]).config  # all GPUs of the table are fast at bfloat16

    data = _data(arguments, config)
    cluster = GpuCluster(
        gpu=GPUS[arguments.gpu],
        links=links,
        spread=arguments.spread,
        wake_s=arguments.cycle_ms * 1e-3 / 2,
        images_per_second=arguments.images_per_second,
        image_bytes=arguments.image_kb * 1e3,
    )
    numbers = _numbers(arguments, config)
    rows = [make_plan(config, cluster, data, n, arguments.batch_per_gpu) for n in numbers]
    if arguments.json:
        print("\n".join(to_json(row.to_json()) for row in rows))
    else:
        print("\n".join(_lines(arguments, config, cluster, data, rows)))
    if arguments.plot is not None:
        from pipeline.plan.plot import draw

        draw(rows, f"{config.model.variant} on {arguments.gpu}", arguments.plot)
        print(f"vit plan: {arguments.plot}", file=sys.stderr)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    for name in ("gpus_per_node", "batch_per_gpu", "images_per_second", "images", "classes",
                 "image_kb"):  # fmt: skip
        given = getattr(arguments, name)
        if given is not None and given <= 0:
            raise SettingsError(f"--{name.replace('_', '-')} must be above 0. Received: {given}")
    for name in ("latency_us", "spread", "cycle_ms", "price"):
        given = getattr(arguments, name)
        if given is not None and given < 0:
            raise SettingsError(
                f"--{name.replace('_', '-')} must not be below 0. Received: {given}"
            )
    if arguments.gpus is not None and not all(
        part.isdecimal() and int(part) > 0 for part in arguments.gpus.split(",")
    ):
        raise SettingsError(f"--gpus takes numbers, as 1,8,64. Received: {arguments.gpus!r}")


def _numbers(arguments: argparse.Namespace, config: Config) -> list[int]:
    """Those given, or the usual ones that training would take."""
    from pipeline.data.batch import check_batch

    if arguments.gpus is not None:
        return [int(part) for part in arguments.gpus.split(",")]
    if arguments.batch_per_gpu is not None:
        return list(_USUAL)
    numbers = []
    for number in _USUAL:
        with suppress(SettingsError):
            check_batch(config, number)
            numbers.append(number)
    return numbers or [1]


def _bytes_per_s(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.lower())
    if found is None or found[2] not in _BITS or float(found[1]) == 0:
        raise SettingsError(f"--network takes 100Gbit, 25Gbit, 500Mbit. Received: {text!r}")
    return float(found[1]) * _BITS[found[2]] / 8 * _WIRE


def _data(arguments: argparse.Namespace, config: Config) -> Data:
    """How much is trained on: as given, or as counted at `data.path`, or as is known of the set."""
    from pipeline.plan.scenario import Data

    source = config.data.source
    in_memory = source in _KNOWN or source == "synthetic"
    if source == "synthetic" and arguments.images is None:
        held_out = -(-config.data.num_examples // 4)
        return Data(
            config.data.num_examples, held_out, held_out, config.data.num_classes, in_memory
        )
    every, tested, classes = _known_size(arguments, config)
    if config.data.path is not None and None in (
        arguments.images or every,
        arguments.classes or classes,
    ):
        counted = _count(config)
        if arguments.images is None:
            return replace(counted, classes=arguments.classes or counted.classes)
        classes = counted.classes
    every, classes = arguments.images or every, arguments.classes or classes
    if every is None or classes is None:
        raise SettingsError(
            f"data.source={source}: say how many images and classes there are, for example "
            "--images 5000 --classes 10, or where they are, with data.path=PATH"
        )
    held_out = round(every * config.data.validation_fraction)
    if arguments.images is not None:
        tested = held_out  # as good a guess as any, of data that we do not know
    return Data(every - held_out, held_out, tested, classes, in_memory)


def _known_size(
    arguments: argparse.Namespace, config: Config
) -> tuple[int | None, int, int | None]:
    """Training and validation images, test images and classes; None where they are not known."""
    if config.data.source == "synthetic":
        return None, 0, config.data.num_classes
    if config.data.source in _KNOWN:
        return _KNOWN[config.data.source]
    shipped = _SHIPPED.get(find_recipe(arguments.recipe))
    return shipped if shipped is not None and config.data.path is None else (None, 0, None)


def _count(config: Config) -> Data:
    """What is at `data.path`, which may be the disk of another machine.

    Raises:
      SettingsError: It is not here, or would take too long to count.
      DataError: It is here, and is not what `data.source` says.
    """
    from pipeline.data.sources.source import open_source
    from pipeline.plan.scenario import Data

    path, say = Path(str(config.data.path)).expanduser(), "say --images and --classes"
    if not path.exists():
        raise SettingsError(f"data.path={config.data.path} is not on this machine: {say}")
    if config.data.source == "tfrecord":
        raise SettingsError(f"to count images in TFRecord files they are all read: {say} instead")
    source = open_source(config.data, config.seed)
    sizes = {name: split.num_examples for name, split in source.splits.items()}
    return Data(
        sizes["train"], sizes.get("validation", 0), sizes.get("test", 0), len(source.classes)
    )


def _lines(
    arguments: argparse.Namespace,
    config: Config,
    cluster: GpuCluster,
    data: Data,
    rows: Sequence[Row],
) -> Iterator[str]:
    gpu = cluster.gpu
    rate = cluster.images_per_second
    how = f"{rate:,.0f} images/s a GPU as given" if rate else (
        f"{gpu.efficiency:.1%} of the peak ({gpu.source})"
    )  # fmt: skip
    yield (
        f"{config.model.variant} at {config.data.image_size} px, {config.train.precision}, "
        f"{data.images:,} images; {gpu.name}, {arguments.gpus_per_node} a node, "
        f"{arguments.network} between nodes; {how}"
    )
    yield (
        f"{'GPUs':>6}{'batch':>8}{'parts':>7}{'step ms':>10}{'images/s':>11}{'efficiency':>12}"
        f"{'arithmetic':>12}{'host':>7}{'wait':>7}{'reduce':>8}{'hours':>8}{'GPU hours':>11}"
        f"{'GiB':>7}"
    )
    for row in rows:
        step = row.step
        shares = [part / step.total_s for part in
                  (step.arithmetic_s, step.host_s, step.straggler_s, step.reduction_s)]  # fmt: skip
        hours = row.training_s / 3600
        yield (
            f"{row.gpus:>6}{row.batch:>8,}{row.parts:>7}{1e3 * step.total_s:>10.1f}"
            f"{row.images_per_second:>11,.0f}{row.efficiency:>12.1%}{shares[0]:>12.0%}"
            f"{shares[1]:>7.0%}{shares[2]:>7.0%}{shares[3]:>8.0%}{hours:>8.1f}"
            f"{hours * row.gpus:>11,.0f}{row.memory_bytes / 2**30:>7.1f}"
        )
    for row in rows:
        yield from _needs(arguments, row)


def _needs(arguments: argparse.Namespace, row: Row) -> Iterator[str]:
    """What must be fed and kept, and what to change, in a line or two."""
    cost = ""
    if arguments.price is not None:
        cost = f"; costs {row.training_s / 3600 * row.gpus * arguments.price:,.0f}"
    advice = f": {row.advice}" if row.advice else ""
    stored = f"{row.storage_bytes_per_s / 1e6:,.0f} MB/s of images, "
    yield (
        f"{row.gpus:>6} GPU{'s' if row.gpus > 1 else ''}: {row.cores_a_node:,.1f} cores a node for "
        f"the input, {stored if row.storage_bytes_per_s else ''}checkpoints of "
        f"{row.checkpoint_bytes / 1e6:,.0f} MB at {row.checkpoint_bytes_per_s / 1e6:,.1f} MB/s or "
        f"more{cost}; limit: {row.bottleneck}{advice}"
    )


if __name__ == "__main__":
    run_process(["plan", *sys.argv[1:]])
