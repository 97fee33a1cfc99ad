"""Describes what `vit train` would do in its run folder, for --dry-run. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.runs.checkpoints.store import CheckpointStore
from pipeline.runs.folder import RunFolder
from pipeline.training.data_record import check_start, compare_data
from pipeline.training.experiment import Experiment


def describe_start(
    folder: RunFolder, experiment: Experiment, report: Callable[[str], None]
) -> Iterator[str]:
    """Yields lines about how training would start. Call `RunFolder.check_open` first.

    Args:
      folder: The run folder.
      experiment: The experiment.
      report: Called with a message about each damaged checkpoint, which would be skipped.

    Raises:
      PipelineError: The start would raise it: too little free space, a changed data set, or only
        damaged checkpoints.
    """
    outcome = folder.outcome()
    if outcome is not None and outcome["outcome"] == "done":
        yield f"{folder.path} holds this run, which is finished: vit train prints its result"
        return
    facts, changes = check_start(folder, experiment)
    for change in changes:
        yield f"vit train resumes with a changed data set: {change}"
    other_classes = folder.has_dataset and compare_data(folder.dataset(), facts).classes is not None
    if not folder.is_claimed and (folder.has_other_settings(experiment.config) or other_classes):
        return  # the existing files are replaced
    snapshot = CheckpointStore(folder.checkpoints).newest(report)
    if snapshot is not None and folder.has_progress:
        yield f"{folder.path} holds this run: vit train resumes from step {snapshot.step:,}"
