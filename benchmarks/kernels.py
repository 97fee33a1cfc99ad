"""`python -m benchmarks kernels`

pyperf's Runner finishes one benchmark before it starts the next, and cannot interleave contenders,
which two shared cores need. So the loop is here, and pyperf stores the values for its `compare_to`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pyperf

from benchmarks.command import check_counts
from pipeline.errors import SettingsError
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.strict_json import to_json

_EPILOG = """\
Times the operations that the training step replaces with its own code, and the same operations in
TensorFlow, in milliseconds and with one thread. The tensors have the size of --images images of 144
tokens, as in the network of the Keras example. The two versions take turns. The table shows
medians, and for our version also minimum and maximum. The time includes the backward pass where
there is one. Our version is TensorFlow's own on a GPU, for small tensors, and for softmax and
linear layers in float32.
"""

_TOKENS, _HEADS, _WIDTH, _HIDDEN = 144, 4, 64, 128
_RATE, _PLACE = 0.1, "place"


class Kernel(NamedTuple):
    """What is timed in two ways.

    Attributes:
      name: In the table.
      shapes: Of the inputs.
      function: Of them, ours.
      other: The same by TensorFlow's operations; None: `function`, not compiled.
      is_differentiated: Whether gradients are asked for.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    function: Callable[..., Any]
    other: Callable[..., Any] | None = None
    is_differentiated: bool = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("--images", type=int, default=128, help="default: 128")
    parser.add_argument("--rounds", type=int, default=15, help="timings (default: 15)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument(
        "--save", type=Path, metavar="FILE.json", help="write all values for `pyperf compare_to`"
    )
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Times all, and prints a table."""
    check_counts(arguments, images=1, rounds=1)
    import_tensorflow()
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        raise SettingsError("python -m benchmarks kernels is for CPUs. Found: a GPU")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if not arguments.json:
        print(f"{'milliseconds, one thread':40s}{'ours':>8}{'TensorFlow':>24}")
    benchmarks = []
    for ours, other in _measure(arguments.images, arguments.rounds):
        row = _row(ours, other)
        print(to_json(row) if arguments.json else _line(row), flush=True)
        benchmarks += [ours, other]
    if arguments.save is not None:
        pyperf.BenchmarkSuite(benchmarks).dump(str(arguments.save), replace=True)
    return 0


def _measure(images: int, rounds: int) -> Iterator[tuple[pyperf.Benchmark, pyperf.Benchmark]]:
    """Times each kernel and its counterpart in turn."""
    import tensorflow as tf

    from pipeline.model.backend import fusing

    for dtype in ("float32", "bfloat16"):
        for kernel in _kernels(images):
            inputs = [tf.cast(tf.random.normal(shape), dtype) for shape in kernel.shapes]
            with fusing():  # what is traced here is what the training step has
                ours = _ready(kernel.function, inputs, kernel.is_differentiated)
            other = _ready(kernel.other or kernel.function, inputs, kernel.is_differentiated)
            pairs = [(_seconds(ours), _seconds(other)) for _ in range(rounds)]
            name = f"{kernel.name}, {dtype}"
            mine, theirs = zip(*pairs, strict=True)
            yield _benchmark(name, mine), _benchmark(f"{name}, TensorFlow", theirs)


def _benchmark(name: str, seconds: tuple[float, ...]) -> pyperf.Benchmark:
    metadata = {"name": name, "unit": "second", "loops": 1}
    return pyperf.Benchmark([pyperf.Run(seconds, metadata=metadata, collect_metadata=False)])


def _row(ours: pyperf.Benchmark, other: pyperf.Benchmark) -> dict[str, Any]:
    mine, theirs = ours.get_values(), other.get_values()
    return {
        "what": ours.get_name(),
        "milliseconds": 1e3 * ours.median(),
        "least": 1e3 * min(mine),
        "most": 1e3 * max(mine),
        "other_milliseconds": 1e3 * other.median(),
        "ours_is": median(b / a for a, b in zip(mine, theirs, strict=True)),
    }


def _kernels(images: int) -> list[Kernel]:
    import tensorflow as tf

    from pipeline.model.attention import attend
    from pipeline.model.backend import affine, random_uint16, softmax
    from pipeline.model.dropout import dropout
    from pipeline.model.elementwise import gelu, layer_norm

    seed = tf.constant([3, 7], tf.int32)
    rows = images * _TOKENS
    heads = (images, _HEADS, _TOKENS, _WIDTH)
    scores = (*heads[:3], _TOKENS)

    def plain_softmax(x: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.nn.softmax(tf.cast(x, tf.float32)), x.dtype)

    def plain_affine(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        return tf.nn.bias_add(tf.matmul(x, kernel), bias)

    wide, narrow = ((rows, _HIDDEN),), ((rows, _WIDTH),)
    length = _HEADS * _WIDTH
    return [
        Kernel("GELU", wide, lambda x: gelu(x, "exact")),
        Kernel("GELU, tanh", wide, lambda x: gelu(x, "tanh")),
        Kernel(
            "layer norm",
            (*narrow, (_WIDTH,), (_WIDTH,)),
            lambda x, gamma, beta: layer_norm(
                x, tf.cast(gamma, tf.float32), tf.cast(beta, tf.float32), 1e-6
            ),
        ),
        Kernel(
            "random numbers of 16 bits",
            ((1,),),
            lambda _: random_uint16(scores, seed),
            is_differentiated=False,
        ),
        Kernel("dropout", wide, lambda x: dropout(x, _RATE, seed, _PLACE)),
        Kernel(
            "attention with dropout",
            (heads, heads, heads),
            lambda q, k, v: attend(q, k, v, _RATE, seed, _PLACE),
        ),
        Kernel("softmax", (scores,), softmax, plain_softmax, is_differentiated=False),
        Kernel("linear layer", (*narrow, (_WIDTH, length), (length,)), affine, plain_affine),
    ]


def _ready(
    function: Callable[..., Any], inputs: list[Any], is_differentiated: bool
) -> Callable[[], list[Any]]:
    """The function's graph, traced and run once: results, and gradients where asked for."""
    import tensorflow as tf

    def both(*inputs: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            result = function(*inputs)
        return [result, *(tape.gradient(result, inputs) if is_differentiated else [])]

    graph = tf.function(both, autograph=False)
    graph(*inputs)
    return lambda: graph(*inputs)


def _seconds(function: Callable[[], list[Any]]) -> float:
    start_s = pyperf.perf_counter()
    for tensor in function():
        tensor[..., :1].numpy()  # waits until it is computed
    return float(pyperf.perf_counter() - start_s)


def _line(row: dict[str, Any]) -> str:
    spread = f"({row['least']:.1f} to {row['most']:.1f})"
    return (
        f"{row['what']:<38}{row['milliseconds']:8.1f} {spread:<18}"
        f"{row['other_milliseconds']:8.1f}  ours is {row['ours_is']:.2f}x"
    )
