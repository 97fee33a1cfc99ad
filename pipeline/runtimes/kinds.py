"""Selects and starts a runtime from the settings and the environment."""

from __future__ import annotations

import logging
import os
from collections.abc import MutableMapping
from socket import gethostname

import tensorflow as tf

from pipeline.config import DistributeConfig
from pipeline.errors import SettingsError
from pipeline.runtimes.devices import (
    configure_devices,
    intra_op_threads,
    local_devices,
    parallel_parts,
    replica_devices,
)
from pipeline.runtimes.environment import HOSTS, Place, find_place
from pipeline.runtimes.gathering import gather_by_address, gather_by_store
from pipeline.runtimes.interfaces import check_interfaces, list_interfaces, uses_gloo
from pipeline.runtimes.membership import Membership
from pipeline.runtimes.mirrored import MirroredRuntime
from pipeline.runtimes.proxies import bypass_proxies, host_of
from pipeline.runtimes.runtime import Runtime
from pipeline.runtimes.single import SingleRuntime

# Every rank logs when it joins; other messages come from the chief only.
_LOG = logging.getLogger(__name__)
JOINED = logging.getLogger(f"{__name__}.joined")

_HOROVOD_LIMIT_S = 120.0


def start(config: DistributeConfig, *, deterministic: bool = False, trains: bool = True) -> Runtime:
    """Configures the devices and threads of this process and connects it to the other processes.

    Call it before anything else uses TensorFlow's devices. `distribute.runtime=auto` selects the
    runtime from the environment variables of the launcher, or from the number of devices if no
    launcher started this process.

    Args:
      config: The settings.
      deterministic: Whether results must not depend on the number of cores and threads.
      trains: Whether this process trains. If TensorFlow already uses another number of threads in a
        process that only evaluates, this is a warning, because only last digits may differ.

    Raises:
      SettingsError: The requested devices, processes or Horovod are not available.
    """
    place = find_place(os.environ)
    kind = config.runtime
    if kind in ("single", "mirrored") and place.world_size > 1:
        raise SettingsError(
            f"distribute.runtime={kind} is for a single process, but this is one of "
            f"{place.world_size}: each would train alone. Use distribute.runtime=auto"
        )
    if kind in ("horovod", "multi_worker") and place.kind != kind:
        raise SettingsError(_HOW_TO_START[kind])
    parts = parallel_parts(config, place, deterministic)
    threads = intra_op_threads(config, place, deterministic)
    # A number that the user or deterministic training requires must not be ignored.
    required = (deterministic and trains) or config.intra_op_threads is not None
    configure_devices(config, threads, must_be_set=required)
    in_use = tf.config.threading.get_intra_op_parallelism_threads()
    if deterministic and threads is not None and in_use != threads:
        _LOG.warning(
            "TensorFlow was used before in this process, with several threads per operation. The "
            "last digits of the results may differ from those of the deterministic run"
        )
    runtime = _join(place, config)
    runtime.parallel_parts = parts or 1
    _LOG.debug("runtime %s, %d replicas, %s", runtime.name, runtime.num_replicas, place)
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
            from pipeline.runtimes.elastic import ElasticRuntime
            from pipeline.runtimes.horovod import HorovodRuntime
            from pipeline.runtimes.horovod_driver import DriverMembership
        except (ImportError, tf.errors.NotFoundError) as error:
            raise SettingsError(
                f"Horovod cannot be imported: {error}. `make horovod` builds it for this "
                "TensorFlow, and `make image` builds an image with it. `vit launch --runtime "
                "multi_worker` does not need it"
            ) from None
        membership = Membership.connect(os.environ) or DriverMembership.connect(os.environ)
        if membership is not None:
            return ElasticRuntime(config.compression, membership, config.elastic_nccl)
        _gather_for_horovod(place, os.environ)
        return HorovodRuntime(config.compression)
    if place.kind == "multi_worker":
        from pipeline.runtimes.multi_worker import MultiWorkerRuntime

        os.environ.update(bypass_proxies(os.environ, map(host_of, place.addresses)))
        if HOSTS not in os.environ:  # else `vit launch` has restricted access, or has warned
            _LOG.warning(
                "TensorFlow serves %s from TF_CONFIG on all interfaces and executes requests of "
                "any client. Use it only on a network where no untrusted host reaches that port "
                "(docs/security.md)",
                place.addresses[place.rank],
            )
        gather_by_address(place.addresses, place.rank)
        return MultiWorkerRuntime(place)
    return _start_alone(config.runtime)


def _gather_for_horovod(place: Place, environment: MutableMapping[str, str]) -> None:
    address = environment.get("HOROVOD_GLOO_RENDEZVOUS_ADDR")
    if address is None:
        return  # MPI has connected the processes
    environment.update(bypass_proxies(environment, [address.partition("/")[0].partition(":")[0]]))
    server = (address, int(environment["HOROVOD_GLOO_RENDEZVOUS_PORT"]))
    hosts = [host for host in environment.get(HOSTS, "").split(",") if host]
    by_rank = [host for host in hosts for _ in range(place.world_size // len(hosts))]
    limit_s = max(_HOROVOD_LIMIT_S, float(environment.get("HOROVOD_GLOO_TIMEOUT_SECONDS", 0)))
    gather_by_store(server, place.rank, place.world_size, by_rank, limit_s)


_HOW_TO_START = {
    "horovod": "distribute.runtime=horovod needs a launcher that starts the processes: "
    "`horovodrun -np N vit train ...` or `vit launch --processes-per-node N -- vit train ...`",
    "multi_worker": "distribute.runtime=multi_worker needs TF_CONFIG in the environment: "
    "`vit launch --runtime multi_worker --processes-per-node N -- vit train ...` sets it",
}


def _start_alone(kind: str) -> Runtime:
    devices = replica_devices()
    if kind == "single" or (kind == "auto" and len(devices) == 1):
        return SingleRuntime(devices[0])
    if len(devices) < 2:
        raise SettingsError(
            "distribute.runtime=mirrored needs at least two devices, but TensorFlow finds one "
            f"({devices[0]}). Use distribute.runtime=single, or distribute.cpu_devices=2 to try it "
            "on the CPU"
        )
    return MirroredRuntime(devices)
