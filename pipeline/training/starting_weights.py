"""`model.pretrained`: the weights that a new run starts from."""

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


def start_from(experiment: Experiment, pretrained: str) -> str:
    """Gives a new experiment the weights of a run of ours or of a published file.

    Only the chief calls it: `Experiment.broadcast` gives them to the others afterwards.

    Returns:
      What was loaded, and what was not, in words.

    Raises:
      SettingsError: There are no weights there, or those of another network; what differs is named.
    """
    path = Path(pretrained)
    folder = RunFolder(path)
    if folder.is_run:
        return _start_from_run(experiment, folder)
    return _start_from_published(experiment, path)


def _start_from_run(experiment: Experiment, folder: RunFolder) -> str:
    """The best weights of the run; the head only if it has the same classes in the same order."""
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
    what = f"starts from the weights of step {snapshot.step} of {folder.path}"
    facts = folder.dataset()
    note = normalization_note(
        (facts["mean"], facts["std"]), (experiment.mean, experiment.std), _KNOWN
    )
    if note is not None:
        what += f"; {note}"
    if changes.splits:
        what += f", which was trained on another data set ({'; '.join(changes.lines)})"
    if other_classes is None:
        return f"{what}; its classifier is kept: the classes and their order are the same"
    return f"{what}; its classifier is not used, and a new one is trained. {other_classes}"


def _start_from_published(experiment: Experiment, path: Path) -> str:
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
    return f"starts from {path} ({published.origin}, {numbers:,} numbers)\n{fitted.describe()}"


def _start_averages(experiment: Experiment) -> None:
    variables = {v.path: v for v in experiment.model.variables}
    for path, average in experiment.optimizer.averages.items():
        average.assign(variables[path])
