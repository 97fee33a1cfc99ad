"""Runtime: the one place that knows how copies of the model work together.

No other file asks for a rank, a strategy or a device. `start` makes the one the settings ask for.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from socket import gethostname
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from pipeline.config import DistributeConfig
from pipeline.cores import available_cores
from pipeline.distribute.environment import Place, find_place
from pipeline.distribute.gathering import gather_by_address, gather_by_store
from pipeline.distribute.interfaces import check_interfaces, list_interfaces, uses_gloo
from pipeline.distribute.job import HOSTS
from pipeline.distribute.proxies import host_of, past_proxies
from pipeline.errors import PeerLost, PipelineError, SettingsError

Batch = dict[str, tf.Tensor]

# Every rank says when it joins; other messages are the chief's.
_LOG = logging.getLogger(__name__)
JOINED = logging.getLogger(f"{__name__}.joined")

# Parts of a batch side by side on a CPU; with more cores than that, operations share them all. Each
# part makes a gradient of its own to be summed.
_MOST_PARTS = 8
_HOROVOD_LIMIT_S = 120.0
_THREADS = "TF_NUM_INTRAOP_THREADS"


class Runtime(ABC):
    """The facts and the verbs of one process among `world_size`.

    Attributes:
      name: How `distribute.runtime` calls it.
      rank: Number of this process, from 0.
      local_rank: Its number on this host.
      world_size: Processes in all.
      num_replicas: Copies of the model in all processes.
      is_chief: Whether this process writes and speaks for all.
      parts_at_a_time: Parts of a replica's batch to compute side by side: on a CPU with few cores
        one a core, each with one thread.
    """

    name: str
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    num_replicas: int = 1
    parts_at_a_time: int = 1

    @property
    def is_chief(self) -> bool:
        return self.rank == 0

    @property
    def local_replicas(self) -> int:
        """Copies of the model in this process."""
        return self.num_replicas // self.world_size

    @abstractmethod
    def scope(self) -> AbstractContextManager[Any]:
        """Create variables inside."""

    @abstractmethod
    def distribute(self, make_dataset: Callable[[int, int, int], tf.data.Dataset]) -> Any:
        """An iterable that hands each replica its own part of the global batch.

        Args:
          make_dataset: Called with (index, count, splits): the dataset of process `index` of
            `count`, whose elements are for its `splits` replicas in turn.
        """

    @abstractmethod
    def run(self, step: Callable[..., Any], *args: Any) -> Any:
        """Calls `step` on each replica of this process and sums what they return.

        To be called inside a tf.function; `args` are elements of `distribute`d data, or the same
        for all. `step` returns a nest of tensors.
        """

    @abstractmethod
    def replica_index(self) -> tf.Tensor:
        """Number of this replica among all, int32 scalar; in replica context."""

    @abstractmethod
    def sum_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Sums over all replicas of all processes; in replica context."""

    @abstractmethod
    def update(
        self,
        function: Callable[..., None],
        variables: Sequence[tf.Variable],
        values: Sequence[Sequence[Any]],
    ) -> None:
        """Calls `function(copy, *values)` on each replica's copy of each variable.

        In replica context. All replicas must pass equal values, and those values that are
        variables are passed as their copy on the same replica.
        """

    @abstractmethod
    def all_gather(self, value: Any) -> list[Any]:
        """Every process's value (anything JSON can hold), by rank; all must call it."""

    def all_reduce(self, value: np.ndarray, how: Literal["sum", "any"]) -> np.ndarray:
        """Reduces a small host array over processes; all must call it.

        Summed in the order of ranks, so that the same values give the same bits.
        """
        gathered = np.array(self.all_gather(np.asarray(value).tolist()))
        return np.asarray(gathered.sum(axis=0) if how == "sum" else gathered.any(axis=0))

    def broadcast_value(self, value: Any) -> Any:
        """The chief's value (anything JSON can hold) in every process; all must call it."""
        return self.all_gather(value if self.is_chief else None)[0]

    @abstractmethod
    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        """Gives every process the chief's values of these variables."""

    def barrier(self) -> None:
        """Returns when every process has come here."""
        self.all_gather(None)

    @abstractmethod
    def close(self) -> None:
        """Leaves the group of processes."""

    def peer_error(self, error: Exception) -> PeerLost | None:
        """What `error` means where it came from losing another process; None for other errors."""
        return None

    @contextmanager
    def noticing_lost_peers(self) -> Iterator[None]:
        """Inside, an error that came from losing another process is raised as PeerLost.

        An error that all processes raise together is raised when all have come to it: none that
        ends at once takes the news of it from the others.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, PipelineError) and error.said_by_chief:
                with suppress(Exception):  # the error itself says more
                    self.barrier()
            if (lost := self.peer_error(error)) is not None:
                raise lost from error
            raise

    @abstractmethod
    def describe(self) -> str:
        """What it trains on, in words."""


def start(config: DistributeConfig) -> Runtime:
    """Sets up devices and threads of this process and joins the others, if there are any.

    Must come before anything else asks TensorFlow for its devices. `auto` is what the environment
    says started this process, or what the devices allow.

    Raises:
      SettingsError: The devices or processes asked for are not there, or Horovod is not.
    """
    place = find_place(os.environ)
    kind = config.runtime
    if kind in ("single", "mirrored") and place.world_size > 1:
        raise SettingsError(
            f"distribute.runtime={kind} is for one process, and this is one of "
            f"{place.world_size}: each would train alone. Use distribute.runtime=auto"
        )
    if kind in ("horovod", "multi_worker") and place.kind != kind:
        raise SettingsError(_HOW_TO_START[kind])
    parts = parts_of(config, place)
    _configure_devices(config, threads_of(config, place))
    runtime = _join(place, config)
    runtime.parts_at_a_time = parts or 1
    if runtime.world_size > 1:
        JOINED.info(
            f"rank {runtime.rank} of {runtime.world_size} on {gethostname()} joined: "
            f"pid {os.getpid()}, {', '.join(local_devices())}, {runtime.name}"
        )
    return runtime


def _join(place: Place, config: DistributeConfig) -> Runtime:
    if config.runtime in ("single", "mirrored"):
        return _start_alone(config.runtime)
    gloo = place.kind == "horovod" and uses_gloo(os.environ)
    if place.kind != "alone":
        check_interfaces(os.environ, gethostname(), gloo, list_interfaces())
    if place.kind == "horovod":
        try:
            from pipeline.distribute.horovod import HorovodRuntime
        except (ImportError, tf.errors.NotFoundError) as error:
            raise SettingsError(
                f"Horovod cannot be used here: {error}. `make horovod` builds it for this "
                "TensorFlow, and `make image` an image that has it; `vit launch --runtime "
                "multi_worker` needs none"
            ) from None
        _gather_for_horovod(place, os.environ)
        return HorovodRuntime(config.compression)
    if place.kind == "multi_worker":
        from pipeline.distribute.multi_worker import MultiWorkerRuntime

        os.environ.update(past_proxies(os.environ, map(host_of, place.addresses)))
        if HOSTS not in os.environ:  # else `vit launch` has kept others out, or has said so
            _LOG.warning(
                "TensorFlow serves at %s, which TF_CONFIG names, on all interfaces, and executes "
                "whatever connects: use it only where no stranger reaches that port "
                "(docs/security.md)",
                place.addresses[place.rank],
            )
        gather_by_address(place.addresses, place.rank)
        return MultiWorkerRuntime(place)
    return _start_alone(config.runtime)


def _gather_for_horovod(place: Place, environment: MutableMapping[str, str]) -> None:
    address = environment.get("HOROVOD_GLOO_RENDEZVOUS_ADDR")
    if address is None or environment.get("HOROVOD_ELASTIC") == "1":
        return  # MPI has brought them together, or their number may change
    environment.update(past_proxies(environment, [address.partition("/")[0].partition(":")[0]]))
    server = (address, int(environment["HOROVOD_GLOO_RENDEZVOUS_PORT"]))
    hosts = [host for host in environment.get(HOSTS, "").split(",") if host]
    by_rank = [host for host in hosts for _ in range(place.world_size // len(hosts))]
    limit_s = max(_HOROVOD_LIMIT_S, float(environment.get("HOROVOD_GLOO_TIMEOUT_SECONDS", 0)))
    gather_by_store(server, place.rank, place.world_size, by_rank, limit_s)


_HOW_TO_START = {
    "horovod": "distribute.runtime=horovod needs processes that were started together: "
    "`horovodrun -np N vit train ...` or `vit launch --processes-per-node N -- vit train ...`",
    "multi_worker": "distribute.runtime=multi_worker needs TF_CONFIG in the environment: "
    "`vit launch --runtime multi_worker --processes-per-node N -- vit train ...` sets it",
}


def _start_alone(kind: str) -> Runtime:
    devices = replica_devices()
    if kind == "single" or (kind == "auto" and len(devices) == 1):
        from pipeline.distribute.single import SingleRuntime

        return SingleRuntime(devices[0])
    from pipeline.distribute.mirrored import MirroredRuntime

    if len(devices) < 2:
        raise SettingsError(
            "distribute.runtime=mirrored needs two devices or more, and TensorFlow sees one "
            f"({devices[0]}). Use distribute.runtime=single, or distribute.cpu_devices=2 to try it "
            "on the CPU"
        )
    return MirroredRuntime(devices)


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


def _configure_devices(config: DistributeConfig, threads: int | None) -> None:
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
