"""Jobs and their pods as rows, and rows as tables for a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from k8s.api import ClusterApi, Manifest
from k8s.run_progress import RunProgress, read_progress
from k8s.state import JobView, describe, exit_of, index_of
from pipeline.errors import PipelineError
from pipeline.monitor.terminal import Terminal

_MIN_WIDTH = 110  # Columns that the widest row needs.


def job_row(cluster: ClusterApi, job: JobView) -> dict[str, Any]:
    """Returns what is shown of a job; `note` says why its progress cannot be read."""
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


def pod_row(pod: Manifest) -> dict[str, Any]:
    """Returns what is shown of a pod."""
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


def print_jobs(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the rows of `job_row`."""
    _print_table(
        ("NAME", "STATE", "RESTARTS", "NODES", "STEP", "LOSS", "IMAGES/S", "CHECKPOINT", "AGE"),
        [
            (
                row["name"],
                row["state"],
                str(row["restarts"]),
                str(row["nodes"]),
                _format(row["step"], ",d"),
                _format(row["loss"], ".4f"),
                _format(row["images_per_second"], ",.0f"),
                _format(row["checkpoint_step"], ",d"),
                _format_age(row["age_s"]),
            )
            for row in rows
        ],
    )


def print_pods(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the rows of `pod_row`."""
    _print_table(
        ("POD", "NODE", "PHASE", "RESTARTS", "EXIT CODE", "REASON", "AGE"),
        [
            (
                row["name"],
                row["node"] or "",
                row["phase"],
                str(row["restarts"]),
                _format(row["exit_code"], "d"),
                row["reason"],
                _format_age(row["age_s"]),
            )
            for row in rows
        ],
    )


def _print_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = Terminal()
    # For a program that reads the output, each row is one line. A narrow terminal wraps lines, and
    # no column is hidden.
    console.width = max(console.width, _MIN_WIDTH) if console.is_terminal else 10_000
    table = Table(box=None, pad_edge=False, header_style="bold")
    text_columns = ("NAME", "STATE", "POD", "NODE", "PHASE", "REASON")
    for name in names:
        # The reason of a state may be a whole sentence: it is wrapped, not cut off.
        wraps = name in ("STATE", "REASON")
        table.add_column(
            name, justify="left" if name in text_columns else "right", no_wrap=not wraps
        )
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _format(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _format_age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"
