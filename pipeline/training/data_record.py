"""Records a run's data set, and compares a data set with that record.

Importing this module does not import TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.data.fingerprint import fingerprint
from pipeline.data.sources.saved_listing import save_listing
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
    """Differences between a data set and the one that a run has recorded.

    Attributes:
      classes: Describes a difference in class names or their order; None if they are equal.
      splits: Describes the difference for each split that differs.
      shifted: Explains why labels refer to other classes although the class names are equal; None
        if they do not.
    """

    classes: str | None
    splits: Mapping[str, str]
    shifted: str | None = None

    @property
    def lines(self) -> list[str]:
        """One line for each split that differs."""
        return [f"{split}: {what}" for split, what in self.splits.items()]


def data_record(source: DataSource, splits: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns the record of a data set for dataset.json.

    It has the class names in order, and the number of examples and the fingerprint of each split.
    For TFRecord files it also has `labels`: the lowest label in the files and the label of class 0.

    Args:
      source: The data set.
      splits: The splits to include; None for all.
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

    Earlier versions recorded no fingerprints. Their runs are compared by the number of examples.

    Args:
      recorded: The contents of the run's dataset.json.
      present: The result of `data_record`.
    """
    before, now = recorded["examples"], present["examples"]
    marks, own_marks = recorded.get("fingerprints", {}), present.get("fingerprints", {})
    splits = {}
    for split in dict.fromkeys([*before, *now]):
        if before.get(split) != now.get(split):
            splits[split] = f"{_images(before.get(split))} -> {_images(now.get(split))}"
        elif split in marks and split in own_marks and marks[split] != own_marks[split]:
            splits[split] = (
                f"{_images(now[split])} as before, but with other file names, sizes or labels, or "
                "in another order (the fingerprint differs)"
            )
    classes = _compare_classes(recorded["classes"], present["classes"])
    return DataChanges(classes, splits, _compare_label_numbers(recorded, present))


def recorded_first_label(folder: RunFolder) -> int | None:
    """The recorded label of class 0 in the TFRecord files of a run; None if there is none."""
    if not folder.has_dataset:
        return None
    first: int | None = folder.dataset().get("labels", {}).get("first")
    return first


def check_start(folder: RunFolder, experiment: Experiment) -> tuple[dict[str, Any], list[str]]:
    """Checks whether the experiment can start in the run folder, without writing. Chief only.

    Returns:
      The contents for dataset.json, and the changes of the data set since the last start. The
      latter is empty unless data.allow_changes is true.

    Raises:
      SettingsError: There is too little free space for checkpoints.
      DataError: The folder is claimed by a run on another data set.
    """
    folder.check_free_space(experiment.checkpoint_bytes)
    facts = experiment.dataset_facts | data_record(experiment.source)
    return facts, check_resumed_data(folder, facts, experiment.config.data.allow_changes)


def record_start(folder: RunFolder, experiment: Experiment, start: Mapping[str, Any]) -> list[str]:
    """Records this start and its data set in the run folder. Chief only.

    Returns:
      The changes of the data set since the last start; empty unless data.allow_changes is true.

    Raises:
      PipelineError: As in `check_start`.
    """
    facts, changes = check_start(folder, experiment)
    if folder.has_dataset and compare_data(folder.dataset(), facts).classes is not None:
        folder.start_over()  # the classifier of the old checkpoint has other classes
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
    save_listing(folder.listing, experiment.config.data, experiment.source, facts["fingerprints"])
    return changes


def changed_length(folder: RunFolder, total_steps: int) -> str | None:
    """Describes a change in the number of updates since the run's last start; None without one.

    The number changes with the data set, or if another version calculated it differently.
    """
    starts = folder.starts() if folder.has_progress else []
    before = starts[-1].get("total_steps") if starts else None
    if before in (None, total_steps):
        return None
    return f"the run has {total_steps:,} updates. At its last start it had {before:,}"


