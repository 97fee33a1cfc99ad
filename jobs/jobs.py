"""`vit jobs [NAME] [--json]`"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from typing import Any

from k8s.api import ClusterApi, Manifest
from k8s.run_progress import RunProgress, read_progress
from k8s.state import JobView, describe, exit_of, index_of, read_job, read_jobs
from pipeline.errors import PipelineError
from pipeline.strict_json import to_json

_LOG = logging.getLogger(__name__)

_EPILOG = """\
Step, loss, images/s and the last checkpoint are read from the run folder, through a running pod of
the job or its TensorBoard; without one they stay empty.

  vit jobs                 all jobs of the namespace
  vit jobs cifar10         one, and its pods
"""

_NARROWEST = 110  # columns that the widest row needs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="one job, and its pods")
    parser.add_argument("--namespace", "-n", help="default: that of the kubectl context")
    parser.add_argument("--json", action="store_true", help="one JSON object a line and job")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Prints the table."""
    cluster = ClusterApi(arguments.namespace)
    jobs = [read_job(cluster, arguments.name)] if arguments.name else read_jobs(cluster)
    with ThreadPoolExecutor(8) as threads:
        rows = list(threads.map(lambda job: _row(cluster, job), jobs))
    for note in sorted({row.pop("note") for row in rows} - {""}):
        _LOG.warning("cannot read how far it is: %s", note)
    pods = [_pod_row(pod) for pod in jobs[0].pods] if arguments.name else []
    if arguments.json:
        for row in rows:
            print(to_json(row | ({"pods": pods} if arguments.name else {})))
    elif not jobs:
        cluster.check_namespace()
        print(f"no jobs in namespace {cluster.namespace}")
    else:
        _print_jobs(rows)
        _print_pods(pods)
    return 0


def _row(cluster: ClusterApi, job: JobView) -> dict[str, Any]:
    """What is shown of a job; `note` says why its progress cannot be read."""
    note, progress = "", RunProgress()
    try:
        progress = read_progress(cluster, job)
    except PipelineError as error:
        note = str(error)
    return {
        "name": job.name,
        "kind": job.main["kind"],
        "state": describe(cluster, job),
        "restarts": job.restarts,
        "nodes": job.nodes,
        **asdict(progress),
        "run": job.run,
        "age_s": _age_s(job.main),
        "note": note,
    }


def _pod_row(pod: Manifest) -> dict[str, Any]:
    code, reason = exit_of(pod)
    statuses = pod["status"].get("containerStatuses") or []
    return {
        "name": pod["metadata"]["name"],
        "index": index_of(pod),
        "node": pod["spec"].get("nodeName"),
        "phase": pod["status"].get("phase"),
        "restarts": sum(status.get("restartCount", 0) for status in statuses),
        "exit_code": code,
        "reason": reason,
        "age_s": _age_s(pod),
    }


def _age_s(item: Manifest) -> float:
    created = datetime.fromisoformat(item["metadata"]["creationTimestamp"])
    return round(time.time() - created.timestamp(), 1)


def _print_jobs(rows: Sequence[dict[str, Any]]) -> None:
    _print_table(
        ("NAME", "STATE", "RESTARTS", "NODES", "STEP", "LOSS", "IMAGES/S", "CHECKPOINT", "AGE"),
        [
            (
                row["name"],
                row["state"],
                str(row["restarts"]),
                str(row["nodes"]),
                _show(row["step"], ",d"),
                _show(row["loss"], ".4f"),
                _show(row["images_per_second"], ",.0f"),
                _show(row["checkpoint_step"], ",d"),
                _show_age(row["age_s"]),
            )
            for row in rows
        ],
    )


def _print_pods(rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    print()
    _print_table(
        ("POD", "NODE", "PHASE", "RESTARTS", "EXIT CODE", "REASON", "AGE"),
        [
            (
                row["name"],
                row["node"] or "",
                row["phase"],
                str(row["restarts"]),
                _show(row["exit_code"], "d"),
                row["reason"],
                _show_age(row["age_s"]),
            )
            for row in rows
        ],
    )


def _print_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from pipeline.monitor.terminal import Terminal

    console = Terminal()
    # Where a program reads, a row is a line; a narrow terminal breaks lines, and hides no column.
    console.width = max(console.width, _NARROWEST) if console.is_terminal else 10_000
    table = Table(box=None, pad_edge=False, header_style="bold")
    words = ("NAME", "STATE", "POD", "NODE", "PHASE", "REASON")
    for name in names:
        # The reason of a state may be a sentence: it goes on below itself, and nothing is cut.
        fold = name in ("STATE", "REASON")
        table.add_column(name, justify="left" if name in words else "right", no_wrap=not fold)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _show(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _show_age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"
