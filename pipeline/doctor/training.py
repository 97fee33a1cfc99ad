"""Checks of batch, network, learning rate, memory and checkpoints. They need TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline.config import CheckpointConfig, Config, ModelConfig
from pipeline.data.augment.mix import GROUP
from pipeline.data.batch import batch_problem, check_batch, check_examples
from pipeline.data.input import train_dataset
from pipeline.data.shard import Shard
from pipeline.data.sources.source import HALF
from pipeline.data.split import DataSource
from pipeline.doctor.finding import Finding, error, ok, warning
from pipeline.doctor.processes import JobProcesses
from pipeline.model.architecture import architecture, check_patches
from pipeline.model.cost import count_parameters, count_trainable, parameters
from pipeline.model.memory import estimate_memory
from pipeline.model.vit import build_vit
from pipeline.model.weights.files import read_published
from pipeline.model.weights.fit import check_same_network
from pipeline.optim.parameters import freeze
from pipeline.optim.schedule import Schedule, describe_rate, warmup_problem
from pipeline.runs.folder import RunFolder
from pipeline.training.precision import INSTEAD_OF_SLOW, Precision

# The estimate is within 15 % of measurements (`python -m benchmarks memory`).
TIGHT = 0.85
# AdamW recipes for ViTs peak at 5e-4 (DeiT) to 3e-3 (Steiner et al.), small networks at 8e-3.
LARGE_PEAK_LR = 1e-2
SLOW_DISK_BYTES_S = 50e6
_GIB = 2**30


def check_replicas(config: Config, num_replicas: int, examples: int | None) -> Iterator[Finding]:
    """Checks that the batch divides into replicas, parts and mixing pairs, and the data suffice."""
    check_batch(config, num_replicas)
    if examples is not None:
        check_examples(examples, num_replicas)
    batch, parts = config.data.global_batch_size, config.optim.accumulate_steps
    share = batch // num_replicas
    in_parts = f", in {parts} parts of {share // parts}" if parts > 1 else ""
    replicas = f"{num_replicas} replica{'s' if num_replicas > 1 else ''}"
    yield ok("batch", f"{batch:,} images an update: {replicas} of {share:,}{in_parts}")


def check_network(config: Config, num_classes: int | None) -> Iterator[Finding]:
    """Checks that the network fits the images. Counts parameters if the classes are known."""
    arch = architecture(config.model)
    check_patches(config.data.image_size, arch.patch_size)
    tokens = arch.num_tokens(config.data.image_size)
    if num_classes is None:
        yield ok("network", f"{config.model.variant}, {tokens} tokens an image")
        return
    count = parameters(arch, config.data.image_size, num_classes)
    yield ok("network", f"{config.model.variant}, {count:,} parameters, {tokens} tokens an image")


def check_input(config: Config, source: DataSource, num_replicas: int) -> Iterable[Finding]:
    """Traces the input pipeline with a few examples, which raises if settings do not match it."""
    train = source.splits["train"]
    few = train.take(np.arange(min(16, train.num_examples)), train.title)
    train_dataset(
        few,
        config.data,
        num_classes=len(source.classes),
        mean=HALF[0],
        std=HALF[1],
        seed=config.seed,
        start_step=0,
        shard=Shard(0, config.microbatches or num_replicas),
    )
    return ()


def check_pretrained(config: ModelConfig) -> Iterator[Finding]:
    """Checks that published weights named by `model.pretrained` match the recipe's network."""
    path = Path(config.pretrained or "")
    if config.pretrained is None or RunFolder(path).is_run:
        return
    published = read_published(path)
    check_same_network(published, architecture(config), f"model.pretrained={path}")
    yield ok("pretrained", f"{path} is {published.origin} and matches the recipe's network")


def check_precision(precision: Precision) -> Iterator[Finding]:
    """Reports the precision, and whether the devices support it in hardware."""
    if precision.warning is not None:
        yield warning("precision", precision.warning, INSTEAD_OF_SLOW)
        return
    yield ok("precision", precision.note or precision.config.train.precision)


def check_length(schedule: Schedule, config: Config, examples: int) -> Iterator[Finding]:
    """Reports the number of steps in total and per epoch."""
    batch = config.data.global_batch_size
    per_epoch = examples / batch
    epochs = schedule.total_steps / per_epoch
    yield ok(
        "length",
        f"{schedule.total_steps:,} steps in {epochs:,.4g} epochs, {per_epoch:,.4g} steps an epoch",
    )
    if (problem := batch_problem(batch, examples)) is not None:
        yield warning("length", *problem)


