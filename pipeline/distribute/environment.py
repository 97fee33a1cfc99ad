"""What the environment says of this process's place among others; TensorFlow is not needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal, NamedTuple

from pipeline.errors import SettingsError


class Place(NamedTuple):
    """This process among those that were started together.

    Attributes:
      kind: Who started it: horovodrun or a launcher that sets the same variables, a launcher that
        sets TF_CONFIG, or nobody.
      local_size: Processes on this host.
    """

    kind: Literal["alone", "horovod", "multi_worker"]
    rank: int = 0
    world_size: int = 1
    local_size: int = 1


def find_place(environment: Mapping[str, str]) -> Place:
    """Reads Horovod's variables (set by horovodrun), Open MPI's, or TF_CONFIG.

    Raises:
      SettingsError: TF_CONFIG is there and cannot be read.
    """
    for prefix in ("HOROVOD_", "OMPI_COMM_WORLD_"):
        rank, size = (environment.get(prefix + name) for name in ("RANK", "SIZE"))
        if rank is not None and size is not None:
            local_size = environment.get(f"{prefix}LOCAL_SIZE", "1")
            return Place("horovod", int(rank), int(size), int(local_size))
    if "TF_CONFIG" in environment:
        return _from_tf_config(environment["TF_CONFIG"])
    return Place("alone")


def _from_tf_config(text: str) -> Place:
    try:
        config = json.loads(text)
        workers, task = config["cluster"]["worker"], config["task"]
        if task["type"] != "worker" or set(config["cluster"]) != {"worker"}:
            raise ValueError("only workers are known here")
        hosts = [address.rpartition(":")[0] for address in workers]
        index = int(task["index"])
        return Place("multi_worker", index, len(workers), hosts.count(hosts[index]))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise SettingsError(
            f"TF_CONFIG cannot be used ({error!r}). It must look like "
            '{"cluster": {"worker": ["host0:port", "host1:port"]}, '
            '"task": {"type": "worker", "index": 0}}. '
            f"Received: {text}"
        ) from None
