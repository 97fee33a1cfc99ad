"""The number of processor cores that this process may use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath


def available_cores(root: Path = Path("/")) -> int:
    """The number of cores in this process's CPU affinity, or fewer if a cgroup limits CPU time.

    `os.cpu_count` counts the cores of the host. In a container with a limit of 2 CPUs on a host
    with 64 cores, 64 threads would use up the quota early in each period, and then all would wait.

    Args:
      root: The folder that contains /proc and /sys; tests use another one.

    Returns:
      At least 1. A limit of 2.5 CPUs counts as 2.
    """
    quotas = [quota for group in _groups(root) if (quota := _quota(group)) is not None]
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def _groups(root: Path) -> Iterator[Path]:
    """Yields the folders of this process's cgroups, from the root of the mount to the innermost.

    The limit of a group applies to all groups below it, so the parents count as well.
    """
    with suppress(OSError):
        paths = dict(_read_paths(_read(root / "proc/self/cgroup")))
        for kind, options, top, place in _read_mounts(_read(root / "proc/self/mountinfo")):
            controller = {"cgroup": "cpu", "cgroup2": ""}.get(kind)
            if controller not in paths or (controller and controller not in options.split(",")):
                continue
            folder = root / place.lstrip("/")
            yield folder
            # A container may see its own group as the root of the mount, but a path from outside.
            if (path := paths[controller]).is_relative_to(top):
                for part in path.relative_to(top).parts:
                    folder /= part
                    yield folder


def _read(path: Path) -> str:
    """Reads a file in /proc. File names in it are not necessarily UTF-8."""
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def _read_mounts(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Yields file system, options, root and mount point of each line; skips malformed lines."""
    # 36 35 98:0 /ROOT /MOUNT rw,noatime master:1 - TYPE SOURCE rw,cpu,cpuacct
    line = re.compile(r"\S+ \S+ \S+ (\S+) (\S+) .*?- (\S+) \S* (\S+)")
    for match in map(line.fullmatch, text.split("\n")):
        if match:
            top, place, kind, options = match.groups()
            yield kind, options, top, place


def _read_paths(text: str) -> Iterator[tuple[str, PurePosixPath]]:
    """Yields each controller with the path of the process's group; "" is cgroup version 2.

    Malformed lines are skipped.
    """
    for line in text.split("\n"):
        match line.split(":", 2):
            case [_, controllers, path]:
                for controller in controllers.split(","):
                    yield controller, PurePosixPath(path)


def _quota(group: Path) -> float | None:
    """The CPU limit of a group, in cores; None if there is no limit."""
    with suppress(OSError, ValueError):  # ValueError: the quota is "max", which means no limit
        quota, period = map(float, (group / "cpu.max").read_text().split())
        return quota / period
    with suppress(OSError, ValueError):
        quota = float((group / "cpu.cfs_quota_us").read_text())
        return quota / float((group / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    return None
