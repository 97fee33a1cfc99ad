"""Runs one node's part of an elastic job: its workers fail and join while the others train."""

from __future__ import annotations

import os
from contextlib import closing

from pipeline.launch.elastic_node import ElasticNode
from pipeline.launch.job import Job, elastic_variables, environment
from pipeline.launch.local_workers import LocalWorkers
from pipeline.launch.membership_server import MembershipServer
from pipeline.launch.processes import Guard, Process, job_exit_code
from pipeline.launch.rendezvous_client import RendezvousClient
from pipeline.launch.store import LocalStore
from pipeline.runtimes.interfaces import GLOO, check_interfaces, find_interface, list_interfaces
from pipeline.runtimes.proxies import bypass_proxies


def run_elastic(
    job: Job, rendezvous: RendezvousClient, guard: Guard, received: list[int]
) -> tuple[int, str]:
    """Runs the workers of this node until the job ends.

    Args:
      job: The job.
      rendezvous: Connection to the other nodes.
      guard: Kills the workers if the launcher dies.
      received: Signals that the launcher received.

    Returns:
      The exit code, and a message that is empty on success.

    Raises:
      SettingsError: A configured network interface does not exist.
    """
    check_interfaces(os.environ, job.host, True, list_interfaces())
    interface = os.environ.get(GLOO) or find_interface(rendezvous.own_address)
    direct = bypass_proxies(os.environ, [*job.hosts, rendezvous.server[0]])
    workers = LocalWorkers()
    with closing(rendezvous.open_group()) as group:
        node = ElasticNode(
            job,
            lambda slot, worker, is_first: Process(
                rank=job.index * job.slots + slot,
                command=job.command,
                environment=environment(
                    os.environ,
                    elastic_variables(job, slot, worker, server.address, interface) | direct,
                ),
                # The first chief writes to a terminal directly, as rank 0 of other jobs.
                prefix="" if is_first and job.index == slot == 0 else f"[{job.host}:{slot}] ",
                guard=guard,
            ),
            workers,
            group,
            group.stop,
            received,
        )
        membership = MembershipServer(
            workers, group, node.report, rendezvous.answer_store, job.heartbeat_timeout_s
        )
        with closing(
            LocalStore(membership.answer, rendezvous.rejected_requests.record, job.slots)
        ) as server:
            code = node.run()
    message = node.describe() if code not in (0, 75) or node.note else ""
    if node.is_leaving:
        rendezvous.leave()
        return code, message
    rendezvous.wait_for_end(code, received)
    others = rendezvous.present_codes()
    if (final := job_exit_code(code, others)) == code:
        return code, message
    return final, message or f"on this node ({job.host}), all workers ended with exit code {code}"
