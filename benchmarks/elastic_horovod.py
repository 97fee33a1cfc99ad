"""A process of the elastic benchmark that trains with Horovod's own elastic mode.

`python -m benchmarks.elastic_horovod FOLDER WORKERS COMMIT_EVERY RECIPE section.key=value...`, for
`horovodrun --host-discovery-script`. It follows Horovod's documentation:

- `hvd.elastic.run` restores the last commit after a failure.
- Each process draws its batches at random from all examples. Horovod's documentation recommends
  this for elastic training, because nothing needs to be divided again when processes are lost.
- The batch of a process stays the same when others are lost. The learning rate is proportional to
  the number of processes, which is the same as a sum of gradients that were divided by the first
  global batch.

Model, optimizer and gradients are those of the pipeline. The examples are prepared once and stay
in memory.

The process with rank 0 writes FOLDER/run/metrics.jsonl with the number of each step. Each process
writes FOLDER/examples-PID.jsonl with a row for each step that it computes: how often the training
function was entered, the step, the size of the data set, and the indices of the examples.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import gethostname
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config import load_config
from pipeline.recipes import find_recipe
from pipeline.runtimes.tensorflow_start import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

    from pipeline.training.experiment import Experiment

Batch = dict[str, Any]


def main() -> None:
    """Trains until the process is killed."""
    folder, workers, commit_every, recipe, *settings = sys.argv[1:]
    config = load_config(find_recipe(recipe), settings)
    import_tensorflow()
    import horovod.tensorflow as hvd
    import tensorflow as tf

    from pipeline.runtimes.horovod import pin_device
    from pipeline.runtimes.single import SingleRuntime
    from pipeline.training.assembly import build

    hvd.init()
    tf.config.threading.set_intra_op_parallelism_threads(1)  # as deterministic training
    experiment = build(config, SingleRuntime(pin_device(hvd.local_rank(), hvd.local_size())))
    step_of = _make_step(experiment, hvd)
    count = experiment.source.splits["train"].num_examples
    batches = _random_batches(experiment, config.data.global_batch_size // int(workers))
    state = _make_state(experiment, hvd)
    pid = os.getpid()
    print(f"rank {hvd.rank()} of {hvd.size()} on {gethostname()} joined: pid {pid}", flush=True)
    _train(hvd, state, batches, step_of, count, int(commit_every), Path(folder))


def _train(
    hvd: Any,
    state: Any,
    batches: Iterator[Batch],
    step_of: Callable[[Batch], Any],
    count: int,
    commit_every: int,
    folder: Path,
) -> None:
    (folder / "run").mkdir(exist_ok=True)
    entered = 0
    with (
        (folder / "run/metrics.jsonl").open("a", buffering=1) as metrics,
        (folder / f"examples-{os.getpid()}.jsonl").open("a", buffering=1) as examples,
    ):

        @hvd.elastic.run
        def train(state: Any) -> None:
            nonlocal entered
            entered += 1
            while True:
                batch = next(batches)
                step_of(batch)
                state.step += 1
                row: dict[str, Any] = {"entered": entered, "step": state.step, "of": count}
                row["examples"] = batch["index"].tolist()
                examples.write(f"{json.dumps(row)}\n")
                if hvd.rank() == 0:
                    metrics.write(f"{json.dumps({'step': state.step})}\n")
                if state.step % commit_every == 0:
                    state.commit()

        train(state)


def _make_step(experiment: Experiment, hvd: Any) -> Callable[[Batch], Any]:
    import tensorflow as tf

    from pipeline.training.step import make_update

    optimizer, gradients_of = experiment.optimizer, experiment.gradients.gradients_of
    update = make_update(
        experiment.config, experiment.runtime, optimizer, experiment.schedule, experiment.loss_scale
    )

    @tf.function(autograph=False)
    def step_of(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        step, applied = optimizer.iterations.value, optimizer.applied_updates.value
        _, gradients = gradients_of(batch, step, tf.constant(0))
        # Without a name: `hvd.elastic.run` knows a lost process by "HorovodAllreduce", which begins
        # the default names, in the text of the error.
        summed = [hvd.allreduce(gradient, op=hvd.Sum) for gradient in gradients]
        norm = update(summed, step, applied, tf.constant(True))
        with tf.control_dependencies([norm]):
            counts = [step.assign_add(1), applied.assign_add(1)]
        with tf.control_dependencies(counts):
            return tf.identity(norm)

    return lambda batch: step_of(batch).numpy()


def _make_state(experiment: Experiment, hvd: Any) -> Any:
    """Returns the state that Horovod saves, restores and broadcasts.

    `TensorFlowKerasState` calls `optimizer.variables()`, which is a property in Keras 3.
    `TensorFlowState` does not broadcast in TensorFlow 2.
    """
    variables = dict(experiment.variables)
    model = [variable.value for variable in variables.pop("model").values()]
    others = [variable.value for group in variables.values() for variable in group.values()]
    return hvd.elastic.TensorFlowKerasState(
        SimpleNamespace(variables=model), SimpleNamespace(variables=lambda: others), step=0
    )


def _random_batches(experiment: Experiment, size: int) -> Iterator[Batch]:
    """Yields batches that are drawn in a new random order for each pass over all examples."""
    batches = experiment.train_iterator(0)
    count = experiment.source.splits["train"].num_examples
    read: list[Batch] = []
    while sum(len(batch["index"]) for batch in read) < count:
        read.append({name: tensor.numpy() for name, tensor in next(batches).items()})
    examples = {name: np.concatenate([batch[name] for batch in read]) for name in read[0]}
    _, first = np.unique(examples["index"], return_index=True)
    random = np.random.default_rng()
    pending = np.empty(0, int)
    while True:
        if len(pending) < size:
            pending = np.concatenate([pending, random.permutation(first)])
        chosen, pending = pending[:size], pending[size:]
        yield {name: values[chosen] for name, values in examples.items()}


if __name__ == "__main__":
    main()
