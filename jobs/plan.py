"""`vit plan RECIPE --gpus 1,8,64 --gpu h100 --network 400Gbit`"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from contextlib import suppress
from pathlib import Path

from jobs.cli import run_process
from pipeline.config import Config, load_config
from pipeline.errors import SettingsError
from pipeline.plan.hardware import GPUS, Links
from pipeline.recipes import find_recipe
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.strict_json import to_json

_LOG = logging.getLogger(__name__)

_DEFAULT_GPUS = (1, 8, 64, 512)
_BITS = {"mbit": 1e6, "gbit": 1e9}
# Share of a link's bits that carry gradients. The rest are headers of TCP/IP or RoCE at the usual
# packet sizes.
_PAYLOAD = 0.95

_EPILOG = """\
By default the recipe's global batch is divided among the GPUs, which trains the same model.
--batch-per-gpu gives each GPU that many images instead, and so increases the global batch.

Nothing is measured. Times come from a model (pipeline/plan/): the operations of the network, and
the share of a GPU's peak that ViT-B/16 was reported to reach; the latency and bandwidth of rings
and trees for the gradients, overlapped with the backward pass as far as possible; and the slowest
of N GPUs. Use --images-per-second if you have measured one GPU (`vit train`, or
`python -m benchmarks step`).

  vit plan imagenet_b16_300ep --gpus 1,8,64,512 --gpu h100 --network 400Gbit
  vit plan imagenet_s16_90ep --gpus 8 --images-per-second 2900 --price 2.5 --plot plan.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    add = parser.add_argument
    add("recipe", help="name of a shipped recipe, or path of a YAML file")
    add(
        "settings",
        nargs="*",
        default=[],
        metavar="section.key=value",
        help="settings that override the recipe's",
    )
    add("--gpus", help="numbers of GPUs (default: those of 1, 8, 64, 512 that divide the batch)")
    add("--gpu", choices=GPUS, default="h100", help="type of GPU (default: h100)")
    add("--network", default="400Gbit", help="bandwidth of a node (default: 400Gbit)")
    add("--latency-us", type=float, default=10.0, help="latency between nodes in us (default: 10)")
    add("--gpus-per-node", type=int, default=8, help="GPUs per node (default: 8)")
    add("--batch-per-gpu", type=int, help="images per GPU (default: the recipe's batch / N)")
    add("--images-per-second", type=float, help="measured speed of one GPU")
    add("--spread", type=float, default=0.02,
        help="standard deviation of a GPU's step time, as a fraction of it (default: 0.02)",
    )  # fmt: skip
    add("--cycle-ms", type=float, default=1.0, help="HOROVOD_CYCLE_TIME in ms (default: 1)")
    add("--images", type=int, help="number of images (default: counted at data.path)")
    add("--classes", type=int, help="number of classes (default: counted at data.path)")
    add("--image-kb", type=float, default=110.0, help="size of an image file in kB (default: 110)")
    add("--price", type=float, help="price of one GPU for an hour, to show the cost")
    add("--plot", type=Path, metavar="FILE.png", help="draw the plan")
    add("--json", action="store_true", help="print one JSON object per line")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Prints the plan for each number of GPUs."""
    _check(arguments)
    recipe = find_recipe(arguments.recipe)
    config = load_config(recipe, arguments.settings)
    gpu = GPUS[arguments.gpu]
    links = Links(
        per_node=arguments.gpus_per_node,
        node_bytes_per_s=_bytes_per_s(arguments.network),
        node_latency_s=arguments.latency_us * 1e-6,
        local_bytes_per_s=gpu.link_gb_per_s * 1e9,
    )
    import_tensorflow()
    from pipeline.plan.data_size import data_size
    from pipeline.plan.scenario import GpuCluster, make_plan
    from pipeline.plan.table import plan_lines
    from pipeline.training.precision import resolve_precision

    config = resolve_precision(config, [None]).config  # All GPUs in the table are fast at bfloat16.
    data = data_size(recipe, config, arguments.images, arguments.classes)
    cluster = GpuCluster(
        gpu=gpu,
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
        network, price = arguments.network, arguments.price
        print("\n".join(plan_lines(config, cluster, data, rows, network=network, price=price)))
    if arguments.plot is not None:
        from pipeline.plan.plot import draw

        draw(rows, f"{config.model.variant} on {arguments.gpu}", arguments.plot)
        _LOG.info("%s", arguments.plot)
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
            raise SettingsError(f"--{name.replace('_', '-')} must be 0 or more. Received: {given}")
    if arguments.gpus is not None and not all(
        part.isdecimal() and int(part) > 0 for part in arguments.gpus.split(",")
    ):
        raise SettingsError(f"--gpus must be numbers such as 1,8,64. Received: {arguments.gpus!r}")


def _numbers(arguments: argparse.Namespace, config: Config) -> list[int]:
    """Returns the given numbers of GPUs, or the default ones that training would accept."""
    from pipeline.data.batch import check_batch

    if arguments.gpus is not None:
        return [int(part) for part in arguments.gpus.split(",")]
    if arguments.batch_per_gpu is not None:
        return list(_DEFAULT_GPUS)
    numbers = []
    for number in _DEFAULT_GPUS:
        with suppress(SettingsError):
            check_batch(config, number)
            numbers.append(number)
    return numbers or [1]


def _bytes_per_s(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.lower())
    if found is None or found[2] not in _BITS or float(found[1]) == 0:
        raise SettingsError(
            f"--network must be a bandwidth such as 100Gbit or 500Mbit. Received: {text!r}"
        )
    return float(found[1]) * _BITS[found[2]] / 8 * _PAYLOAD


if __name__ == "__main__":
    run_process(["plan", *sys.argv[1:]])
