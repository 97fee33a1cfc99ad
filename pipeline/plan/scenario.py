"""The plan of a recipe on a cluster, for one number of GPUs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline.config import Config
from pipeline.data.batch import check_batch
from pipeline.errors import SettingsError
from pipeline.model.architecture import architecture, check_patches
from pipeline.model.cost import variable_sizes
from pipeline.model.flops import flops_per_image, training_flops_per_image
from pipeline.model.memory import estimate_memory
from pipeline.optim.parameters import trained_paths
from pipeline.optim.steps import count_steps, epochs_to_steps
from pipeline.plan.hardware import Gpu, Links
from pipeline.plan.predict import StepTime, Work, smallest_parts, step_time, training_s

# Kernels of a block in the forward and the backward pass, kernels of a variable's update, and the
# time to launch one. Rough counts from the graph, not measured on a GPU.
_KERNELS_FORWARD, _KERNELS_BACK, _KERNELS_PER_VARIABLE, _KERNEL_S = 25, 50, 4, 4e-6
# Core seconds of the input pipeline, from docs/performance.md: a JPEG file of 500 x 375 pixels,
# whose time depends on the decoded pixels and not on the image size; a pixel from memory; and for
# each operation of RandAugment a pixel more (8 ns at 224 px, 14 at 32). Flip and crop are included.
# Mixing, jitter and erasing take less and are ignored.
_FILE_CORE_S, _PIXEL_CORE_S, _RAND_AUGMENT_CORE_S = 1 / 400, 9.6e-9, 11e-9
_START_S = 60.0
GIB = 2**30


@dataclass(frozen=True)
class GpuCluster:
    """The hardware on which the recipe will run.

    Attributes:
      gpu: Type of the GPUs.
      links: Links between them.
      spread: Standard deviation of a GPU's step time, relative to its mean.
      wake_s: Mean time until the reduction starts after a gradient is ready.
      images_per_second: Measured throughput of one GPU, or None to use the model's.
      image_bytes: Mean size of a stored image.
    """

    gpu: Gpu
    links: Links
    spread: float
    wake_s: float
    images_per_second: float | None
    image_bytes: float


@dataclass(frozen=True)
class Data:
    """The size of the data set.

    Attributes:
      images: Number of training images.
      validation_images: Number of validation images.
      test_images: Number of test images, evaluated once at the end and once for the report.
      classes: Number of classes.
      in_memory: Whether images are arrays, which are not read or decoded in training.
    """

    images: int
    validation_images: int
    test_images: int
    classes: int
    in_memory: bool = False


@dataclass(frozen=True)
class Row:
    """The plan for one number of GPUs, in bytes and seconds."""

    gpus: int
    batch: int
    parts: int
    step: StepTime
    efficiency: float
    training_s: float
    memory_bytes: float
    cores_per_node: float
    storage_bytes_per_s: float
    checkpoint_bytes: float
    checkpoint_bytes_per_s: float
    bottleneck: str
    advice: str

    @property
    def images_per_second(self) -> float:
        """Throughput of all GPUs."""
        return self.batch / self.step.total_s

    def to_json(self) -> dict[str, Any]:
        """Values by name, in base units."""
        step = self.step
        return {
            "gpus": self.gpus,
            "global_batch_size": self.batch,
            "accumulate_steps": self.parts,
            "step_s": step.total_s,
            "arithmetic_s": step.arithmetic_s,
            "host_s": step.host_s,
            "straggler_s": step.straggler_s,
            "reduction_s": step.reduction_s,
            "all_reduce_s": step.all_reduce_s,
            "images_per_second": self.images_per_second,
            "efficiency": self.efficiency,
            "training_s": self.training_s,
            "gpu_hours": self.training_s * self.gpus / 3600,
            "memory_bytes": self.memory_bytes,
            "cores_per_node": self.cores_per_node,
            "storage_bytes_per_s": self.storage_bytes_per_s,
            "checkpoint_bytes": self.checkpoint_bytes,
            "checkpoint_bytes_per_s": self.checkpoint_bytes_per_s,
            "bottleneck": self.bottleneck,
            "advice": self.advice,
        }


def make_plan(
    config: Config, cluster: GpuCluster, data: Data, gpus: int, batch_per_gpu: int | None
) -> Row:
    """Predicts what `gpus` GPUs achieve.

    Args:
      config: The recipe.
      cluster: Type and links of the GPUs.
      data: Size of the data set.
      gpus: Number of GPUs.
      batch_per_gpu: Images per GPU and update. None divides the recipe's global batch over all
        GPUs, which trains the same weights.

    Raises:
      SettingsError: Training would reject the batch or the frozen parameters, or the network does
        not fit into memory.
    """
    batch = config.data.global_batch_size if batch_per_gpu is None else batch_per_gpu * gpus
    data_config = config.data.model_copy(update={"global_batch_size": batch})
    check_batch(config.model_copy(update={"data": data_config}), gpus)
    network = _read_network(config, data)
    parts = _parts(config, cluster.gpu, network, batch // gpus)
    work = _work(config, cluster, network, batch)
    step = step_time(gpus, work, cluster.links, parts)
    # The reference is one GPU with the same batch, in parts that fit.
    alone = step_time(1, work, cluster.links, _parts(config, cluster.gpu, network, batch))
    steps_per_epoch = Fraction(data.images, batch)
    steps = count_steps(config.train, steps_per_epoch)
    if config.train.max_steps and batch_per_gpu is not None:
        steps = math.ceil(Fraction(config.train.max_steps * config.data.global_batch_size, batch))
    total_s = training_s(
        step,
        work,
        steps=steps,
        evaluated=_evaluations(config, steps, steps_per_epoch) * data.validation_images
        + (1 + config.monitor.report) * data.test_images,
        start_s=_START_S,
    )
    rate = batch / step.total_s
    node_share = min(gpus, cluster.links.per_node) / gpus  # share of a fully used node
    saved = _checkpoint_bytes(config, network)
    bottleneck, advice = _bottleneck(step, config, gpus, batch // gpus)
    if parts > config.optim.accumulate_steps:
        advice = "; ".join(
            filter(None, [advice, f"optim.accumulate_steps={parts} to fit into memory"])
        )
    return Row(
        gpus=gpus,
        batch=batch,
        parts=parts,
        step=step,
        efficiency=step.efficiency(alone),
        training_s=total_s,
        memory_bytes=_memory_bytes(config, network, batch // gpus, parts),
        cores_per_node=rate * node_share * _input_core_s(config, data),
        storage_bytes_per_s=0.0 if data.in_memory else rate * cluster.image_bytes,
        checkpoint_bytes=saved,
        checkpoint_bytes_per_s=saved / _checkpoint_interval_s(config, step, steps_per_epoch),
        bottleneck=bottleneck,
        advice=advice,
    )


def _input_core_s(config: Config, data: Data) -> float:
    """Core seconds of the input pipeline per image."""
    pixels, operations = config.data.image_size**2, config.data.augment.rand_augment_layers
    read_s = pixels * _PIXEL_CORE_S if data.in_memory else _FILE_CORE_S
    return read_s + operations * pixels * _RAND_AUGMENT_CORE_S


@dataclass(frozen=True)
class _Network:
    """The network and its trainable part.

    Attributes:
      depth: Number of blocks.
      parameters: Number of parameters.
      trained_parameters: Number of trainable parameters.
      trained: Paths of the trainable variables.
      blocks_back: Number of blocks in the backward pass: from the first with a trainable variable
        to the last, or all if a variable before them is trainable.
      forward_flops: Operations of a forward pass per image.
      training_flops: Operations of training per image: forward, backward, and recomputation.
    """

    depth: int
    parameters: int
    trained_parameters: int
    trained: list[str]
    blocks_back: int
    forward_flops: float
    training_flops: float


def _read_network(config: Config, data: Data) -> _Network:
    arch, size = architecture(config.model), config.data.image_size
    check_patches(size, arch.patch_size)
    sizes = variable_sizes(arch, size, data.classes)
    trained = trained_paths(list(sizes), config.optim)
    embedding = any(not path.startswith(("vit/block_", "vit/norm", "vit/head", "vit/pre_logits"))
                    for path in trained)  # fmt: skip
    starts = (i for i in range(arch.depth) if any(f"vit/block_{i}/" in path for path in trained))
    blocks_back = arch.depth - (0 if embedding else next(starts, arch.depth))
    forward = flops_per_image(arch, size, data.classes)
    again = config.train.recompute * forward * blocks_back / arch.depth
    return _Network(
        depth=arch.depth,
        parameters=sum(sizes.values()),
        trained_parameters=sum(sizes[path] for path in trained),
        trained=trained,
        blocks_back=blocks_back,
        forward_flops=forward,
        training_flops=again + training_flops_per_image(arch, size, data.classes, trained),
    )


def _checkpoint_bytes(config: Config, network: _Network) -> int:
    """Size of the weights, and of two moments and averages for trainable parameters."""
    kept = 2 + (config.optim.ema_momentum is not None)
    return 4 * (network.parameters + kept * network.trained_parameters)


def _memory_bytes(config: Config, network: _Network, images: int, parts: int) -> int:
    """Memory of a GPU that computes an update of `images` images in `parts` parts."""
    optim = config.optim.model_copy(update={"accumulate_steps": parts})
    data = config.data.model_copy(update={"global_batch_size": images})
    alone = config.model_copy(update={"optim": optim, "data": data})
    frozen = network.parameters - network.trained_parameters
    return sum(estimate_memory(alone, network.parameters, 1, frozen=frozen, on_gpu=True).values())


def _parts(config: Config, gpu: Gpu, network: _Network, images: int) -> int:

    def needed(parts: int) -> float:
        return _memory_bytes(config, network, images, parts)

    fitting = smallest_parts(images, needed, gpu.memory_gib * GIB)
    if fitting is None:
        raise SettingsError(
            f"the network does not fit into a {gpu.name} with {gpu.memory_gib:g} GiB even with one "
            f"image: it needs {needed(images) / GIB:.1f} GiB"
        )
    return max(config.optim.accumulate_steps, fitting)


def _work(config: Config, cluster: GpuCluster, network: _Network, batch: int) -> Work:
    gpu, half = cluster.gpu, config.train.precision != "float32"
    reached = gpu.efficiency * (gpu.half_tflops if half else gpu.single_tflops) * 1e12
    measured = cluster.images_per_second
    sent = 2 if config.distribute.compression == "float16" else 4
    kernels = network.depth * _KERNELS_FORWARD + network.blocks_back * _KERNELS_BACK
    return Work(
        global_batch_size=batch,
        image_s=1 / measured if measured else network.training_flops / reached,
        part_kernels_s=kernels * _KERNEL_S,
        update_kernels_s=len(network.trained) * _KERNELS_PER_VARIABLE * _KERNEL_S,
        gradient_bytes=network.trained_parameters * sent,
        last_fraction=1 / (network.blocks_back + 1),
        passes=network.training_flops / network.forward_flops,
        overlaps=config.train.xla != "always",  # with which all gradients arrive at the end
        wake_s=cluster.wake_s,
        spread=cluster.spread,
    )


def _evaluations(config: Config, steps: int, steps_per_epoch: Fraction) -> int:
    """Number of evaluations: at the first step after each period, and at the last step."""
    train = config.train
    if train.evaluate_every_steps is not None:
        period = Fraction(train.evaluate_every_steps)
    elif train.evaluate_every_epochs is not None:
        period = epochs_to_steps(train.evaluate_every_epochs, steps_per_epoch)
    else:
        return 1
    whole = steps // period
    return whole + (math.ceil(whole * period) < steps)


def _checkpoint_interval_s(config: Config, step: StepTime, steps_per_epoch: Fraction) -> float:
    """Seconds between two checkpoints: the shortest of the configured intervals."""
    saves = config.checkpoint
    intervals_s = [
        saves.every_s,
        None if saves.every_steps is None else saves.every_steps * step.total_s,
        None
        if saves.every_epochs is None
        else epochs_to_steps(saves.every_epochs, steps_per_epoch) * step.total_s,
    ]
    return min((s for s in intervals_s if s is not None), default=math.inf)


def _bottleneck(step: StepTime, config: Config, gpus: int, images: int) -> tuple[str, str]:
    """The largest loss of time in a step besides the arithmetic, and a setting that reduces it."""
    losses = {
        "reduction": step.reduction_s,
        "stragglers": step.straggler_s,
        "host": step.host_s,
    }
    name = max(losses, key=lambda key: losses[key])
    if losses[name] < 0.05 * step.total_s:
        half = config.train.precision != "float32"
        advice = "" if half else "train.precision=mixed_bfloat16"
        return "arithmetic", advice
    if name == "reduction":
        sent = "" if config.distribute.compression == "float16" else (
            "distribute.compression=float16, or "
        )  # fmt: skip
        return name, f"{sent}a larger data.global_batch_size (now {images} images per GPU)"
    if name == "stragglers":
        return name, f"equal nodes, because every step waits for the slowest of {gpus}"
    return name, f"a larger data.global_batch_size, or fewer GPUs (now {images} images per GPU)"
