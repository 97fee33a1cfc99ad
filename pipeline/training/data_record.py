"""What a run records of its data set, and how a data set differs from that record.

Importing this module does not import TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.data.fingerprint import fingerprint
from pipeline.data.split import DataSource
from pipeline.errors import DataError
from pipeline.printable import printable
from pipeline.runs.checkpoints.store import CheckpointStore
from pipeline.runs.folder import RunFolder

if TYPE_CHECKING:
    from pipeline.training.experiment import Experiment

ALLOW = "data.allow_changes=true"
_SHOWN = 10


@dataclass(frozen=True)
class DataChanges:
    """How a data set differs from the one that a run recorded.

    Attributes:
      classes: What differs between the class names or their order; None if they are equal.
      splits: For each split that differs, what differs.
      shifted: Why the labels are those of other classes, although the names are equal; None if
        they are not.
    """

    classes: str | None
    splits: Mapping[str, str]
    shifted: str | None = None

    @property
    def lines(self) -> list[str]:
        """One line for each split that differs."""
        return [f"{split}: {what}" for split, what in self.splits.items()]


def data_record(source: DataSource, splits: Sequence[str] | None = None) -> dict[str, Any]:
    """Class names in order, and number of examples and fingerprint of each split, for JSON.

    Of TFRecord files also `labels`: the lowest label in the files, and the one that is class 0.

    Args:
      source: The data set.
      splits: Those to look at; None: all.
    """
    names = source.splits if splits is None else splits
    chosen = {name: source.splits[name] for name in names}
    return _label_numbers(source) | {
        "classes": list(source.classes),
        "examples": {name: split.num_examples for name, split in chosen.items()},
        "fingerprints": {name: fingerprint(split) for name, split in chosen.items()},
    }


def compare_data(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> DataChanges:
    """Compares a data set with the record of a run.

    A run of a version that recorded no fingerprints is compared by the number of examples.

    Args:
      recorded: The run's dataset.json.
      present: Of `data_record`.
    """
    before, now = recorded["examples"], present["examples"]
    marks, own_marks = recorded.get("fingerprints", {}), present.get("fingerprints", {})
    splits = {}
    for split in dict.fromkeys([*before, *now]):
        if before.get(split) != now.get(split):
            splits[split] = f"{_images(before.get(split))} -> {_images(now.get(split))}"
        elif split in marks and split in own_marks and marks[split] != own_marks[split]:
            splits[split] = (
                f"{_images(now[split])} as before, but with other file names, sizes, labels or "
                "another order (the fingerprint differs)"
            )
    classes = _compare_classes(recorded["classes"], present["classes"])
    return DataChanges(classes, splits, _compare_label_numbers(recorded, present))


def recorded_first_label(folder: RunFolder) -> int | None:
    """The label that is class 0 in the TFRecord files of a run; None where none is recorded."""
    if not folder.has_dataset:
        return None
    first: int | None = folder.dataset().get("labels", {}).get("first")
    return first


def check_start(folder: RunFolder, experiment: Experiment) -> tuple[dict[str, Any], list[str]]:
    """Whether the run folder lets the experiment begin; nothing is written. For the chief.

    Returns:
      For dataset.json, and what changed in the data set since the last start; the latter is empty
      unless data.allow_changes is true.

    Raises:
      SettingsError: The folder has no room for checkpoints.
      DataError: The run claims the folder, and its data set is not the one of the last start.
    """
    folder.check_free_space(experiment.checkpoint_bytes)
    facts = experiment.dataset_facts | data_record(experiment.source)
    return facts, check_resumed_data(folder, facts, experiment.config.data.allow_changes)


def record_start(folder: RunFolder, experiment: Experiment, start: Mapping[str, Any]) -> list[str]:
    """Records this start and its data set in the run folder. Only the chief calls it.

    Returns:
      What changed in the data set since the last start; empty unless data.allow_changes is true.

    Raises:
      PipelineError: As `check_start` does.
    """
    facts, changes = check_start(folder, experiment)
    if folder.has_dataset and compare_data(folder.dataset(), facts).classes is not None:
        folder.start_over()  # the initial classifier has one output for each former class
    steps = CheckpointStore(folder.checkpoints).steps()
    allowed = folder.dataset().get("allowed_changes", []) if steps and folder.has_dataset else []
    if changes:
        new = {"time": start.get("time"), "checkpoint_step": max(steps, default=None)}
        new["changes"] = changes
        allowed = [*allowed, new]
    folder.begin(
        facts | ({"allowed_changes": allowed} if allowed else {}),
        {**start, "data_changes": changes} if changes else dict(start),
    )
    return changes


def changed_length(folder: RunFolder, total_steps: int) -> str | None:
    """How the number of updates differs from that of the run's last start; None if it does not.

    It does where the data set has changed, or where another version counted in another way.
    """
    starts = folder.starts() if folder.has_progress else []
    before = starts[-1].get("total_steps") if starts else None
    if before in (None, total_steps):
        return None
    return f"the run has {total_steps:,} updates. At its last start it had {before:,}"


def check_resumed_data(folder: RunFolder, facts: Mapping[str, Any], allow: bool) -> list[str]:
    """Refuses to resume a run with another data set than that of its last start.

    Args:
      folder: The run folder; one that no run claims accepts any data set.
      facts: Of `data_record`.
      allow: Whether images may have changed; classes never may.

    Returns:
      The changes that were allowed.

    Raises:
      DataError: With what changed.
    """
    if not (folder.is_claimed and folder.has_dataset):
        return []
    found = compare_data(folder.dataset(), facts)
    # Before the first update nothing was learned from the images.
    changes = found.lines if folder.has_progress else []
    if found.shifted is not None and folder.has_progress:
        raise DataError(
            f"{folder.path} cannot be resumed. {found.shifted}\nStart a new run with "
            f"run.dir=FOLDER (and model.pretrained={folder.path} to start from these weights "
            "without the classifier), or resume with the version that began the run"
        )
    _refuse(folder, found.classes, changes, allow)
    return changes


def check_classes(folder: RunFolder, source: DataSource) -> None:
    """Refuses a data set whose classes or their order are not those of the run.

    Raises:
      DataError: With both lists of names, or why the labels have other names.
    """
    found = compare_data(folder.dataset(), data_record(source, []))
    if found.shifted is not None:
        raise DataError(
            f"the labels are not those that {folder.path} was trained on. {found.shifted}\n"
            "Train a new run, or use the version that began this one"
        )
    if found.classes is not None:
        raise DataError(
            f"the data set is not the one that {folder.path} was trained on. {found.classes}\n"
            "Restore the names, or evaluate another data set, which is matched by class names, "
            "with `vit evaluate --data`"
        )


def _refuse(folder: RunFolder, classes: str | None, changes: list[str], allowed: bool) -> None:
    if classes is not None:
        # A run without an update has no weights to start from.
        weights = f" (and model.pretrained={folder.path} to start from these weights)"
        raise DataError(
            f"{folder.path} cannot be resumed: the data set has other classes. {classes}\n"
            "The weights of the classifier belong to the recorded classes in their order. Restore "
            f"the names, or start a new run with run.dir=FOLDER{weights * folder.has_progress}"
        )
    if changes and not allowed:
        listed = "\n  ".join(changes)
        raise DataError(
            f"{folder.path} cannot be resumed: the data set changed since the last start.\n  "
            f"{listed}\nRestore it, start a new run with run.dir=FOLDER, or resume with the "
            f"changed data set on purpose: {ALLOW}"
        )


def _label_numbers(source: DataSource) -> dict[str, Any]:
    if source.first_label is None:
        return {}
    lowest = min(int(split.labels.min()) for split in source.splits.values() if split.num_examples)
    return {"labels": {"lowest": lowest + source.first_label, "first": source.first_label}}


def _compare_label_numbers(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> str | None:
    """Whether another label is class 0 now.

    A version without `labels` and fingerprints may have subtracted 1 where this one does not.
    """
    before, now = (facts.get("labels", {}).get("first") for facts in (recorded, present))
    if None not in (before, now) and before != now:
        return (
            f"In the run label {before} of the TFRecord files is class 0, and now label {now} is. "
            f"Set data.first_label={before}"
        )
    known = "labels" in recorded or recorded.get("fingerprints")
    if known or present.get("labels") != {"lowest": 1, "first": 0}:
        return None
    return (
        "The labels in the TFRecord files begin at 1, and the file of class names has a line for "
        "label 0. The version that began the run subtracted 1 from each label and so gave it the "
        "name of the line before its own; this version does not subtract 1. Each label would mean "
        "another class than in the run"
    )


def _compare_classes(before: Sequence[str], now: Sequence[str]) -> str | None:
    if list(before) == list(now):
        return None
    same_names = len(before) == len(now) and set(before) == set(now)
    pairs = zip(before, now, strict=False)
    number = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(now)))
    first, other = (
        repr(names[number]) if number < len(names) else "not there" for names in (before, now)
    )
    what = "The same names are in another order" if same_names else "The class names differ"
    return (
        f"{what}:\n"
        f"  recorded ({len(before):,}): {_shortened(before)}\n"
        f"  now      ({len(now):,}): {_shortened(now)}\n"
        f"  first difference: class {number} was {first} and is {other}"
    )


def _shortened(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(printable, names[:_SHOWN])) + rest


def _images(count: int | None) -> str:
    return "none" if count is None else f"{count:,} image{'' if count == 1 else 's'}"
