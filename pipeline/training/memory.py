"""How much memory an experiment needs, and the error where there is not enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import tensorflow as tf

from pipeline.config import Config
from pipeline.errors import PipelineError
from pipeline.model.cost import count_parameters, count_trainable
from pipeline.model.memory import estimate_memory

if TYPE_CHECKING:
    from pipeline.training.experiment import Experiment

_GIB = 2**30
_MOST_PARTS = 16


class OutOfMemoryError(PipelineError):
    """A device has less memory than a step needs."""


def memory_of(experiment: Experiment, config: Config | None = None) -> dict[str, int]:
    """`estimate_memory` of an experiment, as it is or with another batch or precision.

    On a CPU it is the process's memory, with all of its replicas; on a GPU that of one GPU.
    """
    model, runtime = experiment.model, experiment.runtime
    parameters = count_parameters(model)
    return estimate_memory(
        config or experiment.config,
        parameters,
        runtime.num_replicas,
        frozen=parameters - count_trainable(model),
        parallel_parts=runtime.parallel_parts,
        local_replicas=runtime.local_replicas,
        on_gpu=bool(tf.config.list_logical_devices("GPU")),
    )


def out_of_memory(
    config: Config, need_of: Callable[[Config], float], num_replicas: int, what: str
) -> OutOfMemoryError:
    """The error, with the settings that need less and what they are estimated to need.

    Args:
      config: Of the run.
      need_of: Bytes needed with some settings, of `estimate_memory`.
      num_replicas: In all.
      what: The device's own words.
    """
    need = need_of(config) / _GIB
    smaller = {
        text: need_of(candidate) / _GIB for text, candidate in _candidates(config, num_replicas)
    }
    lines = [f"  {text:<48} {size:6.1f} GiB" for text, size in smaller.items() if size < need]
    remedy = ["Take a smaller data.global_batch_size, network or data.image_size"]
    if lines:
        first = "With the same batch it needs less with"
        last = "Give the same command with one of them: the run goes on from its last checkpoint"
        remedy = [first, *lines, last]
    return OutOfMemoryError(
        f"the memory is full: {what}. {need:.1f} GiB were estimated to be needed. "
        + "\n".join(remedy)
    )


def _candidates(config: Config, num_replicas: int) -> Iterator[tuple[str, Config]]:
    def candidate(**changes: Mapping[str, object]) -> Config:
        stages = {
            name: getattr(config, name).model_copy(update=change)
            for name, change in changes.items()
        }
        return config.model_copy(update=stages)

    again = {"recompute": True}
    if config.train.precision == "float32":
        yield "train.precision=mixed_bfloat16", candidate(train={"precision": "mixed_bfloat16"})
    if not config.train.recompute:
        yield "train.recompute=true", candidate(train=again)
    share, parts = config.data.global_batch_size // num_replicas, config.optim.accumulate_steps
    while (parts := 2 * parts) <= _MOST_PARTS and share % parts == 0:
        change, text = {"accumulate_steps": parts}, f"optim.accumulate_steps={parts}"
        yield text, candidate(optim=change)
        if not config.train.recompute:
            yield f"{text} train.recompute=true", candidate(optim=change, train=again)
