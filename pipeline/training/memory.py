"""Estimates the memory of an experiment, and creates the error for too little memory."""

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
    """A training step needs more memory than the device has."""


def memory_of(experiment: Experiment, config: Config | None = None) -> dict[str, int]:
    """Estimates the memory of an experiment in bytes, by purpose.

    On a CPU, it is the memory of this process with all its replicas. On a GPU, it is the memory of
    one GPU.

    Args:
      experiment: The experiment.
      config: Settings to use instead of its own, with another batch size or precision.
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
    """Creates the error, which suggests settings that need less memory, with estimates.

    Args:
      config: The settings of the run.
      need_of: Returns the estimated memory in bytes for given settings.
      num_replicas: Number of replicas in all processes.
      what: The error message of the device.
    """
    need = need_of(config) / _GIB
    smaller = {
        text: need_of(candidate) / _GIB for text, candidate in _candidates(config, num_replicas)
    }
    lines = [f"  {text:<48} {size:6.1f} GiB" for text, size in smaller.items() if size < need]
    remedy = ["Reduce data.global_batch_size, data.image_size or the size of the model"]
    if lines:
        first = "These settings need less memory for the same batch:"
        last = "Add one of them to the same command: the run resumes from its last checkpoint"
        remedy = [first, *lines, last]
    return OutOfMemoryError(
        f"out of memory: {what}. The estimated need is {need:.1f} GiB. " + "\n".join(remedy)
    )


def _candidates(config: Config, num_replicas: int) -> Iterator[tuple[str, Config]]:
    def candidate(**changes: Mapping[str, object]) -> Config:
        sections = {
            name: getattr(config, name).model_copy(update=change)
            for name, change in changes.items()
        }
        return config.model_copy(update=sections)

    recompute = {"recompute": True}
    if config.train.precision == "float32":
        yield "train.precision=mixed_bfloat16", candidate(train={"precision": "mixed_bfloat16"})
    if not config.train.recompute:
        yield "train.recompute=true", candidate(train=recompute)
    share, parts = config.data.global_batch_size // num_replicas, config.optim.accumulate_steps
    while (parts := 2 * parts) <= _MOST_PARTS and share % parts == 0:
        change, text = {"accumulate_steps": parts}, f"optim.accumulate_steps={parts}"
        yield text, candidate(optim=change)
        if not config.train.recompute:
            yield f"{text} train.recompute=true", candidate(optim=change, train=recompute)
