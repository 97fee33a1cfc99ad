"""How many processor cores this process may use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath


def available_cores(root: Path = Path("/")) -> int:
    """Cores of this process: those of its CPU affinity, or fewer where a cgroup limits its time.

    `os.cpu_count` counts the cores of the host. In a container with a limit of 2 CPUs on a host
    with 64 cores, 64 threads use up the quota early in each period and then all of them wait.

    Args:
      root: Where /proc and /sys are; another one in tests.

    Returns:
      At least 1. A limit of 2.5 CPUs counts as 2.
    """
    quotas = [quota for group in _groups(root) if (quota := _quota(group)) is not None]
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process's cgroups with a CPU limit, from the innermost to the root.

    A group's limit holds for all groups below it, so the parents count too.
    """
    with suppress(OSError):
        paths = dict(_read_paths(_read(root / "proc/self/cgroup")))
        for kind, options, top, place in _read_mounts(_read(root / "proc/self/mountinfo")):
            controller = {"cgroup": "cpu", "cgroup2": ""}.get(kind)
            if controller not in paths or (controller and controller not in options.split(",")):
                continue
            folder = root / place.lstrip("/")
            yield folder
            # A container may see its own group as the root of the mount, and a path from outside.
            if (path := paths[controller]).is_relative_to(top):
                for part in path.relative_to(top).parts:
                    folder /= part
                    yield folder


def _read(path: Path) -> str:
    """The text of a file in /proc; names of files in it need not be UTF-8."""
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def _read_mounts(text: str) -> Iterator[tuple[str, str, str, str]]:
    """File system, its options, root and mount point of each line; a malformed line is ignored."""
    # 36 35 98:0 /ROOT /MOUNT rw,noatime master:1 - TYPE SOURCE rw,cpu,cpuacct
    line = re.compile(r"\S+ \S+ \S+ (\S+) (\S+) .*?- (\S+) \S* (\S+)")
    for match in map(line.fullmatch, text.split("\n")):
        if match:
            top, place, kind, options = match.groups()
            yield kind, options, top, place


def _read_paths(text: str) -> Iterator[tuple[str, PurePosixPath]]:
    """The path of the process's group by controller; "" is version 2, which has one tree.

    A malformed line is ignored.
    """
    for line in text.split("\n"):
        match line.split(":", 2):
            case [_, controllers, path]:
                for controller in controllers.split(","):
                    yield controller, PurePosixPath(path)


def _quota(group: Path) -> float | None:
    """Cores' worth of time that a group may use; None without a limit."""
    with suppress(OSError, ValueError):  # ValueError: "max" is no number, and means no limit
        quota, period = map(float, (group / "cpu.max").read_text().split())
        return quota / period
    with suppress(OSError, ValueError):
        quota = float((group / "cpu.cfs_quota_us").read_text())
        return quota / float((group / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    return None