def check_rate(schedule: Schedule, config: Config, examples: int) -> Iterator[Finding]:
    """Reports the resulting peak of the learning rate and the length of the warm-up."""
    steps, warmup = schedule.total_steps, schedule.warmup_steps
    per_epoch = Fraction(examples, config.data.global_batch_size)
    if (problem := warmup_problem(schedule, per_epoch)) is not None:
        yield warning("learning rate", *problem)
    if schedule.peak_lr > LARGE_PEAK_LR:
        yield warning(
            "learning rate",
            f"{describe_rate(config, schedule)}: usual values for ViTs with AdamW are 0.0005 to "
            "0.008",
            "Lower optim.base_lr, or set optim.lr_scaling=sqrt or none",
        )
    elif warmup < steps:
        in_epochs = f"; the warm-up is {float(warmup / per_epoch):.3g} epochs" if warmup else ""
        yield ok("learning rate", describe_rate(config, schedule) + in_epochs)


def checkpoint_bytes(config: Config, num_classes: int) -> int:
    """Estimates the size of a checkpoint: weights, two moments and averages in float32."""
    arch = architecture(config.model)
    copies = 4 if config.optim.ema_momentum is not None else 3
    return 4 * copies * parameters(arch, config.data.image_size, num_classes)


def check_memory(
    config: Config,
    num_classes: int,
    job: JobProcesses,
    available: tuple[int, str],
    *,
    on_gpu: bool,
) -> Iterator[Finding]:
    """Compares the estimated memory of training with the available memory.

    Args:
      config: Settings of the network, the batch and the precision.
      num_classes: Number of classes.
      job: Processes on one host share its memory; each replica has its own GPU.
      available: Available bytes, and a description for messages.
      on_gpu: Whether training uses GPUs, and the bytes are those of one GPU.
    """
    arch = architecture(config.model)
    count = parameters(arch, config.data.image_size, num_classes)
    frozen = _count_frozen(config, num_classes)
    free, of = available
    processes = 1 if on_gpu else job.processes_here

    def needed(parts: int) -> int:
        optim = config.optim.model_copy(update={"accumulate_steps": parts})
        candidate = config.model_copy(update={"optim": optim})
        need = estimate_memory(
            candidate,
            count,
            job.num_replicas,
            frozen=frozen,
            parallel_parts=job.parallel_parts,
            local_replicas=job.local_replicas,
            on_gpu=on_gpu,
        )
        return processes * sum(need.values())

    need = needed(config.optim.accumulate_steps)
    text = f"about {need / _GIB:,.1f} GiB needed, {free / _GIB:,.1f} GiB {of}"
    if need < TIGHT * free:
        yield ok("memory", text)
        return
    level = warning if need <= free else error
    batch = config.data.global_batch_size
    pairs = GROUP if config.data.mixup_alpha or config.data.cutmix_alpha else 1
    share = batch // job.num_replicas
    fitting = (n for n in range(config.optim.accumulate_steps + 1, share + 1) if not share % n)
    if share % pairs == 0 and (parts := next((n for n in fitting if needed(n) < TIGHT * free), 0)):
        remedy = f"optim.accumulate_steps={parts} computes the same batch in {parts} parts"
    else:
        remedy = "Use a smaller data.global_batch_size, network or data.image_size"
    yield level(
        "memory",
        text,
        f"{remedy}; train.recompute=true and train.precision=mixed_bfloat16 need less",
    )


def _count_frozen(config: Config, num_classes: int) -> int:
    """Counts the parameters frozen by `optim.freeze` and `optim.linear_probe`."""
    if not (config.optim.freeze or config.optim.linear_probe):
        return 0
    model = build_vit(config.model, image_size=config.data.image_size, num_classes=num_classes)
    freeze(model.variables, config.optim)
    return count_parameters(model) - count_trainable(model)


def check_saving(config: CheckpointConfig, size_bytes: int, total_steps: int) -> Iterator[Finding]:
    """Reports when checkpoints are written, and whether one can be written after a stop signal."""
    times = (
        ("step", config.every_steps),
        ("second", config.every_s),
        ("epoch", config.every_epochs),
    )
    every = " and ".join(f"every {n:g} {unit}(s)" for unit, n in times if n is not None)
    if not every:
        yield warning(
            "checkpoints",
            f"none before the end of {total_steps:,} steps: a crash loses all progress",
            "checkpoint.every_epochs=1, or checkpoint.every_s=1800",
        )
    takes_s = size_bytes / SLOW_DISK_BYTES_S
    grace = f"checkpoint.grace_s={config.grace_s:g}"
    if takes_s > config.grace_s / 2:
        yield warning(
            "checkpoints",
            f"one of {size_bytes / 1e6:,.0f} MB takes {takes_s:,.0f} s at 50 MB/s, but {grace} "
            "limits the time to write it after a signal",
            f"checkpoint.grace_s={math.ceil(3 * takes_s)}, and a longer grace period of the "
            "scheduler (terminationGracePeriodSeconds, vit launch --grace-s)",
        )
    elif every:
        yield ok(
            "checkpoints",
            f"{size_bytes / 1e6:,.1f} MB {every}; a stop takes up to {config.grace_s:g} s, and the "
            "scheduler's grace period must be longer",
        )
