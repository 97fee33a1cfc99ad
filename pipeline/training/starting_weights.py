"""`model.pretrained`: loads the weights that a new run starts from."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.sources.source import HALF, IMAGENET
from pipeline.errors import SettingsError
from pipeline.model.vit import HEAD
from pipeline.model.weights.files import read_published
from pipeline.model.weights.fit import fit_weights, normalization_note
from pipeline.runs.checkpoints.snapshot import restore_variables
from pipeline.runs.folder import RunFolder
from pipeline.training.best_weights import best_snapshot, weights_of
from pipeline.training.data_record import compare_data, data_record
from pipeline.training.experiment import Experiment

_KNOWN = {"half": HALF, "imagenet": IMAGENET}


def load_starting_weights(experiment: Experiment, pretrained: str) -> str:
    """Loads the weights of another run or of a published file into a new experiment.

    Only the chief calls it. `Experiment.broadcast` copies the weights to the other processes.

    Args:
      experiment: The experiment.
      pretrained: A run folder, or a file of published weights.

    Returns:
      A message about what was loaded and what was not.

    Raises:
      SettingsError: There are no weights, or they belong to another network. The message lists the
        differences.
    """
    path = Path(pretrained)
    folder = RunFolder(path)
    if folder.is_run:
        return _load_from_run(experiment, folder)
    return _load_published(experiment, path)


def _load_from_run(experiment: Experiment, folder: RunFolder) -> str:
    """Loads the best weights of a run; the head only if the classes and their order are equal."""
    snapshot = best_snapshot(folder)
    weights = weights_of(folder.config(), snapshot)
    variables = {v.path: v for v in experiment.model.variables}
    changes = compare_data(folder.dataset(), data_record(experiment.source))
    other_classes = changes.classes or changes.shifted
    left_out = {n for n in weights if n.startswith(HEAD)} if other_classes else set()
    for name in left_out:
        del weights[name]
    restore_variables(
        variables, weights, f"network than {folder.path}", optional=lambda name: name in left_out
    )
    _start_averages(experiment)
    what = f"starting from the weights of step {snapshot.step} of {folder.path}"
    facts = folder.dataset()
    note = normalization_note(
        (facts["mean"], facts["std"]), (experiment.mean, experiment.std), _KNOWN
    )
    if note is not None:
        what += f"; {note}"
    if changes.splits:
        what += f", which was trained on another data set ({'; '.join(changes.lines)})"
    if other_classes is None:
        return f"{what}; its classifier is used, because the classes and their order are the same"
    return f"{what}; its classifier is not used, and a new one is trained. {other_classes}"


def _load_published(experiment: Experiment, path: Path) -> str:
    if experiment.model.arch is None:
        raise SettingsError(
            f"model.pretrained={path}: a model of model.builder cannot start from published "
            "weights. Give a run folder, or load the weights in the builder"
        )
    published = read_published(path)
    variables = {v.path: v for v in experiment.model.variables}
    fitted = fit_weights(
        published,
        {name: tuple(variable.shape) for name, variable in variables.items()},
        experiment.model.arch,
        experiment.config.data.image_size,
        f"model.pretrained={path}",
    )
    restore_variables(
        variables, fitted.weights, f"network than {path}", optional=lambda n: n in fitted.initial
    )
    _start_averages(experiment)
    here = experiment.mean, experiment.std
    if note := normalization_note(published.normalization, here, _KNOWN):
        fitted.notes.append(note)
    numbers = sum(array.size for array in published.weights.values())
    return f"starting from {path} ({published.origin}, {numbers:,} numbers)\n{fitted.describe()}"


def _start_averages(experiment: Experiment) -> None:
    variables = {v.path: v for v in experiment.model.variables}
    for path, average in experiment.optimizer.averages.items():
        average.assign(variables[path])
