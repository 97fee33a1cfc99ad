"""A step's time on N workers, and what follows from it: rate, time to the end, memory, input.

A step on one worker, with b of the batch's images:

    compute     b x seconds an image, or as long as the host needs to start the step's kernels,
                whichever is longer; two thirds of it are the backward pass, or three quarters where
                the forward pass is done again in it
    stragglers  how much longer than the mean the slowest of N workers takes, whose times are
                normally distributed about it (Blom 1958, "Statistical Estimates and Transformed
                Beta-Variables": the largest of N is at the quantile (N - 3/8) / (N + 1/4))
    reduction   what is left of the all-reduce once the backward pass has hidden what it can: the
                gradients of the first block are ready last, and their sum is never hidden

Where a batch is computed in parts (optim.accumulate_steps), the gradients are whole in the last
part's backward pass only, and no more than that can hide their sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from pipeline.plan.hardware import Links
from pipeline.plan.reduction import all_reduce_s


@dataclass(frozen=True)
class Work:
    """What one update does, whoever does it.

    Attributes:
      global_batch_size: Images.
      image_s: Seconds an image takes one worker that is never kept waiting, forward and back.
      part_kernels_s: Seconds the host needs to start the kernels of one part of a batch.
      update_kernels_s: And of an update.
      gradient_bytes: To be summed.
      last_fraction: Part of them that is ready only when the backward pass has ended.
      passes: Operations of an image, in forward passes: one forward, up to two back, and one more
        where activations are computed again.
      overlaps: Whether gradients are summed while others are computed.
      wake_s: Until the reduction notices that a gradient is there, on the mean: Horovod's cycle.
      spread: Deviation of a worker's step time, as a part of it.
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
    """Seconds of one update, by what they are spent on.

    Attributes:
      arithmetic_s: The images, on a worker that is never kept waiting.
      host_s: What the host's start of kernels adds to that.
      straggler_s: Waiting for the slowest.
      reduction_s: What of the all-reduce is not hidden.
      all_reduce_s: The whole of it, hidden or not; no part of the sum.
    """

    workers: int
    arithmetic_s: float
    host_s: float
    straggler_s: float
    reduction_s: float
    all_reduce_s: float

    @property
    def total_s(self) -> float:
        """The update's time."""
        return self.arithmetic_s + self.host_s + self.straggler_s + self.reduction_s

    def efficiency(self, one: StepTime) -> float:
        """Images a second and worker, as a part of those of `one` worker with the same batch."""
        return one.total_s / (self.workers * self.total_s)


def step_time(workers: int, work: Work, links: Links, parts: int = 1) -> StepTime:
    """The time of an update.

    Args:
      workers: N; each takes an N-th of the batch.
      work: Of one update.
      links: Between them.
      parts: Of a worker's batch, one after the other.
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
    """Mean of the largest of so many standard normal numbers."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25)) if count > 1 else 0.0


def training_s(
    step: StepTime,
    work: Work,
    *,
    steps: int,
    evaluated: int,
    start_s: float,
) -> float:
    """Seconds from the start to the end of a run.

    Args:
      step: Of one update.
      work: Of one update.
      steps: Updates.
      evaluated: Images that are looked at without learning from them.
      start_s: Until the first update.
    """
    # One pass of those that an image of an update takes.
    image_s = (step.arithmetic_s + step.host_s) / work.passes / work.global_batch_size
    return start_s + steps * step.total_s + evaluated * image_s


def smallest_parts(images: int, needed: Callable[[int], float], memory: float) -> int | None:
    """Parts a worker's batch must be computed in to fit; None where not even one image does.

    Args:
      images: Of one worker and update.
      needed: Bytes for a number of parts.
      memory: Bytes there are.
    """
    divisors = (parts for parts in range(1, images + 1) if images % parts == 0)
    return next((parts for parts in divisors if needed(parts) <= memory), None)
