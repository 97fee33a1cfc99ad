"""Checks the options of `vit launch` and makes a Job of them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Literal

from pipeline.errors import SettingsError
from pipeline.launch.job import Job
from pipeline.launch.signatures import find_token
from pipeline.launch.timeouts import MIN_END_WITHIN_S, Timeouts
from pipeline.runtimes.nvidia import find_gpus

# Schedulers that start one program on each node give the node's index in one of these.
INDEX_VARIABLES = ("JOB_COMPLETION_INDEX", "SLURM_NODEID")


def make_job(
    *,
    hosts: str,
    processes_per_node: int | None,
    index: int | None,
    command: Sequence[str],
    runtime: Literal["horovod", "multi_worker"],
    port: int | None,
    wait_s: float,
    grace_s: float,
    end_within_s: float,
    trust_network: bool,
    environment: Mapping[str, str],
    min_workers: int | None = None,
    max_workers: int | None = None,
    elastic_timeout_s: float = 600.0,
    heartbeat_timeout_s: float = 15.0,
) -> Job:
    """Returns the job that the options describe.

    Args:
      hosts: Names or IPv4 addresses, separated by commas. Each may end in :SLOTS.
      processes_per_node: None starts one process for each GPU, or one process without GPUs.
      index: Index of this node; None takes it from the scheduler's variables.
      command: May begin with "--".
      environment: Environment variables of this process.

    Raises:
      SettingsError: An option is wrong, or the command does not exist.
    """
    names, slots_of_hosts = _parse_hosts(hosts)
    gpus = find_gpus(environment)
    slots = _choose_slots(slots_of_hosts, processes_per_node, max(1, len(gpus)))
    _check_slots(slots, len(gpus))
    _check_port(port, slots * len(names) if runtime == "multi_worker" else 0)
    _check_trust(names, runtime, trust_network)
    if not heartbeat_timeout_s > 0:
        raise SettingsError(
            f"--heartbeat-timeout-s must be more than 0. Received: {heartbeat_timeout_s:g}"
        )
    _check_elastic(min_workers, max_workers, slots * len(names), runtime)
    for name, value in (
        ("--wait-s", wait_s),
        ("--grace-s", grace_s),
        ("--elastic-timeout-s", elastic_timeout_s),
    ):
        if not value >= 0:
            raise SettingsError(f"{name} must be 0 or more. Received: {value:g}")
    if not end_within_s >= MIN_END_WITHIN_S:
        raise SettingsError(
            f"--end-within-s must be {MIN_END_WITHIN_S:g} or more. Received: {end_within_s:g}"
        )
    return Job(
        hosts=names,
        slots=slots,
        index=_find_index(index, names, environment),
        command=_check_command(command),
        runtime=runtime,
        port=port,
        wait_s=wait_s,
        grace_s=grace_s,
        timeouts=Timeouts(end_within_s),
        gpus=gpus,
        token=find_token(environment, len(names)),
        trust_network=trust_network,
        min_workers=min_workers,
        max_workers=max_workers,
        elastic_timeout_s=elastic_timeout_s,
        heartbeat_timeout_s=heartbeat_timeout_s,
    )


def _parse_hosts(text: str) -> tuple[tuple[str, ...], int | None]:
    """Returns the names, and the number of processes on each if it is given."""
    found = [re.fullmatch(r"([\w.-]+)(?::(\d{1,4}))?", host.strip()) for host in text.split(",")]
    hosts = tuple(host[1] for host in found if host)
    slots = {host[2] for host in found if host}
    if len(hosts) < len(found):
        raise SettingsError(
            "--hosts must be names or IPv4 addresses separated by commas, each with or without "
            f":SLOTS, its number of processes. Received: {text!r}"
        )
    if len(slots) > 1:
        raise SettingsError(
            f"--hosts: the number of processes must be the same on every node. Received: {text!r}"
        )
    if repeated := [host for host in hosts if hosts.count(host) > 1]:
        raise SettingsError(
            f"--hosts names {repeated[0]} twice: name each host once, and give "
            "--processes-per-node 2 to start two processes on each"
        )
    if len(hosts) > 1 and "localhost" in hosts:
        raise SettingsError(
            "--hosts: localhost is a different machine on each node. Use names or addresses that "
            "every node can resolve"
        )
    given = slots.pop()
    return hosts, None if given is None else int(given)


def _choose_slots(of_hosts: int | None, option: int | None, default: int) -> int:
    if of_hosts is not None and option not in (None, of_hosts):
        raise SettingsError(
            f"--hosts names {of_hosts} processes per node, and --processes-per-node {option}: "
            "give one of them"
        )
    chosen = option if of_hosts is None else of_hosts
    return default if chosen is None else chosen


def _check_slots(slots: int, gpus: int) -> None:
    if slots < 1:
        raise SettingsError(f"--processes-per-node must be 1 or more. Received: {slots}")
    if 0 < gpus < slots:
        raise SettingsError(
            f"--processes-per-node {slots} needs a GPU for each process, and this node has {gpus}: "
            f"give --processes-per-node {gpus} or less, or set CUDA_VISIBLE_DEVICES= to train on "
            "the CPU"
        )


def _check_port(port: int | None, ports_above: int) -> None:
    if port is not None and not 1 <= port <= 65535 - ports_above:
        raise SettingsError(f"--port must be 1 to {65535 - ports_above}. Received: {port}")


def _check_trust(hosts: Sequence[str], runtime: str, trust_network: bool) -> None:
    if trust_network and runtime != "multi_worker":
        raise SettingsError("--trust-network applies to --runtime multi_worker only: remove it")
    if runtime == "multi_worker" and len(hosts) > 1 and not trust_network:
        raise SettingsError(
            "--runtime multi_worker on several hosts opens a port for each process. TensorFlow "
            "executes whatever connects to such a port, and reads and writes files as you. Use "
            "--runtime horovod, or add --trust-network if nobody else can reach these hosts "
            "(docs/security.md)"
        )


def _check_elastic(minimum: int | None, maximum: int | None, slots: int, runtime: str) -> None:
    if minimum is None:
        if maximum is not None:
            raise SettingsError("--max-workers applies to --min-workers only: add it, or remove it")
        return
    if runtime == "multi_worker":
        raise SettingsError(
            "--min-workers does not apply to --runtime multi_worker: TensorFlow cannot connect its "
            "collectives a second time in a process. Use --runtime horovod"
        )
    largest = slots if maximum is None else maximum
    if not 1 <= largest <= slots:
        raise SettingsError(f"--max-workers must be 1 to {slots} (all slots). Received: {maximum}")
    if not 1 <= minimum <= largest:
        raise SettingsError(f"--min-workers must be 1 to {largest}. Received: {minimum}")


def _find_index(given: int | None, hosts: Sequence[str], environment: Mapping[str, str]) -> int:
    """Returns this node's index, from the option or from the scheduler."""
    source, text = "--index", given if given is None else str(given)
    for name in INDEX_VARIABLES:
        # A single host is node 0, even inside a larger job of a scheduler.
        if text is None and len(hosts) > 1 and name in environment:
            source, text = name, environment[name]
    if text is None:
        if len(hosts) == 1:
            return 0
        raise SettingsError(
            f"cannot tell which of the {len(hosts)} nodes this is: neither "
            f"{' nor '.join(INDEX_VARIABLES)} is set. Give --index 0 on {hosts[0]}, --index 1 on "
            f"{hosts[1]}, and so on"
        )
    if not text.isdecimal() or int(text) >= len(hosts):
        raise SettingsError(
            f"{source} must be 0 to {len(hosts) - 1}, because --hosts names {len(hosts)} nodes. "
            f"Received: {text}"
        )
    return int(text)


def _check_command(words: Sequence[str]) -> tuple[str, ...]:
    command = tuple(words[1:] if words[:1] == ["--"] else words)
    if not command:
        raise SettingsError("no command to start: add one, such as ... -- vit train digits")
    if shutil.which(command[0]) is None:
        raise SettingsError(
            f"the command {command[0]!r} does not exist on this node, or is not executable"
        )
    return command
