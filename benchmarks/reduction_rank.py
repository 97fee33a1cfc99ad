"""A child process of the reduction benchmark.

`python -m benchmarks.reduction_rank RESULT TIMES SIZES`: the chief writes the seconds of one sum
for each size in KiB to RESULT, as JSON.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import DistributeConfig
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.storage.write import replace_file
from pipeline.strict_json import to_json

if TYPE_CHECKING:
    from pipeline.runtimes.runtime import Runtime


def main() -> None:
    """Measures the sizes that the arguments name."""
    result, times, sizes = sys.argv[1:]
    import_tensorflow()
    from pipeline.runtimes.kinds import start

    config = DistributeConfig(runtime="horovod", intra_op_threads=1)
    with closing(start(config)) as runtime, runtime.noticing_lost_peers():
        seconds = [_measure(runtime, int(size), int(times)) for size in sizes.split(",")]
        if runtime.is_chief:
            replace_file(Path(result), to_json(seconds))
        runtime.barrier()


def _measure(runtime: Runtime, kib: int, times: int) -> float:
    import tensorflow as tf

    @tf.function
    def add(tensor: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        for _ in tf.range(count):
            (tensor,) = runtime.sum_gradients([tensor])  # Each sum waits for the one before.
        return tensor

    tensor = tf.zeros([256 * kib])  # Elements of 4 bytes.
    add(tensor, tf.constant(2))
    runtime.barrier()
    start_s = time.perf_counter()
    add(tensor, tf.constant(times))[0].numpy()
    return max(runtime.all_gather((time.perf_counter() - start_s) / times))


if __name__ == "__main__":
    main()
