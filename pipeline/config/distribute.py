"""The `distribute` section."""

from __future__ import annotations

from typing import Literal

from pipeline.config.section import Section, setting


class DistributeConfig(Section):
    """Devices and processes. Of these settings, only `compression` affects the trained weights."""

    runtime: Literal["auto", "single", "mirrored", "horovod", "multi_worker"] = setting(
        "auto",
        "How replicas cooperate. single: one device. mirrored: all devices of this machine. "
        "horovod, multi_worker: several processes that are started together. auto: chosen from the "
        "environment and the devices.",
        may_change=True,
    )
    device: Literal["auto", "gpu"] = setting(
        "auto",
        "gpu: fail if TensorFlow finds no GPU, instead of training on the CPU.",
        may_change=True,
    )
    compression: Literal["none", "float16"] = setting(
        "none", "Number format in which Horovod sends gradients."
    )
    elastic_nccl: bool = setting(
        False,
        "Lets elastic jobs sum gradients on GPUs with NCCL. This has not been tested on GPUs.",
        may_change=True,
    )
    cpu_devices: int = setting(
        1,
        "Number of logical devices into which the CPU is divided, to try the mirrored runtime "
        "without GPUs.",
        may_change=True,
        ge=1,
        le=1024,
    )
    intra_op_threads: int | None = setting(
        None,
        "Number of threads per operation. null: TensorFlow's default, except on a CPU with up to 8 "
        "cores. There each operation uses one thread, and each core processes one part of the "
        "batch.",
        may_change=True,
        ge=1,
        le=1024,
    )
