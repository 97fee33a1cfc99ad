"""Evaluation of a run: `pipeline.evaluate`, and the steps that verbs share with it.

Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.api.results import Evaluation
from pipeline.api.settings import as_overrides
from pipeline.config import Config
from pipeline.errors import SettingsError
from pipeline.runs.folder import RunFolder
from pipeline.runs.saved_settings import read_settings
from pipeline.runtimes.tensorflow_start import import_tensorflow

if TYPE_CHECKING:
    from pipeline.report.prediction_metrics import PredictionMetrics
    from pipeline.runtimes.runtime import Runtime
    from pipeline.training.experiment import Experiment

_LOG = logging.getLogger(__name__)
_DEFAULT_SPLITS = ("validation", "test", "all")


def evaluate(
    run: str | PathLike[str],
    split: str | None = None,
    *,
    data: str | PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    trust_code: bool = False,
) -> Evaluation:
    """Evaluates the best weights of a run on one split. Every example counts exactly once.

    In a script that `vit launch` or horovodrun starts, every process must call it, and all of them
    get the same result.

    Args:
      run: The run folder.
      split: train, validation or test, or all for a folder of class folders given as `data`.
        None: test if there is one, otherwise validation, otherwise all.
      data: Another data set, or the new place of the run's own. Classes are matched by name.
      settings: Settings that are not taken from a run, as with `vit evaluate --set`, such as
        {"data.max_pixels": 10**9}.
      trust_code: Whether to import the code that the run names, such as `model.builder`.

    Raises:
      SettingsError: It is not a run folder, the run has no checkpoint, or there is no such split.
      DataError: The data set is missing or wrong, or its classes are not those of the run.
    """
    folder = RunFolder(Path(run))
    config = evaluation_settings(
        folder, as_overrides(settings), data is not None, trust_code=trust_code
    )
    with open_evaluation(folder, config, None if data is None else fspath(data)) as evaluation:
        found = evaluation.choose(split)
        chosen = next(name for name in ("test", *found) if name in found)
        row, _ = next(evaluation.evaluate([chosen], details=data is not None))
    return Evaluation.of_row(row)


def evaluation_settings(
    folder: RunFolder, given: Sequence[str], other_data: bool, *, trust_code: bool
) -> Config:
    """The settings of a run that its evaluation needs.

    Args:
      folder: The run folder.
      given: Settings that are not taken from a run, as `section.key=value`.
      other_data: Whether the data set is given, so that `data.source` is not needed.
      trust_code: Whether to import the code that the run names.

    Raises:
      SettingsError: It is not a run folder, a given setting is wrong, or the run names code.
    """
    needs = ("model.builder",) if other_data else ("data.source", "model.builder")
    return read_settings(folder, given, trust_code=trust_code, needs=needs)


@contextmanager
def open_evaluation(
    folder: RunFolder, config: Config, data: str | None, say: Callable[[str], None] = _LOG.info
) -> Iterator[RunEvaluation]:
    """The best weights of a run with a data set; all processes must enter it.

    Args:
      folder: The run folder.
      config: Settings of the run, from `read_settings`.
      data: Another data set, or the new place of the run's own. None: the run's own.
      say: Shows a message of the chief.

    Raises:
      PipelineError: As `evaluate` does.
    """
    recorded = folder.dataset()
    import_tensorflow()
    from pipeline.data.images import bad_images_named
    from pipeline.runtimes.agreement import on_all
    from pipeline.runtimes.kinds import start
    from pipeline.training.assembly import build
    from pipeline.training.best_weights import restore_best
    from pipeline.training.trained_run import open_evaluation_data

    with (
        closing(
            start(config.distribute, deterministic=config.train.deterministic, trains=False)
        ) as runtime,
        runtime.noticing_lost_peers(),
        bad_images_named(),
    ):
        opened = open_evaluation_data(folder, config, runtime, data)
        if runtime.is_chief:
            for note in opened.source.notes:
                say(note)
        experiment = build(config, runtime, opened)
        step = on_all(runtime, lambda: restore_best(experiment, folder))
        yield RunEvaluation(experiment, runtime, step, recorded, say)
        runtime.barrier()


@dataclass(frozen=True)
class RunEvaluation:
    """The best weights of a run, ready to be evaluated.

    Attributes:
      experiment: Model, data set and runtime.
      runtime: The runtime.
      step: The step of the weights.
      recorded: What the run recorded about its data set.
      say: Shows a message of the chief.
    """

    experiment: Experiment
    runtime: Runtime
    step: int
    recorded: Mapping[str, Any]
    say: Callable[[str], None]

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the model's outputs."""
        return self.experiment.source.classes

    def choose(self, split: str | None) -> list[str]:
        """The splits to evaluate: the one asked for, or validation, test and all if they exist.

        Raises:
          SettingsError: The data set has none of them.
        """
        there = self.experiment.source.splits
        asked = [split] if split else [*_DEFAULT_SPLITS]
        found = [name for name in asked if name in there]
        if not found:
            raise SettingsError(
                f"the data has no split {' or '.join(asked)}: it has {', '.join(there)}. Choose "
                "one with --split"
            )
        return found

    def on_chief(self, function: Callable[[], Any]) -> Any:
        """Calls `function` on the chief; all processes must call it, and get the value or error."""
        from pipeline.runtimes.agreement import on_chief

        return on_chief(self.runtime, function)

    def evaluate(
        self, splits: list[str], *, details: bool
    ) -> Iterator[tuple[dict[str, Any], PredictionMetrics | None]]:
        """Evaluates splits one after the other; all processes must go through all of them.

        Args:
          splits: Their names.
          details: Whether to keep the prediction for each example, for confusions and calibration.

        Yields:
          A row with `step`, `split`, `same_images`, `examples`, `skipped_examples` and the metrics,
          and the details if they were asked for.
        """
        same = self.on_chief(lambda: self._compare(splits))
        for split in splits:
            row = {"step": self.step, "split": split, "same_images": same[split]}
            if details:
                found = self._evaluate_in_detail(split)
                counted = len(found.predictions.label)
                there = self.experiment.source.splits[split].num_examples
                counts = {"examples": counted, "skipped_examples": there - counted}
                yield row | counts | found.metrics, found
            else:
                yield row | self.experiment.evaluate(split), None

    def _evaluate_in_detail(self, split: str) -> PredictionMetrics:
        from pipeline.report.prediction_metrics import evaluate_predictions
        from pipeline.training.metrics import check_counted
        from pipeline.training.prediction_pass import predict

        predictions = predict(self.experiment, split)
        count = self.experiment.source.splits[split].num_examples
        check_counted(split, count, len(predictions.label))
        return evaluate_predictions(predictions, self.classes)

    def _compare(self, splits: list[str]) -> dict[str, bool | None]:
        """Whether each split has the images that the run recorded; says where it does not.

        None: the run is of a version that recorded only the number of images, which is the same.
        """
        from pipeline.training.data_record import compare_data, data_record

        present = data_record(self.experiment.source, splits)
        changes = compare_data(self.recorded, present).splits
        for split in splits:
            if split in changes:
                self.say(f"{split}: not the images that the run recorded ({changes[split]})")
        known = self.recorded.get("fingerprints", {})
        return {s: False if s in changes else True if s in known else None for s in splits}
