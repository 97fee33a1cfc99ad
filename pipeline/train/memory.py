"""What training needs of memory, and what to say where there is not enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from pipeline.config import Config
from pipeline.errors import PipelineError
from pipeline.model.architecture import architecture
from pipeline.model.cost import activation_bytes_per_image, count_parameters, count_trained

if TYPE_CHECKING:
    from pipeline.train.experiment import Experiment

_GIB = 2**30
_MOST_PARTS = 16


class OutOfMemoryError(PipelineError):
    """A device has less memory than a step needs."""


def estimate_memory(
    config: Config, parameters: int, num_replicas: int, *, frozen: int = 0, side_by_side: int = 1
) -> dict[str, int]:
    """Bytes a replica needs to train, by what they are for.

    Weights, gradients, moments and averages are float32, four bytes a parameter each; activations
    are those of one part of the replica's batch, kept for the backward pass. Where there are
    several, beside the sum of the gradients there are those of each part that is being computed.

    Args:
      config: Network, batch, precision.
      parameters: Of the network, the frozen ones too.
      num_replicas: In all.
      frozen: How many have weights alone.
      side_by_side: Parts that are computed at a time, of each that is computed in turn.
    """
    one = 4 * (parameters - frozen)
    images = config.data.global_batch_size // (num_replicas * config.optim.accumulate_steps)
    per_image = activation_bytes_per_image(
        architecture(config.model), config.data.image_size, config.train.precision,
        recompute=config.train.recompute,
    )  # fmt: skip
    in_parts = config.optim.accumulate_steps * side_by_side > 1
    gradients = one * (1 + side_by_side if in_parts else 1)
    parts = {"weights": 4 * parameters, "gradients": gradients, "AdamW's two moments": 2 * one}
    if config.optim.ema_momentum is not None:
        parts["averaged weights"] = one
    return parts | {f"activations of {images} images": images * per_image}


def memory_of(experiment: Experiment, config: Config | None = None) -> dict[str, int]:
    """`estimate_memory` of an experiment, as it is or with another batch or precision."""
    model, runtime = experiment.model, experiment.runtime
    parameters = count_parameters(model)
    return estimate_memory(
        config or experiment.config,
        parameters,
        runtime.num_replicas,
        frozen=parameters - count_trained(model),
        side_by_side=runtime.parts_at_a_time,
    )


def out_of_memory(
    config: Config, need_of: Callable[[Config], float], num_replicas: int, what: str
) -> OutOfMemoryError:
    """The error, with the settings that need less and what they are estimated to need.

    Args:
      config: Of the run.
      need_of: Bytes that a replica needs with some settings, of `estimate_memory`.
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
        f"the memory is full: {what}. A replica was estimated to need {need:.1f} GiB beside "
        "TensorFlow itself. " + "\n".join(remedy)
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
