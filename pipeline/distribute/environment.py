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
    """

    kind: Literal["alone", "horovod", "multi_worker"]
    rank: int = 0
    world_size: int = 1


def find_place(environment: Mapping[str, str]) -> Place:
    """Reads Horovod's variables (set by horovodrun), Open MPI's, or TF_CONFIG.

    Raises:
      SettingsError: TF_CONFIG is there and cannot be read.
    """
    for rank, size in (
        ("HOROVOD_RANK", "HOROVOD_SIZE"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ):
        if rank in environment and size in environment:
            return Place("horovod", int(environment[rank]), int(environment[size]))
    if "TF_CONFIG" in environment:
        return _from_tf_config(environment["TF_CONFIG"])
    return Place("alone")


def _from_tf_config(text: str) -> Place:
    try:
        config = json.loads(text)
        workers, task = config["cluster"]["worker"], config["task"]
        if task["type"] != "worker" or set(config["cluster"]) != {"worker"}:
            raise ValueError("only workers are known here")
        return Place("multi_worker", int(task["index"]), len(workers))
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"TF_CONFIG cannot be used ({error!r}). It must look like "
            '{"cluster": {"worker": ["host0:port", "host1:port"]}, '
            '"task": {"type": "worker", "index": 0}}. '
            f"Received: {text}"
        ) from None
