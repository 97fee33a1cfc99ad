"""A worker that sleeps in place of computing, like the host of a GPU, and sums real gradients.

    python -m tests.plan.waiting_rank RECIPE RESULT ROUNDS STEPS SECONDS

A step waits SECONDS: a third for the forward pass, then for the backward pass block by block, whose
gradients are summed from then on. The chief writes images a second, and what a sum of all takes
alone, to RESULT, as JSON.
"""

import json
import sys
import time
from contextlib import closing
from itertools import groupby
from pathlib import Path
from statistics import median

from pipeline.config import load_config
from pipeline.runtimes.tensorflow_start import import_tensorflow


def main(recipe, result, rounds, steps, step_s):
    config = load_config(recipe)
    import_tensorflow()
    import tensorflow as tf

    from pipeline.runtimes.kinds import start

    with closing(start(config.distribute)) as runtime, runtime.noticing_lost_peers():
        blocks = shapes_by_block(config)
        runs = make_steps(runtime, blocks, float(step_s)), make_steps(runtime, blocks, 0.0)
        seconds = [[], []]
        for number in range(int(rounds) + 1):
            for run, taken_s in zip(runs, seconds, strict=True):
                runtime.barrier()
                start_s = time.perf_counter()
                run(tf.constant(int(steps) if number else 1)).numpy()
                slowest_s = max(runtime.all_gather(time.perf_counter() - start_s))
                if number:  # the first makes the graph
                    taken_s.append(slowest_s / int(steps))
        if runtime.is_chief:
            measured_s, reduction_s = map(median, seconds)
            rate = config.data.global_batch_size / measured_s
            found = {"images_per_second": rate, "reduction_ms": 1e3 * reduction_s}
            Path(result).write_text(json.dumps(found))
        runtime.barrier()


def shapes_by_block(config):
    """The sizes of the network's variables, grouped by block, in the order of the forward pass."""
    from pipeline.model.vit import build_vit

    model = build_vit(config.model, image_size=config.data.image_size, num_classes=10)
    paths = [(v.path.split("/")[1], v.shape) for v in model.trainable_variables]
    return [[shape for _, shape in group] for _, group in groupby(paths, lambda pair: pair[0])]


def make_steps(runtime, blocks, step_s):
    """The graph of n steps. With 0 seconds only the reduction remains."""
    import tensorflow as tf

    from benchmarks.scaling_rank import different_tensors

    def after(value, seconds):
        """The scalar `value` after a delay."""
        if not seconds:
            return value

        def wait(number):
            time.sleep(seconds)
            return number

        later = tf.numpy_function(wait, [value], tf.float32)
        return tf.ensure_shape(later, [])

    def step(done, total):
        here = after(total, step_s / 3)
        gradients = []
        for number, shapes in enumerate(reversed(blocks)):
            here = after(here, step_s * 2 / 3 / len(blocks))
            gradients += different_tensors(shapes, here + 100.0 * number)
        summed = runtime.sum_gradients(gradients)
        return done + 1, tf.minimum(tf.add_n([tf.reshape(v, [-1])[0] for v in summed]), 1.0)

    @tf.function(autograph=False)
    def run(steps):
        return tf.while_loop(lambda done, _: done < steps, step, (0, tf.constant(0.0)))[1]

    return run


if __name__ == "__main__":
    main(*sys.argv[1:])
