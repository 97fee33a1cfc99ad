"""The devices and threads of this process."""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress

import tensorflow as tf

from pipeline.config import DistributeConfig
from pipeline.cores import available_cores
from pipeline.errors import SettingsError
from pipeline.runtimes.environment import Place

# Parts of a batch side by side on a CPU; with more cores than that, operations share them all. Each
# part makes a gradient of its own to be summed.
_MOST_PARTS = 8
_THREADS = "TF_NUM_INTRAOP_THREADS"


def local_devices() -> list[str]:
    """Short names of the devices that this process trains on, such as GPU:1; no other process's."""
    devices = tf.config.get_visible_devices("GPU") or tf.config.get_visible_devices("CPU")
    return [device.name.removeprefix("/physical_device:") for device in devices]


def replica_devices() -> list[str]:
    """The devices to train on: all GPUs, or where there is none the CPU's logical devices."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return [device.name for device in tf.config.list_logical_devices(kind)]


def parts_of(config: DistributeConfig, place: Place) -> int | None:
    """Parts of a replica's batch to compute side by side, each with one thread; None: as a whole.

    On a CPU one for each core that this process has for a replica. A network's operations are
    short, and two threads that share each of them wait for each other: measured on two cores, two
    halves of a batch side by side are 15 % (float32) to 40 % (bfloat16, a small network) faster
    than one batch with two threads an operation. Where that was not measured, with more cores, and
    where other threads were asked for, TensorFlow shares operations out as it does.
    """
    asked = config.intra_op_threads is not None or os.environ.get(_THREADS, "1") != "1"
    cores = own_cores(place.local_size)
    if asked or cores > _MOST_PARTS or tf.config.list_physical_devices("GPU"):
        return None
    return max(1, cores // config.cpu_devices)


def threads_of(config: DistributeConfig, place: Place) -> int | None:
    """Threads of one operation; None leaves the choice to TensorFlow, or to its variable.

    TensorFlow takes one for each core of the CPU affinity: it does not read a container's limit.
    """
    if config.intra_op_threads is not None:
        return config.intra_op_threads
    if parts_of(config, place) is not None:
        return 1
    limited = available_cores() < len(os.sched_getaffinity(0))
    return own_cores(place.local_size) if limited and _THREADS not in os.environ else None


def own_cores(local_size: int) -> int:
    """Cores of one of `local_size` processes of this host, at least 1.

    A launcher may have bound each process to cores of its own. Otherwise the processes share the
    cores that this process may use.
    """
    cores, bound = available_cores(), len(os.sched_getaffinity(0))
    is_own = cores == bound < (os.cpu_count() or 1)
    return max(1, cores if is_own else cores // local_size)


def configure_devices(config: DistributeConfig, threads: int | None) -> None:
    """Sets threads and devices, before TensorFlow uses them.

    Raises:
      SettingsError: There is no GPU although the settings ask for one, or TensorFlow is in use.
    """
    if config.device == "gpu" and not tf.config.list_physical_devices("GPU"):
        raise SettingsError(
            "distribute.device=gpu, and TensorFlow sees no GPU here. Is this tensorflow[and-cuda] "
            "(`make image FLAVOUR=gpu`), is there a driver (`nvidia-smi`), and is a GPU visible "
            "(CUDA_VISIBLE_DEVICES)?"
        )
    try:
        if threads is not None:
            # In a process that has computed already, the pipeline's own choice is only slower.
            own_choice = config.intra_op_threads is None
            with suppress(RuntimeError) if own_choice else nullcontext():
                tf.config.threading.set_intra_op_parallelism_threads(threads)
        if config.cpu_devices > 1:
            cpu = tf.config.list_physical_devices("CPU")[0]
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * config.cpu_devices
            )
        for gpu in tf.config.list_physical_devices("GPU"):
            # Without it the first process takes all of a GPU's memory, and the next one fails.
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:
        raise SettingsError(
            f"devices and threads are chosen once a process, before TensorFlow uses them: {error}"
        ) from None
