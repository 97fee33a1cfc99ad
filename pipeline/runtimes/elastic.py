"""Horovod processes that can be lost and join while the others train.

Horovod is shut down and initialized again inside the living processes. Graphs are not traced again,
because they read rank and size from variables. If NCCL sums the gradients, Horovod aborts its
communicators as soon as the connections of Gloo are shut down, and creates new ones after the next
initialization (tools/build_horovod.sh, patch_nccl).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import tensorflow as tf

from pipeline.errors import SettingsError
from pipeline.runtimes.generation import Generation
from pipeline.runtimes.horovod import HorovodRuntime, pin_device
from pipeline.runtimes.horovod_driver import DriverMembership
from pipeline.runtimes.membership import Membership
from pipeline.runtimes.sockets import open_sockets, shut_down
from pipeline.runtimes.variable_bytes import assign_parts, read_parts

# Without a rendezvous, Horovod connects a process to itself only.
_ALONE = {"HOROVOD_ELASTIC": "0"} | {
    f"HOROVOD_{scope}{name}": value
    for scope in ("", "LOCAL_", "CROSS_")
    for name, value in (("RANK", "0"), ("SIZE", "1"))
}
_RENDEZVOUS = ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT")


class ElasticRuntime(HorovodRuntime):
    """One of the processes of an elastic job.

    A process that starts while others train is at first connected to itself only. It builds and
    compiles everything, and then joins the others with `regroup`.

    Args:
      compression: See `HorovodRuntime`.
      membership: Tells which processes train together.
      nccl: Whether NCCL may sum the gradients, which has not been tested.

    Attributes:
      generation: The group of processes that this one belongs to; None before it joins one.

    Raises:
      SettingsError: Horovod sums with NCCL, and `nccl` is False.
    """

    is_elastic = True

    def __init__(
        self,
        compression: Literal["none", "float16"],
        membership: Membership | DriverMembership,
        nccl: bool = False,
    ) -> None:
        self.generation: Generation | None = None
        self._membership = membership
        self._others = open_sockets()  # those that Horovod has not opened
        self._connections: set[tuple[int, str]] | None = None  # unknown while it connects
        # It would report each lost process as an error, with a path in its source.
        os.environ.setdefault("HOROVOD_LOG_LEVEL", "fatal")
        # Otherwise a sum of NCCL counts as complete before it is, and may be aborted.
        os.environ |= {"HOROVOD_ELASTIC_NCCL": "1", "HOROVOD_ENABLE_ASYNC_COMPLETION": "0"}
        membership.on_broken = self._abort
        super().__init__(compression)
        if self.uses_nccl and not nccl:
            raise SettingsError(
                "elastic jobs have not been tested with NCCL, which sums the gradients of this "
                "Horovod on GPUs. Start the job without --min-workers (vit launch) or --min-np "
                "(horovodrun), or try it with distribute.elastic_nccl=true"
            )

    @property
    def is_chief(self) -> bool:
        return self.rank == 0 and self.generation is not None

    @property
    def changes(self) -> tuple[str, ...]:
        return () if self.generation is None else self.generation.changes

    @property
    def change_pending(self) -> bool:
        return self._membership.change_pending

    @property
    def is_joining(self) -> bool:
        return self.generation is None

    @property
    def is_paused(self) -> bool:
        return self.generation is not None and self.generation.paused

    @property
    def stop_reason(self) -> str | None:
        return self._membership.stop_reason

    def report_step(self, step: int) -> None:
        self._membership.report(step=step)

    def request_to_leave(self) -> None:
        self._membership.report(leaving=True)

    def leave(self) -> None:
        self._disconnect()
        self._membership.leave()

    def regroup(self) -> None:
        self._abort()  # others may wait for this process
        self._disconnect()
        self._join_group()
        self._rank_and_size.assign([self.rank, self.world_size])

    def broadcast(self, variables: Sequence[tf.Variable], root: int = 0) -> None:
        # hvd.broadcast_variables would trace a graph for each root, which takes a second. If a
        # process is lost, it would also leave some variables changed and others not.
        if self.world_size == 1:
            return
        received = [self._broadcast_array(part, root) for part in read_parts(variables)]
        if self.rank != root:
            assign_parts(variables, received)

    def close(self) -> None:
        super().close()
        self._membership.close()

    def describe(self) -> str:
        return f"{super().describe()}, elastic"

    def _connect(self) -> None:
        if not self._membership.joins_late:
            self._join_group()
            if not (self._membership.is_told_late and self._others_train()):
                return
            self.generation = None
            self._disconnect()
        for name in _RENDEZVOUS:
            os.environ.pop(name, None)
        os.environ.update(_ALONE)
        super()._connect()

    def _others_train(self) -> bool:
        # The others send this in `Regrouping`, which parts from a process that has not prepared.
        return any(one.get("was_member") for one in self.all_gather({"prepares": True}))

    def _join_group(self) -> None:
        while True:
            generation = self._membership.wait_for_generation()
            os.environ.update(generation.variables)
            self._others, self._connections = open_sockets(), None
            # It fails if a process is lost meanwhile, and then there will be another group.
            with suppress(ValueError):
                super()._connect()
                self._connections = open_sockets() - self._others
                self.generation = generation
                return
            self._disconnect()

    def _abort(self) -> None:
        """Ends collectives that wait for a lost process. Called from another thread."""
        connections = self._connections
        shut_down(open_sockets() - self._others if connections is None else connections)

    def _pin_device(self) -> str:
        return pin_device(*self._membership.device_place)
