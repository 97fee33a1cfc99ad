"""Reads this process's rank from the environment, without importing TensorFlow."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pipeline.errors import SettingsError

# `vit launch` puts the hosts of a job into this variable, separated by commas. Processes use it to
# name the hosts that they wait for.
HOSTS = "VIT_LAUNCH_HOSTS"
# Set by `vit launch --min-workers`, where HOROVOD_RANK and HOROVOD_SIZE change while the process
# runs (membership.py): the address of its launcher, the identifier of the process, and its place as
# "RANK,WORLD_SIZE,LOCAL_RANK,LOCAL_SIZE" if all workers of the job were members.
MEMBERSHIP, WORKER, SLOT = "VIT_LAUNCH_MEMBERSHIP", "VIT_LAUNCH_WORKER", "VIT_LAUNCH_SLOT"


class Place(NamedTuple):
    """The position of this process among those that were started together.

    Attributes:
      kind: What started it: "horovod" is horovodrun or a launcher that sets the same variables,
        "multi_worker" is a launcher that sets TF_CONFIG, and "alone" is neither.
      local_size: Number of processes on this host.
      addresses: host:port of each process, by rank; empty without TF_CONFIG.
    """

    kind: Literal["alone", "horovod", "multi_worker"]
    rank: int = 0
    world_size: int = 1
    local_size: int = 1
    addresses: tuple[str, ...] = ()


def find_place(environment: Mapping[str, str]) -> Place:
    """Reads the variables of Horovod (set by horovodrun) or Open MPI, or TF_CONFIG.

    In an elastic job it is the place in the current generation, or the slot before the first one.

    Raises:
      SettingsError: A variable has an invalid value.
    """
    for prefix in ("HOROVOD_", "OMPI_COMM_WORLD_"):
        rank, size = (environment.get(prefix + name) for name in ("RANK", "SIZE"))
        if rank is not None and size is not None:
            local_size = environment.get(f"{prefix}LOCAL_SIZE", "1")
            try:
                return Place("horovod", int(rank), int(size), int(local_size))
            except ValueError:
                raise SettingsError(
                    f"{prefix}RANK, {prefix}SIZE and {prefix}LOCAL_SIZE must be integers, as "
                    "horovodrun, mpirun and vit launch set them. Received: "
                    f"{rank!r}, {size!r} and {local_size!r}"
                ) from None
    if MEMBERSHIP in environment:
        slot = find_slot(environment)
        return Place("horovod", slot.rank, slot.world_size, slot.local_size)
    if "TF_CONFIG" in environment:
        return _from_tf_config(environment["TF_CONFIG"])
    return Place("alone")


class Slot(NamedTuple):
    """The place of a worker of an elastic job, which does not change while it runs.

    Attributes:
      rank: Index of the slot in the job.
      world_size: Number of slots in the job.
      local_rank: Index of the slot on this host. A worker uses the GPU with this index.
      local_size: Number of slots on this host.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int


def find_slot(environment: Mapping[str, str]) -> Slot:
    """Reads the place of a worker that `vit launch --min-workers` has started.

    Raises:
      SettingsError: The variable is missing or invalid.
    """
    text = environment.get(SLOT, "")
    if not re.fullmatch(r"\d+(,\d+){3}", text):
        raise SettingsError(f"{SLOT} must be set as vit launch sets it. Received: {text!r}")
    return Slot(*map(int, text.split(",")))


# Tasks that train, in the order in which MultiWorkerMirroredStrategy assigns ranks.
_TRAINING_TASKS = ("chief", "worker")
_OTHER_TASKS = {
    "ps": "parameter servers are not supported, because training is synchronous",
    "evaluator": "an evaluator is not needed, because `vit train` evaluates during training",
}


def _from_tf_config(text: str) -> Place:
    """Reads TF_CONFIG. Without a cluster, it describes a single process."""
    try:
        config = json.loads(text or "{}")
        if not (cluster := config.get("cluster")):
            return Place("alone")
        addresses = {name: cluster.get(name, []) for name in _TRAINING_TASKS}
        kind, index = config["task"]["type"], int(config["task"]["index"])
        _check_tasks(kind, list(cluster), len(addresses["chief"]))
        if not 0 <= index < len(addresses[kind]):
            raise ValueError(f"there is no {kind} {index} in the cluster")
        rank = index + (len(addresses["chief"]) if kind == "worker" else 0)
        everyone = tuple(addresses["chief"] + addresses["worker"])
        if wrong := [one for one in everyone if not re.fullmatch(r".+:\d+", one)]:
            raise ValueError(f"{wrong[0]!r} is not HOST:PORT")
        hosts = [address.rpartition(":")[0] for address in everyone]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"TF_CONFIG is invalid: {_explain(error)}. It must look like "
            '{"cluster": {"worker": ["host0:port", "host1:port"]}, '
            '"task": {"type": "worker", "index": 0}}, and may also have a "chief". To run this '
            "process alone, remove it: `unset TF_CONFIG`, or `env -u TF_CONFIG vit ...`. "
            f"Received: {text}"
        ) from None
    return Place("multi_worker", rank, len(everyone), hosts.count(hosts[rank]), everyone)


def _check_tasks(kind: str, tasks: Sequence[str], chiefs: int) -> None:
    if kind in _OTHER_TASKS or "ps" in tasks:
        kind = kind if kind in _OTHER_TASKS else "ps"
        raise ValueError(f"{_OTHER_TASKS[kind]}. Start the job without {kind}")
    if kind not in _TRAINING_TASKS:
        raise ValueError(f"the task type must be chief or worker, not {kind!r}")
    if unknown := sorted(set(tasks) - {*_TRAINING_TASKS, *_OTHER_TASKS}):
        raise ValueError(f"the cluster has {unknown[0]!r}; only chief and worker are supported")
    if chiefs > 1:
        raise ValueError(f"the cluster has {chiefs} chiefs; a job has only one")


def _explain(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"it is not valid JSON ({error})"
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    if isinstance(error, TypeError | AttributeError):
        return "a part of it has the wrong type"
    return str(error)


def this_place() -> Place:
    """`find_place` with the environment of this process."""
    return find_place(os.environ)
