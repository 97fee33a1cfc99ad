"""A plan as text: one line for each number of GPUs, and what each needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.config import Config
from pipeline.plan.scenario import Data, GpuCluster, Row

_LIMITS = {
    "arithmetic": "arithmetic",
    "reduction": "the reduction of gradients",
    "stragglers": "stragglers",
    "host": "the host",
}


def plan_lines(
    config: Config,
    cluster: GpuCluster,
    data: Data,
    rows: Sequence[Row],
    *,
    network: str,
    price: float | None,
) -> Iterator[str]:
    """Yields the lines of the plan.

    Args:
      network: Bandwidth of a node, as the user wrote it.
      price: Price of one GPU for an hour, or None to leave out the cost.
    """
    gpu = cluster.gpu
    rate = cluster.images_per_second
    speed = (
        f"{rate:,.0f} images/s per GPU as given"
        if rate
        else f"{gpu.efficiency:.1%} of the peak ({gpu.source})"
    )
    yield (
        f"{config.model.variant} at {config.data.image_size} px, {config.train.precision}, "
        f"{data.images:,} images; {gpu.name}, {cluster.links.per_node} per node, "
        f"{network} between nodes; {speed}"
    )
    yield (
        f"{'GPUs':>6}{'batch':>8}{'parts':>7}{'step ms':>10}{'images/s':>11}{'efficiency':>12}"
        f"{'arithmetic':>12}{'host':>7}{'wait':>7}{'reduce':>8}{'hours':>8}{'GPU hours':>11}"
        f"{'GiB':>7}"
    )
    yield from map(_row, rows)
    for row in rows:
        yield _requirements(row, price)


def _row(row: Row) -> str:
    step = row.step
    parts = (step.arithmetic_s, step.host_s, step.straggler_s, step.reduction_s)
    arithmetic, host, wait, reduction = (part / step.total_s for part in parts)
    hours = row.training_s / 3600
    return (
        f"{row.gpus:>6}{row.batch:>8,}{row.parts:>7}{1e3 * step.total_s:>10.1f}"
        f"{row.images_per_second:>11,.0f}{row.efficiency:>12.1%}{arithmetic:>12.0%}"
        f"{host:>7.0%}{wait:>7.0%}{reduction:>8.0%}{hours:>8.1f}"
        f"{hours * row.gpus:>11,.0f}{row.memory_bytes / 2**30:>7.1f}"
    )


def _requirements(row: Row, price: float | None) -> str:
    """What the input, the storage and the checkpoints need, the cost, and what limits the speed."""
    cost = ""
    if price is not None:
        cost = f"; costs {row.training_s / 3600 * row.gpus * price:,.0f}"
    advice = f". To speed it up: {row.advice}" if row.advice else ""
    stored = f"{row.storage_bytes_per_s / 1e6:,.0f} MB/s of images, "
    return (
        f"{row.gpus:>6} GPU{'s' if row.gpus > 1 else ''}: {row.cores_per_node:,.1f} cores per node "
        f"for the input, {stored if row.storage_bytes_per_s else ''}checkpoints of "
        f"{row.checkpoint_bytes / 1e6:,.0f} MB at {row.checkpoint_bytes_per_s / 1e6:,.1f} MB/s or "
        f"more{cost}; limited by {_LIMITS[row.bottleneck]}{advice}"
    )
