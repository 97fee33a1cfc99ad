"""Applies a run's best weights to its data, for the report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing

from pipeline.errors import PipelineError, without_settings
from pipeline.report.write import PredictedExamples, gather, predict_examples
from pipeline.runs.folder import RunFolder
from pipeline.runs.saved_settings import read_settings
from pipeline.runtimes.tensorflow_start import import_tensorflow

_LOG = logging.getLogger(__name__)

_SECTIONS = "confusion matrix, accuracy per class and examples"


def find_examples(
    folder: RunFolder,
    data: str | None,
    given: Sequence[str],
    *,
    use_data: bool,
    trust_code: bool,
) -> tuple[PredictedExamples | None, str | None]:
    """Returns the predictions for the report, or a sentence that says why there are none.

    Both are None if the run folder contains the predictions already. For other data they are made
    again in any case.

    Args:
      data: Place of the data set, if it is not the recorded one.
      given: Settings that are not taken from the run.
      use_data: False leaves out what the run folder does not contain.
      trust_code: Whether to import the code that the settings of the run name.
    """
    facts = gather(folder)
    if facts.predictions is not None and data is None:
        return None, None
    if not use_data:
        return None, f"{_SECTIONS}, since --no-examples was given."
    if not facts.best_step:
        return None, f"{_SECTIONS}, since the run is not trained yet."
    try:
        return _predict(folder, data, given, trust_code=trust_code), None
    except PipelineError as error:
        reason = without_settings(str(error))
        if facts.predictions is not None:
            # The page would show the predictions for other data than the user asked for.
            raise
        _LOG.warning("%s", reason)
        # The page still contains everything else that the run folder knows.
        return None, f"{_SECTIONS}, since the weights could not be applied to the data: {reason}."


def _predict(
    folder: RunFolder, data: str | None, given: Sequence[str], *, trust_code: bool
) -> PredictedExamples | None:
    config = read_settings(folder, given, trust_code=trust_code)
    import_tensorflow()
    from pipeline.runtimes.kinds import start
    from pipeline.training.assembly import build
    from pipeline.training.best_weights import restore_best
    from pipeline.training.data_record import compare_data, data_record
    from pipeline.training.trained_run import open_evaluation_data

    if data is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"path": data})})
    deterministic = config.train.deterministic
    with closing(start(config.distribute, deterministic=deterministic, trains=False)) as runtime:
        opened = open_evaluation_data(folder, config, runtime)
        for note in opened.source.notes:
            _LOG.info("%s", note)
        changes = compare_data(folder.dataset(), data_record(opened.source)).splits
        for split, change in changes.items():
            _LOG.warning("%s: not the images that the run recorded (%s)", split, change)
        experiment = build(config, runtime, opened)
        restore_best(experiment, folder)
        predicted = predict_examples(experiment, folder)
    if predicted is not None and not predicted.is_own:
        _LOG.warning(
            "%s are those of %s, not of the data that the run recorded. They are not saved in the "
            "run folder",
            _SECTIONS,
            data or "the data set in its present state",
        )
    return predicted
