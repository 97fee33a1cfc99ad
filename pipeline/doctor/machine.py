"""What the machine gives: GPUs and drivers, memory, /dev/shm, open files, clocks."""

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
# NCCL's user guide has containers started with --shm-size=1g; Docker's and Kubernetes' own 64 MiB
# are used up by two GPUs.
SHARED_MEMORY_BYTES = GIB
# Libraries, TensorBoard's and checkpoint's files, sockets; shards come on top.
OTHER_FILES = 256
CLOCK_DIFFERENCE_S = 1.0
_QUERY = "--query-gpu=name,driver_version,memory.total,memory.free"
_UNLIMITED = 2**60


class Gpu(NamedTuple):
    """A GPU as nvidia-smi lists it."""

    name: str
    driver: str
    total_bytes: int
    free_bytes: int


class HostMemory(NamedTuple):
    """Memory that a process may still take.

    Attributes:
      available_bytes: So much.
      limit: Who sets the limit, in words.
    """

    available_bytes: int
    limit: str


def list_gpus() -> list[Gpu]:
    """This machine's NVIDIA GPUs; none where there is no nvidia-smi.

    Raises:
      SettingsError: nvidia-smi is there and fails, as it does with a broken driver.
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
    """GPUs that are there against those that TensorFlow sees.

    Args:
      gpus: Of nvidia-smi.
      visible: How many of them CUDA_VISIBLE_DEVICES leaves.
      seen: How many TensorFlow lists.
      version_of: Version of an installed distribution, None for one that is not.
    """
    if not gpus:
        yield ok("GPUs", f"TensorFlow sees {seen}" if seen else "none: it trains on the CPU")
        return
    kinds = ", ".join(f"{sum(g.name == n for g in gpus)} {n}" for n in {g.name: 0 for g in gpus})
    there = f"{kinds}, driver {gpus[0].driver}"
    if not visible:
        yield ok("GPUs", f"{there}; CUDA_VISIBLE_DEVICES hides all: it trains on the CPU")
    elif not seen:
        why, remedy = _why_unseen(version_of)
        yield error("GPUs", f"{there}, and TensorFlow sees none of them: {why}", remedy)
    elif seen < visible:
        yield warning(
            "GPUs",
            f"{there}, and TensorFlow sees {seen} of {visible}",
            "Look at nvidia-smi for those in another mode (MIG, exclusive process)",
        )
    else:
        yield ok("GPUs", there)


def _why_unseen(version_of: Callable[[str], str | None]) -> tuple[str, str]:
    """What is missing, and what to do."""
    on_cpu = "; or set CUDA_VISIBLE_DEVICES= to train on the CPU"
    if version_of("tensorflow") is None:
        return (
            "tensorflow-cpu is installed, which knows no GPU",
            f"pip uninstall tensorflow-cpu, then pip install '{PACKAGE}[gpu]'{on_cpu}",
        )
    missing = [r.name for r in _cuda_packages() if version_of(r.name) is None]
    if missing:
        return (
            f"{', '.join(missing)} not installed",
            f"pip install 'tensorflow[and-cuda]'{on_cpu}",
        )
    return (
        "CUDA's packages are there, so the driver is too old for them, or a library is in the way",
        "python -c 'import tensorflow as tf; tf.config.list_physical_devices()' says which"
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
    """The size of /dev/shm, through which NCCL connects several GPUs of a host."""
    size = f"{SHARED_MEMORY} has {_size(size_bytes)}"
    if gpus < 2:
        yield ok("shared memory", f"{size}; only several GPUs need it")
    elif size_bytes < SHARED_MEMORY_BYTES:
        yield warning(
            "shared memory",
            f"{size}, and NCCL takes more between several GPUs: it ends with a bus error or "
            '"unhandled system error"',
            "Start the container with --shm-size=1g; in Kubernetes mount an emptyDir with medium: "
            f"Memory at {SHARED_MEMORY}",
        )
    else:
        yield ok("shared memory", size)


def check_open_files(soft: int, hard: int, shards: int) -> Iterator[Finding]:
    """The limit of open files against shards, each of which stays open.

    Args:
      soft: `ulimit -Sn`.
      hard: `ulimit -Hn`; the process may raise its limit so far.
      shards: Files of records in all splits.
    """
    needed = shards + OTHER_FILES
    if shards and hard < needed:
        yield error(
            "open files",
            f"{hard:,} may be open at a time (ulimit -Hn), and {needed:,} are needed for "
            f"{shards:,} shards and all else",
            f"Raise the limit (LimitNOFILE of systemd, docker run --ulimit nofile={needed}), or "
            "write fewer, larger shards: vit prepare --shard-size",
        )
    elif not shards and soft < needed:  # for shards a process raises its limit itself
        yield warning(
            "open files",
            f"{soft:,} may be open at a time (ulimit -n), and it takes {needed} to be safe",
            f"ulimit -n {needed}",
        )
    else:
        yield ok("open files", f"{hard:,} allowed, {needed:,} needed")


def host_memory(root: Path = Path("/")) -> HostMemory:
    """Memory that is free on this host, or left under the limit of its container.

    Args:
      root: Where proc/ and sys/ are.
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
        # Pages of files count as used, and are given back when they are asked for.
        left = limit - max(0, used - _file_pages(folder))
        if limit < _UNLIMITED and left < best.available_bytes:
            best = HostMemory(max(0, left), f"left of the container's {_size(limit)}")
    return best


def _cgroups(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Folders of control groups that limit this process, with their files of limit and use."""
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
        # Inside a container the path may be that of the host: then only the base is there.
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
    """Clocks of a job's hosts, each against the chief's.

    Args:
      times: Host and time (s since 1970) of each process, by rank, taken at once.
      round_trip_s: How long the exchange took: so much they may differ for that alone.
    """
    hosts = dict(reversed(times))  # of several processes on a host, the first
    chief, chief_s = times[0]
    if len(hosts) == 1:
        yield ok("clocks", "one host: nothing to compare with")
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
