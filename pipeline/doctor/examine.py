"""Runs all checks in order. Checks that do not need TensorFlow come first."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from socket import gethostname
from typing import TYPE_CHECKING

from pipeline.config import Config, load_config
from pipeline.data.sources.arrays import KERAS_HOSTS
from pipeline.data.sources.source import open_source
from pipeline.data.split import DataSource
from pipeline.doctor import data, folder, installation, machine
from pipeline.doctor.display import Display
from pipeline.doctor.finding import Finding, Findings, error, exit_code, ok, warning
from pipeline.doctor.machine import Gpu, HostMemory
from pipeline.doctor.processes import JobProcesses
from pipeline.errors import SettingsError
from pipeline.recipes import find_recipe
from pipeline.runtimes.environment import Place, find_place
from pipeline.runtimes.horovod_build import find_build
from pipeline.runtimes.nvidia import find_gpus
from pipeline.runtimes.tensorflow_start import import_tensorflow

if TYPE_CHECKING:
    from pipeline.runtimes.runtime import Runtime


def examine(recipe: str, settings: Sequence[str], as_json: bool) -> int:
    """Runs all checks, shows their findings, and returns the exit code."""
    place = _find_place_or_none() or Place("alone")
    display = Display(as_json, enabled=place.rank == 0)
    found = Findings(display.show)
    found.value("processes", find_place, os.environ)  # reports an invalid TF_CONFIG
    config = found.value("recipe", lambda: load_config(find_recipe(recipe), settings))
    gpus = _list_gpus(found)
    _check_installation(found, config, place, len(gpus))
    met = False
    if config is not None:
        if machine.SHARED_MEMORY.is_dir():
            size = shutil.disk_usage(machine.SHARED_MEMORY).total
            found.check("shared memory", machine.check_shared_memory, size, _count_visible(gpus))
        if place.rank == 0:
            found.check("run folder", folder.check_run_folder, config)
        if config.model.pretrained is not None:
            found.check("pretrained", folder.check_pretrained, config.model.pretrained)
        source = _open(found, config)
        _check_source(found, source)
        if place.rank == 0 and source is not None:
            found.check("run data", folder.check_data, config, source)
        met = _examine_with_tensorflow(found, config, place, gpus, source)
    if place.rank > 0 and not met:
        # The chief waits for this process in vain and cannot print its findings.
        _print_errors(found, place)
    display.end(recipe, found.all)
    return exit_code(found.all)


def _list_gpus(found: Findings) -> list[Gpu]:
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None and not find_gpus(os.environ):
        # All GPUs are hidden, so a broken driver does not prevent training on the CPU.
        with suppress(SettingsError):
            return machine.list_gpus()
        return []
    return found.value("GPUs", machine.list_gpus) or []


def _check_installation(found: Findings, config: Config | None, place: Place, gpus: int) -> None:
    asked = config is not None and config.distribute.runtime == "horovod"
    versions = (installation.installed_version(name) for name in installation.TENSORFLOWS)
    tensorflow = next((version for version in versions if version is not None), None)
    found.check("Python", installation.check_python)
    found.check("packages", installation.check_packages)
    found.check(
        "Horovod",
        lambda: installation.check_horovod(
            find_build(), asked or place.kind == "horovod", gpus, tensorflow
        ),
    )


def _open(found: Findings, config: Config) -> DataSource | None:
    def open_it() -> DataSource:
        if config.data.path is None and config.data.source in KERAS_HOSTS:
            import_tensorflow()  # Keras downloads the data set
        return open_source(config.data, config.seed)

    return found.value("data", open_it)


def _check_source(found: Findings, source: DataSource | None) -> None:
    shards = 0
    if source is not None:
        found.check("data", data.check_counts, source)
        found.check("classes", data.check_classes, source)
        found.check("duplicates", data.check_duplicates, source)
        shards = data.count_shards(source)
    soft, hard = (
        2**63 if limit == resource.RLIM_INFINITY else limit
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    found.check("open files", machine.check_open_files, soft, hard, shards)


def _examine_with_tensorflow(
    found: Findings, config: Config, place: Place, gpus: Sequence[Gpu], source: DataSource | None
) -> bool:
    """Runs the checks that need TensorFlow. Returns whether the processes of the job connected."""
    if not found.check("TensorFlow", _import_tensorflow):
        return False
    from pipeline.runtimes.bfloat16 import slow_at_bfloat16

    runtime = _start(found, config, place)
    if runtime is None:
        config = _resolve_precision(found, config, [slow_at_bfloat16()])
        alone = JobProcesses(place.world_size, is_chief=place.rank == 0)
        _check_training(found, config, source, alone, None)
        return False
    with closing(runtime), runtime.noticing_lost_peers():
        runtime.barrier()
        found.check("data", _compare_data, runtime, source)
        asked_s = time.time()
        times = [(str(h), float(s)) for h, s in runtime.all_gather([gethostname(), asked_s])]
        round_trip_s = time.time() - asked_s
        here = sum(host == times[runtime.rank][0] for host, _ in times)
        found.check("GPUs", _check_devices, gpus, runtime)
        config = _resolve_precision(found, config, runtime.all_gather(slow_at_bfloat16()))
        job = JobProcesses(
            runtime.num_replicas,
            runtime.local_replicas,
            here,
            runtime.is_chief,
            runtime.parallel_parts,
        )
        _check_training(found, config, source, job, gpus)
        if runtime.is_chief:
            found.check("clocks", machine.check_clocks, times, round_trip_s)
        _add_others(found, runtime, [host for host, _ in times])
    return True


def _compare_data(runtime: Runtime, source: DataSource | None) -> Iterable[Finding]:
    """Raises if processes have different data. A process without data has reported that already."""
    from pipeline.training.data_opening import check_data

    if all(runtime.all_gather(source is not None)) and source is not None:
        check_data(runtime, source)
    return ()


def _import_tensorflow() -> Iterable[Finding]:
    try:
        import_tensorflow()
    except Exception as problem:  # a damaged installation may raise any exception
        yield error(
            "TensorFlow",
            f"it cannot be imported ({type(problem).__name__}: {problem}), so checks that need it "
            "were skipped",
            "Reinstall the package named above: pip install --force-reinstall",
        )


def _start(found: Findings, config: Config, place: Place) -> Runtime | None:
    from pipeline.runtimes.kinds import start

    distribute = config.distribute
    if place.kind == "alone" and distribute.runtime in ("horovod", "multi_worker"):
        found.add(
            [
                warning(
                    "processes",
                    f"distribute.runtime={distribute.runtime} needs a job, but the doctor was "
                    "started as a single process: replicas and clocks are those of one process",
                    "vit launch --hosts H0,H1 --processes-per-node N "
                    f"--runtime {distribute.runtime} -- vit doctor ... checks the job",
                )
            ]
        )
        distribute = distribute.model_copy(update={"runtime": "single"})
    deterministic = config.train.deterministic
    return found.value("processes", lambda: start(distribute, deterministic=deterministic))


def _resolve_precision(found: Findings, config: Config, slow: Sequence[str | None]) -> Config:
    """Replaces the precision `auto` in the settings."""
    from pipeline.doctor import training
    from pipeline.training.precision import resolve_precision

    precision = resolve_precision(config, slow)
    found.check("precision", training.check_precision, precision)
    return precision.config


def _check_devices(gpus: Sequence[Gpu], runtime: Runtime) -> list[Finding]:
    import tensorflow as tf

    seen = len(tf.config.list_physical_devices("GPU"))
    return [
        *machine.check_gpus(gpus, _count_visible(gpus), seen),
        ok("devices", runtime.describe()),
    ]


def _check_training(
    found: Findings,
    config: Config,
    source: DataSource | None,
    job: JobProcesses,
    gpus: Sequence[Gpu] | None,
) -> None:
    from pipeline.doctor import training
    from pipeline.optim.schedule import plan_schedule

    examples = None if source is None else source.splits["train"].num_examples
    found.check("pretrained", training.check_pretrained, config.model)
    divides = found.check("batch", training.check_replicas, config, job.num_replicas, examples)
    if source is None or examples is None:
        found.check("network", training.check_network, config, None)
        return
    _check_images(found, config, source)
    if divides:
        found.check("input", training.check_input, config, source, job.num_replicas)
    classes = len(source.classes)
    found.check("network", training.check_network, config, classes)
    schedule = plan_schedule(config, examples)
    found.check("length", training.check_length, schedule, config, examples)
    found.check("learning rate", training.check_rate, schedule, config, examples)
    size = found.value("network", training.checkpoint_bytes, config, classes)
    if size is None:
        return
    on_gpu = gpus is not None and _trains_on_gpu()
    available = _gpu_memory(gpus or ()) if on_gpu else machine.host_memory()
    if available is not None:
        found.check("memory", training.check_memory, config, classes, job, available, on_gpu=on_gpu)
    if job.is_chief:
        found.check("room", folder.check_free_space, config, size)
    found.check("checkpoints", training.check_saving, config.checkpoint, size, schedule.total_steps)


def _check_images(found: Findings, config: Config, source: DataSource) -> None:
    encoded = source.splits["train"].images is None
    sample = found.value("images", data.take_sample, source, config.data)
    if sample is not None:
        found.check("images", data.check_sample, sample, config.data, encoded)
        found.check("normalization", data.check_normalization, sample, source, config.data)


def _count_visible(gpus: Sequence[Gpu]) -> int:
    return len(find_gpus(os.environ)) if gpus else 0


def _trains_on_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


def _gpu_memory(gpus: Sequence[Gpu]) -> HostMemory | None:
    free = min((gpu.free_bytes for gpu in gpus), default=0)
    return HostMemory(free, "free on the GPU") if free else None


def _add_others(found: Findings, runtime: Runtime, hosts: Sequence[str]) -> None:
    """Adds the findings of other processes, on all processes, so that all exit with one code."""
    own = [asdict(finding) for finding in found.all if finding.level != "ok"]
    chief, *others = ([Finding(**f) for f in process] for process in runtime.all_gather(own))
    if not runtime.is_chief:
        found.all[:] = chief
    # Processes on the chief's host find the same problems with other numbers, such as free memory.
    known = {(finding.level, finding.subject) for finding in chief}
    ranks: dict[Finding, list[int]] = {}
    for rank, findings in enumerate(others, start=1):
        for finding in findings:
            here = hosts[rank] == hosts[0] and (finding.level, finding.subject) in known
            if finding not in chief and not here:
                ranks.setdefault(finding, []).append(rank)
    for finding, where in ranks.items():
        listed = ", ".join(f"{rank} on {hosts[rank]}" for rank in where)
        found.add([replace(finding, text=f"rank {listed}: {finding.text}")])


def _print_errors(found: Findings, place: Place) -> None:
    for finding in found.all:
        if finding.level == "error":
            where = f"rank {place.rank} on {gethostname()}"
            print(f"vit doctor: {where}: {finding.subject}: {finding.line}", file=sys.stderr)


def _find_place_or_none() -> Place | None:
    with suppress(SettingsError):
        return find_place(os.environ)
    return None