def check_resumed_data(folder: RunFolder, facts: Mapping[str, Any], allow: bool) -> list[str]:
    """Raises an error if the data set has changed since the last start of the run.

    Args:
      folder: The run folder. If no run claims it, any data set is accepted.
      facts: The result of `data_record`.
      allow: Whether the images may have changed. Classes must not change in any case.

    Returns:
      The allowed changes, one line for each split.

    Raises:
      DataError: The message lists the changes.
    """
    if not (folder.is_claimed and folder.has_dataset):
        return []
    found = compare_data(folder.dataset(), facts)
    # Before the first update, the weights do not depend on the images.
    changes = found.lines if folder.has_progress else []
    if found.shifted is not None and folder.has_progress:
        raise DataError(
            f"{folder.path} cannot be resumed. {found.shifted}\nStart a new run with "
            f"run.dir=FOLDER (and model.pretrained={folder.path} to start from these weights "
            "without the classifier), or resume with the version that started the run"
        )
    _refuse(folder, found.classes, changes, allow)
    return changes


def check_classes(folder: RunFolder, source: DataSource) -> None:
    """Raises an error if the classes of a data set or their order differ from those of the run.

    Raises:
      DataError: The message has both lists of names, or explains why labels refer to other classes.
    """
    found = compare_data(folder.dataset(), data_record(source, []))
    if found.shifted is not None:
        raise DataError(
            f"the labels are not those that {folder.path} was trained on. {found.shifted}\n"
            "Train a new run, or use the version that started this one"
        )
    if found.classes is not None:
        raise DataError(
            f"the data set is not the one that {folder.path} was trained on. {found.classes}\n"
            "Restore the names, or use `vit evaluate --data`, which matches the classes of another "
            "data set by name"
        )


def _refuse(folder: RunFolder, classes: str | None, changes: list[str], allowed: bool) -> None:
    if classes is not None:
        # A run without updates has no trained weights to start from.
        weights = f" (and model.pretrained={folder.path} to start from these weights)"
        raise DataError(
            f"{folder.path} cannot be resumed: the data set has other classes. {classes}\n"
            "The classifier was trained for the recorded classes in their order. Restore the "
            f"names, or start a new run with run.dir=FOLDER{weights * folder.has_progress}"
        )
    if changes and not allowed:
        listed = "\n  ".join(changes)
        raise DataError(
            f"{folder.path} cannot be resumed: the data set changed since the last start.\n  "
            f"{listed}\nRestore it, start a new run with run.dir=FOLDER, or set {ALLOW} to resume "
            "with the changed data set"
        )


def _label_numbers(source: DataSource) -> dict[str, Any]:
    if source.first_label is None:
        return {}
    lowest = min(int(split.labels.min()) for split in source.splits.values() if split.num_examples)
    return {"labels": {"lowest": lowest + source.first_label, "first": source.first_label}}


def _compare_label_numbers(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> str | None:
    """Explains why another label is class 0 now; None if it is not.

    A version that recorded neither `labels` nor fingerprints may have subtracted 1 from labels.
    """
    before, now = (facts.get("labels", {}).get("first") for facts in (recorded, present))
    if None not in (before, now) and before != now:
        return (
            f"In the run, class 0 is label {before} of the TFRecord files, but now it is label "
            f"{now}. Set data.first_label={before}"
        )
    known = "labels" in recorded or recorded.get("fingerprints")
    if known or present.get("labels") != {"lowest": 1, "first": 0}:
        return None
    return (
        "The labels in the TFRecord files start at 1, and the file of class names has a line for "
        "label 0. The version that started the run subtracted 1 from each label, so each label got "
        "the name of the previous line. This version does not subtract 1. Each label would refer "
        "to another class than in the run"
    )


def _compare_classes(before: Sequence[str], now: Sequence[str]) -> str | None:
    if list(before) == list(now):
        return None
    same_names = len(before) == len(now) and set(before) == set(now)
    pairs = zip(before, now, strict=False)
    number = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(now)))
    first, other = (
        repr(names[number]) if number < len(names) else "missing" for names in (before, now)
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
