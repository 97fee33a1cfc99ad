"""Checks of the machine: GPUs and drivers, memory, /dev/shm, open files, clocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from pipeline.doctor.finding import Finding, error, ok, warning
from pipeline.doctor.installation import PACKAGE, installed_version
from pipeline.runtimes.nvidia import run_nvidia_smi

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
GIB = 2**30
MIB = 2**20
# NCCL's user guide recommends --shm-size=1g for containers. The default of Docker and Kubernetes,
# 64 MiB, is used up by two GPUs.
SHARED_MEMORY_BYTES = GIB
# Libraries, TensorBoard and checkpoint files, and sockets; shards are added.
OTHER_FILES = 256
CLOCK_DIFFERENCE_S = 1.0
_QUERY = "--query-gpu=name,driver_version,memory.total,memory.free"
_UNLIMITED = 2**60


class Gpu(NamedTuple):
    """A GPU in the output of nvidia-smi."""

    name: str
    driver: str
    total_bytes: int
    free_bytes: int


class HostMemory(NamedTuple):
    """Memory that a process can still allocate.

    Attributes:
      available_bytes: Bytes.
      limit: What limits it, for messages.
    """

    available_bytes: int
    limit: str


def list_gpus() -> list[Gpu]:
    """Lists the NVIDIA GPUs of this machine; empty if there is no nvidia-smi.

    Raises:
      SettingsError: nvidia-smi fails, for example because the driver is broken.
    """
    lines = run_nvidia_smi(_QUERY, "--format=csv,noheader,nounits")
    rows = [line.split(", ") for line in lines]
    return [Gpu(row[0], row[1], _mebibytes(row[2]), _mebibytes(row[3])) for row in rows]


def check_gpus(
    gpus: Sequence[Gpu],
    visible: int,
    seen: int,
    version_of: Callable[[str], str | None] = installed_version,
) -> Iterator[Finding]:
    """Checks that TensorFlow sees the GPUs of the machine.

    Args:
      gpus: GPUs that nvidia-smi lists.
      visible: Number of GPUs that CUDA_VISIBLE_DEVICES allows.
      seen: Number of GPUs that TensorFlow lists.
      version_of: Returns the version of a distribution, or None if it is not installed.
    """
    if not gpus:
        yield ok("GPUs", f"TensorFlow sees {seen}" if seen else "none: training uses the CPU")
        return
    kinds = ", ".join(f"{sum(g.name == n for g in gpus)} {n}" for n in {g.name: 0 for g in gpus})
    there = f"{kinds}, driver {gpus[0].driver}"
    if not visible:
        yield ok("GPUs", f"{there}; CUDA_VISIBLE_DEVICES hides all: training uses the CPU")
    elif not seen:
        why, remedy = _why_unseen(version_of)
        yield error("GPUs", f"{there}, but TensorFlow sees none of them: {why}", remedy)
    elif seen < visible:
        yield warning(
            "GPUs",
            f"{there}, but TensorFlow sees {seen} of {visible}",
            "Check nvidia-smi for GPUs in another mode (MIG, exclusive process)",
        )
    else:
        yield ok("GPUs", there)


def _why_unseen(version_of: Callable[[str], str | None]) -> tuple[str, str]:
    """The cause and the remedy if TensorFlow sees no GPU."""
    on_cpu = "; or set CUDA_VISIBLE_DEVICES= to train on the CPU"
    if version_of("tensorflow") is None:
        return (
            "tensorflow-cpu is installed, which does not support GPUs",
            f"pip uninstall tensorflow-cpu, then pip install '{PACKAGE}[gpu]'{on_cpu}",
        )
    missing = [r.name for r in _cuda_packages() if version_of(r.name) is None]
    if missing:
        return (
            f"{', '.join(missing)} not installed",
            f"pip install 'tensorflow[and-cuda]'{on_cpu}",
        )
    return (
        "the CUDA packages are installed, so the driver is too old, or another library conflicts",
        "python -c 'import tensorflow as tf; tf.config.list_physical_devices()' prints the cause"
        + on_cpu,
    )


def _cuda_packages() -> list[Requirement]:
    try:
        every = [Requirement(text) for text in requires("tensorflow") or ()]
    except PackageNotFoundError:
        return []
    return [r for r in every if r.marker and r.marker.evaluate({"extra": "and-cuda"})
            and not r.marker.evaluate({"extra": ""})]  # fmt: skip


def check_shared_memory(size_bytes: int, gpus: int) -> Iterator[Finding]:
    """Checks the size of /dev/shm, through which NCCL connects the GPUs of a host."""
    size = f"{SHARED_MEMORY} has {_size(size_bytes)}"
    if gpus < 2:
        yield ok("shared memory", f"{size}; it is needed only with several GPUs")
    elif size_bytes < SHARED_MEMORY_BYTES:
        yield warning(
            "shared memory",
            f"{size}, but NCCL needs more for several GPUs. It fails with a bus error or "
            '"unhandled system error"',
            "Start the container with --shm-size=1g; in Kubernetes mount an emptyDir with medium: "
            f"Memory at {SHARED_MEMORY}",
        )
    else:
        yield ok("shared memory", size)


def check_open_files(soft: int, hard: int, shards: int) -> Iterator[Finding]:
    """Checks the limit on open files. Each shard stays open.

    Args:
      soft: Soft limit (`ulimit -Sn`).
      hard: Hard limit (`ulimit -Hn`), up to which a process can raise its soft limit.
      shards: Number of record files in all splits.
    """
    needed = shards + OTHER_FILES
    if shards and hard < needed:
        yield error(
            "open files",
            f"the limit is {hard:,} (ulimit -Hn), but {needed:,} are needed for {shards:,} shards "
            "and other files",
            f"Raise the limit (LimitNOFILE of systemd, docker run --ulimit nofile={needed}), or "
            "write fewer, larger shards: vit prepare --shard-size",
        )
    elif not shards and soft < needed:  # with shards, the process raises its limit itself
        yield warning(
            "open files",
            f"the limit is {soft:,} (ulimit -n), but {needed} is recommended",
            f"ulimit -n {needed}",
        )
    else:
        yield ok("open files", f"{hard:,} allowed, {needed:,} needed")


def host_memory(root: Path = Path("/")) -> HostMemory:
    """The memory available on this host, or within the limit of its container.

    Args:
      root: Folder that contains proc/ and sys/.
    """
    lines = (root / "proc/meminfo").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    best = HostMemory(int(facts["MemAvailable"].split()[0]) * 1024, "free on this host")
    for folder, limit_file, used_file in _cgroups(root):
        try:
            limit = int((folder / limit_file).read_text())
            used = int((folder / used_file).read_text())
        except (OSError, ValueError):  # "max"
            continue
        # The page cache counts as used, but it is freed on demand.
        left = limit - max(0, used - _file_pages(folder))
        if limit < _UNLIMITED and left < best.available_bytes:
            best = HostMemory(max(0, left), f"left of the container's {_size(limit)}")
    return best


def _cgroups(root: Path) -> Iterator[tuple[Path, str, str]]:
    """The control groups that limit this process: folder, limit file and usage file of each."""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base, files = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        inner = base / path.lstrip("/")
        # In a container the path may be that of the host, and only the base folder exists.
        for folder in (inner, *inner.parents):
            yield folder, *files
            if folder == base:
                break


def _file_pages(folder: Path) -> int:
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    facts = dict(line.split(" ", 1) for line in lines if " " in line)
    return int(facts.get("inactive_file", facts.get("total_inactive_file", "0")))


def check_clocks(times: Sequence[tuple[str, float]], round_trip_s: float) -> Iterator[Finding]:
    """Compares the clocks of a job's hosts with the chief's clock.

    Args:
      times: Host and time (Unix seconds) of each process, by rank, read simultaneously.
      round_trip_s: Duration of the exchange, which explains differences up to this value.
    """
    hosts = dict(reversed(times))  # the first process on each host
    chief, chief_s = times[0]
    if len(hosts) == 1:
        yield ok("clocks", "one host, so there is nothing to compare")
        return
    off = {host: at - chief_s for host, at in hosts.items() if host != chief}
    wrong = {h: d for h, d in off.items() if abs(d) > CLOCK_DIFFERENCE_S + round_trip_s}
    for host, difference in wrong.items():
        way = "ahead of" if difference > 0 else "behind"
        yield warning(
            "clocks",
            f"{host} is {abs(difference):,.1f} s {way} {chief}: times in logs and TensorBoard are "
            "not comparable",
            f"Start a time service on {host} (chrony, systemd-timesyncd)",
        )
    if not wrong:
        worst = max(map(abs, off.values()))
        yield ok("clocks", f"{len(hosts)} hosts, within {max(worst, round_trip_s):.2f} s")


def _mebibytes(text: str) -> int:
    return int(text) * MIB if text.strip().isdecimal() else 0


def _size(count: int) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / MIB:,.0f} MiB"
