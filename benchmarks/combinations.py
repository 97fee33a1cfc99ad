"""The combinations of runtime, workers, cores and data of the reproducibility benchmark."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.runtimes.interpreter import python_command

# Everything that draws random numbers or depends on sums over the batch.
FEATURES = (
    "model.dropout=0.1",
    "model.stochastic_depth=0.1",
    "data.augment.rand_augment_layers=2",
    "data.augment.erasing=0.25",
    "data.mixup_alpha=0.8",
    "data.cutmix_alpha=1.0",
    "data.label_smoothing=0.1",
    "optim.clip_norm=1.0",
    "optim.ema_momentum=0.99",
    "optim.layer_decay=0.9",
    "optim.accumulate_steps=2",
)


class Start(NamedTuple):
    """How processes are started.

    Attributes:
      launcher: "none" for a single process; "vit launch" with the runtime "horovod" or
        "multi_worker"; "horovodrun"; or "mirrored" for a process with several logical devices.
      workers: Number of processes or logical devices.
      cores: Number of cores to which the process is bound; None for all.
    """

    launcher: str = "none"
    workers: int = 1
    cores: int | None = None

    @property
    def settings(self) -> list[str]:
        if self.launcher == "mirrored":
            return ["distribute.runtime=mirrored", f"distribute.cpu_devices={self.workers}"]
        return []

    def prefix(self, cores: Sequence[int]) -> list[str]:
        """The words before `vit train`.

        Args:
          cores: Numbers of the cores that may be used.
        """
        if self.launcher in ("none", "mirrored"):
            bound = ",".join(map(str, cores[: self.cores]))
            return ["taskset", "--cpu-list", bound] if self.cores else []
        if self.launcher == "horovodrun":
            return [str(Path(sys.executable).with_name("horovodrun")), "-np", str(self.workers)]
        trust = ["--trust-network"] if self.launcher == "multi_worker" else []
        vit = python_command("-m", "jobs.cli", "launch", "--hosts", "localhost")
        count = ["--processes-per-node", str(self.workers)]
        return [*vit, *count, "--runtime", self.launcher, *trust, "--"]


class Combination(NamedTuple):
    """A training run of the table.

    Attributes:
      name: Selects it on the command line.
      title: Describes it in the table.
      group: All combinations of a group must give the same bits.
      starts: How it is started. All but the last one are killed.
      data: Name of the data.
      settings: More settings.
    """

    name: str
    title: str
    group: str
    starts: tuple[Start, ...]
    data: str = "digits"
    settings: tuple[str, ...] = ()


_SINGLE, _TWO = Start(), Start("horovod", 2)


def combinations() -> Iterator[Combination]:
    """Yields all combinations; the first one of each group is its reference."""
    for cores in (2, 1):
        title = f"one process, {cores} core{'s' if cores > 1 else ''}"
        name = f"single-{cores}"
        yield Combination(name, title, "digits", (Start(cores=cores),), "digits", FEATURES)
    several = [("mirrored", n) for n in (2, 3, 4)]
    several += [("multi_worker", 2), *(("horovod", n) for n in (2, 3, 4, 8)), ("horovodrun", 2)]
    for launcher, count in several:
        unit = "devices" if launcher == "mirrored" else "workers"
        title, start = f"{launcher}, {count} {unit}", Start(launcher, count)
        yield Combination(f"{launcher}-{count}", title, "digits", (start,), "digits", FEATURES)
    starts = (_TWO, Start("horovod", 3), _SINGLE)
    title = "horovod, 2 workers, killed; 3 workers, killed; one process"
    yield Combination("killed", title, "digits", starts, "digits", FEATURES)
    for data in ("folder", "list", "records"):
        for name, start, title in _ONE_AND_TWO:
            yield Combination(
                f"{data}-{name}", f"digits from {_TITLES[data]}, {title}", "files",
                (start,), data, FEATURES,
            )  # fmt: skip
    for precision in ("float32", "mixed_bfloat16"):
        for name, start, title in _ONE_AND_TWO:
            short = precision.removeprefix("mixed_")
            yield Combination(
                f"cifar10-{short}-{name}", f"CIFAR-10, {short}, {title}", f"cifar10 {short}",
                (start,), "cifar10", (f"train.precision={precision}",),
            )  # fmt: skip


_ONE_AND_TWO = (("single", _SINGLE, "one process"), ("horovod-2", _TWO, "horovod, 2 workers"))
_TITLES = {"folder": "an image folder", "list": "a list", "records": "prepared records"}
