"""The devices and threads of this process."""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress

import tensorflow as tf

from pipeline.config import DistributeConfig
from pipeline.cores import available_cores
from pipeline.errors import SettingsError
from pipeline.runtimes.environment import Place

# Most parts of a batch that a CPU computes in parallel. With more cores, each operation uses all of
# them instead, because every part produces a gradient of its own that has to be summed.
_MAX_PARTS = 8
_THREADS = "TF_NUM_INTRAOP_THREADS"


def local_devices() -> list[str]:
    """Short names of the devices that this process trains on, such as GPU:1."""
    devices = tf.config.get_visible_devices("GPU") or tf.config.get_visible_devices("CPU")
    return [device.name.removeprefix("/physical_device:") for device in devices]


def replica_devices() -> list[str]:
    """The devices to train on: all GPUs, or the logical CPU devices if there is no GPU."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return [device.name for device in tf.config.list_logical_devices(kind)]


def parallel_parts(
    config: DistributeConfig, place: Place, deterministic: bool = False
) -> int | None:
    """Number of parts of a replica's batch to compute in parallel, with one thread each.

    On a CPU there is one part for each core that this process has for a replica. The operations of
    a network are short, so two threads that share an operation mostly wait for each other. Measured
    on two cores, two halves of a batch in parallel are 15 % (float32) to 40 % (bfloat16, small
    network) faster than one batch with two threads per operation.

    Args:
      config: The number of threads and of logical devices.
      place: The place of this process on its host.
      deterministic: Whether results must not depend on the number of cores. Each part is then a
        microbatch, and operations have one thread, whatever the number of cores. With several
        threads, TensorFlow divides sums and matrix products in a way that depends on their number.

    Returns:
      None to compute the batch as a whole with TensorFlow's own threading: on a GPU and, if not
      `deterministic`, with more than 8 cores (not measured), or if the user has set the number of
      threads.
    """
    cores = own_cores(place.local_size)
    if tf.config.list_physical_devices("GPU"):
        return None
    if not deterministic:
        set_by_user = config.intra_op_threads is not None or os.environ.get(_THREADS, "1") != "1"
        if set_by_user or cores > _MAX_PARTS:
            return None
    return max(1, cores // config.cpu_devices)


def intra_op_threads(
    config: DistributeConfig, place: Place, deterministic: bool = False
) -> int | None:
    """Threads per operation; None leaves it to TensorFlow or to TF_NUM_INTRAOP_THREADS.

    TensorFlow uses one thread for each core in the CPU affinity mask. It ignores the CPU limit of a
    container.
    """
    if config.intra_op_threads is not None:
        return config.intra_op_threads
    if parallel_parts(config, place, deterministic) is not None:
        return 1
    limited = available_cores() < len(os.sched_getaffinity(0))
    return own_cores(place.local_size) if limited and _THREADS not in os.environ else None


def own_cores(local_size: int) -> int:
    """Cores for one of `local_size` processes on this host, at least 1.

    If a launcher has bound each process to its own cores, these are the cores of this process.
    Otherwise the processes divide the cores that this process may use.
    """
    cores, bound = available_cores(), len(os.sched_getaffinity(0))
    is_own = cores == bound < (os.cpu_count() or 1)
    return max(1, cores if is_own else cores // local_size)


def configure_devices(
    config: DistributeConfig, threads: int | None, *, must_be_set: bool = False
) -> None:
    """Configures threads and devices before TensorFlow initializes them.

    Args:
      config: The number of logical devices.
      threads: Number of threads per operation; None leaves it as it is.
      must_be_set: Whether to fail if TensorFlow already uses another number of threads. Otherwise
        the number is only a matter of speed.

    Raises:
      SettingsError: The settings require a GPU and there is none, or TensorFlow has already
        initialized its devices.
    """
    if config.device == "gpu" and not tf.config.list_physical_devices("GPU"):
        raise SettingsError(
            "distribute.device=gpu, but TensorFlow finds no GPU. Check that tensorflow[and-cuda] "
            "is installed (`make image FLAVOUR=gpu`), that the driver works (`nvidia-smi`), and "
            "that a GPU is visible (CUDA_VISIBLE_DEVICES)"
        )
    try:
        if threads is not None:
            with nullcontext() if must_be_set else suppress(RuntimeError):
                tf.config.threading.set_intra_op_parallelism_threads(threads)
        if config.cpu_devices > 1:
            cpu = tf.config.list_physical_devices("CPU")[0]
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * config.cpu_devices
            )
        for gpu in tf.config.list_physical_devices("GPU"):
            # Without this, the first process allocates all memory of a GPU and the next one fails.
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:
        raise SettingsError(
            "devices and threads can be configured only once per process, before TensorFlow uses "
            f"them: {error}"
        ) from None
