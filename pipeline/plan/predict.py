"""Predicts the time of a step on N workers, and of a whole training run.

A step on one worker with b images of the batch takes:

    compute     b x seconds per image, or the time in which the host launches the kernels, whichever
                is longer. Two thirds of it are the backward pass, or three quarters if the forward
                pass is recomputed.
    stragglers  The time by which the slowest of N workers exceeds the mean. Their times are
                normally distributed (Blom 1958, "Statistical Estimates and Transformed
                Beta-Variables": the largest of N is at the quantile (N - 3/8) / (N + 1/4)).
    reduction   The part of the all-reduce that the backward pass does not hide. The gradients of
                the first block are ready last, so their reduction is never hidden.

If a batch is computed in parts (optim.accumulate_steps), the gradients are complete only during the
backward pass of the last part, and only that can hide the reduction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from pipeline.plan.hardware import Links
from pipeline.plan.reduction import all_reduce_s


@dataclass(frozen=True)
class Work:
    """The work of one update, independent of the number of workers.

    Attributes:
      global_batch_size: Images per update.
      image_s: Seconds per image on one worker that never waits, forward and backward.
      part_kernels_s: Seconds in which the host launches the kernels of one part of a batch.
      update_kernels_s: Seconds in which the host launches the kernels of an update.
      gradient_bytes: Size of the gradients.
      last_fraction: Fraction of the gradients that is ready only at the end of the backward pass.
      passes: Operations per image in units of a forward pass: one forward, up to two backward, and
        one more if activations are recomputed.
      overlaps: Whether the reduction overlaps with the backward pass.
      wake_s: Mean time until the reduction starts after a gradient is ready (Horovod's cycle).
      spread: Standard deviation of a worker's step time, relative to its mean.
    """

    global_batch_size: int
    image_s: float
    part_kernels_s: float
    update_kernels_s: float
    gradient_bytes: float
    last_fraction: float
    passes: float = 3.0
    overlaps: bool = True
    wake_s: float = 0.0
    spread: float = 0.0


@dataclass(frozen=True)
class StepTime:
    """The time of one update in seconds, by cause.

    Attributes:
      workers: Number of workers.
      arithmetic_s: Computing the images, on a worker that never waits.
      host_s: Additional time because the host launches kernels too slowly.
      straggler_s: Waiting for the slowest worker.
      reduction_s: The part of the all-reduce that is not hidden.
      all_reduce_s: The whole all-reduce, hidden or not. Not part of the total.
    """

    workers: int
    arithmetic_s: float
    host_s: float
    straggler_s: float
    reduction_s: float
    all_reduce_s: float

    @property
    def total_s(self) -> float:
        """The time of the update."""
        return self.arithmetic_s + self.host_s + self.straggler_s + self.reduction_s

    def efficiency(self, one: StepTime) -> float:
        """Throughput per worker, relative to that of `one` worker with the same batch."""
        return one.total_s / (self.workers * self.total_s)


def step_time(workers: int, work: Work, links: Links, parts: int = 1) -> StepTime:
    """Predicts the time of an update.

    Args:
      workers: N. Each worker takes 1/N of the batch.
      work: Work of one update.
      links: Links between the workers.
      parts: Number of sequential parts of a worker's batch.
    """
    arithmetic_s = work.global_batch_size / workers * work.image_s
    host_s = max(0.0, parts * work.part_kernels_s + work.update_kernels_s - arithmetic_s)
    compute_s = arithmetic_s + host_s
    whole_s = all_reduce_s(workers, work.gradient_bytes, links)
    last_s = all_reduce_s(workers, work.gradient_bytes * work.last_fraction, links)
    exposed_s = 0.0
    if workers > 1:
        backward_s = compute_s * (work.passes - 1) / work.passes
        hidden_s = backward_s / parts if work.overlaps else 0.0
        exposed_s = max(whole_s - hidden_s, last_s) + work.wake_s
    straggler_s = compute_s * work.spread * _largest_of(workers)
    return StepTime(workers, arithmetic_s, host_s, straggler_s, exposed_s, whole_s)


def _largest_of(count: int) -> float:
    """The expected maximum of `count` standard normal variables."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25)) if count > 1 else 0.0


def training_s(
    step: StepTime,
    work: Work,
    *,
    steps: int,
    evaluated: int,
    start_s: float,
) -> float:
    """Predicts the duration of a run in seconds.

    Args:
      step: Time of one update.
      work: Work of one update.
      steps: Number of updates.
      evaluated: Number of images in all evaluations.
      start_s: Time until the first update.
    """
    # An evaluation takes one of the passes of a training step.
    image_s = (step.arithmetic_s + step.host_s) / work.passes / work.global_batch_size
    return start_s + steps * step.total_s + evaluated * image_s


def smallest_parts(images: int, needed: Callable[[int], float], memory: float) -> int | None:
    """The smallest number of parts in which a worker's batch fits into memory, or None.

    Args:
      images: Images per worker and update.
      needed: Maps a number of parts to bytes.
      memory: Available bytes.
    """
    divisors = (parts for parts in range(1, images + 1) if images % parts == 0)
    return next((parts for parts in divisors if needed(parts) <= memory), None)
