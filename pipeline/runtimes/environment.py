"""What the environment says of this process's place among others; TensorFlow is not needed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pipeline.errors import SettingsError

# The variable in which `vit launch` names the hosts of a job, separated by commas. A process can
# then say which ones it waits for.
HOSTS = "VIT_LAUNCH_HOSTS"


class Place(NamedTuple):
    """This process among those that were started together.

    Attributes:
      kind: Who started it: horovodrun or a launcher that sets the same variables, a launcher that
        sets TF_CONFIG, or nobody.
      local_size: Processes on this host.
      addresses: host:port of every process, by rank, where TF_CONFIG gives them.
    """

    kind: Literal["alone", "horovod", "multi_worker"]
    rank: int = 0
    world_size: int = 1
    local_size: int = 1
    addresses: tuple[str, ...] = ()


def find_place(environment: Mapping[str, str]) -> Place:
    """Reads Horovod's variables (set by horovodrun), Open MPI's, or TF_CONFIG.

    Raises:
      SettingsError: What is there cannot be used.
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
    if "TF_CONFIG" in environment:
        return _from_tf_config(environment["TF_CONFIG"])
    return Place("alone")


# Tasks that train, in the order of their ranks: MultiWorkerMirroredStrategy counts them so.
_TRAINING_TASKS = ("chief", "worker")
_OTHER_TASKS = {
    "ps": "parameter servers are not supported, as training is synchronous",
    "evaluator": "an evaluator has nothing to do, as `vit train` evaluates while it trains",
}


def _from_tf_config(text: str) -> Place:
    """Reads TF_CONFIG; without a cluster it says nothing of other processes."""
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
            f"TF_CONFIG cannot be used: {_explain(error)}. It must look like "
            '{"cluster": {"worker": ["host0:port", "host1:port"]}, '
            '"task": {"type": "worker", "index": 0}}, where a "chief" may come before the workers. '
            "To run this process alone, remove it: `unset TF_CONFIG`, or `env -u TF_CONFIG vit "
            f"...`. Received: {text}"
        ) from None
    return Place("multi_worker", rank, len(everyone), hosts.count(hosts[rank]), everyone)


def _check_tasks(kind: str, tasks: Sequence[str], chiefs: int) -> None:
    if kind in _OTHER_TASKS or "ps" in tasks:
        kind = kind if kind in _OTHER_TASKS else "ps"
        raise ValueError(f"{_OTHER_TASKS[kind]}. Start the job without {kind}")
    if kind not in _TRAINING_TASKS:
        raise ValueError(f"the task type is {kind!r}, not chief or worker")
    if unknown := sorted(set(tasks) - {*_TRAINING_TASKS, *_OTHER_TASKS}):
        raise ValueError(f"the cluster has {unknown[0]!r}; only chief and worker are supported")
    if chiefs > 1:
        raise ValueError(f"the cluster has {chiefs} chiefs, and a job has one")


def _explain(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON ({error})"
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    if isinstance(error, TypeError | AttributeError):
        return "its parts are not of the expected kinds"
    return str(error)
