"""Training: `pipeline.train`, and the steps that `vit train` shares with it.

Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.api.results import Metrics, RunResult
from pipeline.api.settings import as_overrides
from pipeline.config import Config, load_config
from pipeline.errors import PeerLost, PipelineError, Stopped
from pipeline.monitor.phase import PhaseDisplay
from pipeline.recipes import find_recipe
from pipeline.report.write import best_step
from pipeline.runs.folder import RunFolder, RunFolderError
from pipeline.runs.lock import BEAT_S, ELASTIC_BEAT_S
from pipeline.runs.metrics_file import MetricsFile, shows_top_5
from pipeline.runtimes.environment import this_place
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.training.stop_request import StopRequest

if TYPE_CHECKING:
    from pipeline.monitor.progress import ProgressDisplay
    from pipeline.runtimes.runtime import Runtime
    from pipeline.training.callbacks import Callbacks
    from pipeline.training.experiment import Experiment

_LOG = logging.getLogger(__name__)


def train(
    recipe: str | PathLike[str],
    settings: Mapping[str, Any] | None = None,
    *,
    show_progress: bool = True,
    catch_signals: bool = False,
) -> RunResult:
    """Trains a recipe, resumes its run, or returns the result of a finished run.

    In a script that `vit launch` or horovodrun starts, every process must call it. All of them
    train together and get the same result.

    TensorFlow's devices and threads are set once per process, by the first call. With
    `train.deterministic` the process computes deterministically from then on.

    Args:
      recipe: Name of a shipped recipe, or path of a YAML file. The recipe and the settings may name
        code to load, such as `train.callbacks`.
      settings: Settings that override the recipe's, such as {"train.epochs": 10}.
      show_progress: Whether to print progress to standard output.
      catch_signals: Whether SIGINT and SIGTERM stop the run with a checkpoint, as they do under
        `vit train`. It is only possible in the main thread. A second SIGINT, or the end of
        `checkpoint.grace_s`, ends the process.

    Raises:
      SettingsError: The recipe or a setting is wrong, or the run folder holds another run.
      DataError: The data set is missing or wrong.
      Stopped: The run was stopped on request and has saved a checkpoint.
      PipelineError: The run failed for another reason.
    """
    overrides = as_overrides(settings)
    config = load_config(find_recipe(fspath(recipe)), overrides)
    folder = RunFolder(config.run_dir)
    folder.check(config)
    if this_place().world_size == 1 and finished_row(folder) is not None:
        return read_result(folder)
    command = ("pipeline.train", fspath(recipe), *overrides)
    return train_run(
        Start(config, folder, command, show_progress=show_progress, catch_signals=catch_signals)
    )


@dataclass(frozen=True)
class Start:
    """One start of a run.

    Attributes:
      config: All settings.
      folder: The run folder, whose settings were checked.
      command: What the run folder records as the command.
      say: Shows a message of the chief that is not progress.
      show_result: Shows the last row of metrics; called on the chief.
      show_progress: Whether the chief prints progress.
      catch_signals: Whether signals stop the run with a checkpoint.
    """

    config: Config
    folder: RunFolder
    command: tuple[str, ...]
    say: Callable[[str], None] = _LOG.info
    show_result: Callable[[RunFolder, Mapping[str, Any]], None] = lambda folder, row: None
    show_progress: bool = True
    catch_signals: bool = True


def train_run(start: Start) -> RunResult:
    """Trains with the other processes of the job, if there are any; all must call it.

    Raises:
      PipelineError: As `train` does.
    """
    place, train = this_place(), start.config.train
    is_chief = place.rank == 0
    stop = StopRequest(train.max_time_s, start.config.checkpoint.grace_s, acknowledges=is_chief)
    with (
        closing(PhaseDisplay(is_chief and start.show_progress)) as phases,
        # Also while TensorFlow is imported, which takes seconds.
        stop.listening() if start.catch_signals else nullcontext(),
    ):
        phases.message(f"run folder   {start.folder.path}")
        phases.show("starting TensorFlow")
        import_tensorflow()
        if place.world_size > 1:
            phases.show(f"joining {place.world_size} processes")
        return _join(start, stop, phases)


def describe_run(config: Config, folder: RunFolder, say: Callable[[str], None]) -> str | None:
    """What `train_run` would do, without training or writing anything; all processes must call it.

    Args:
      say: Shows a message of the chief.

    Returns:
      Settings, model, learning rate and memory as text; None on processes other than the chief.
    """
    import_tensorflow()
    from pipeline.runtimes.agreement import check_agreement, on_chief
    from pipeline.runtimes.kinds import start
    from pipeline.training.assembly import build
    from pipeline.training.callbacks import Callbacks
    from pipeline.training.data_record import recorded_first_label
    from pipeline.training.description import describe
    from pipeline.training.dry_run import describe_start

    with (
        closing(start(config.distribute, deterministic=config.train.deterministic)) as runtime,
        runtime.noticing_lost_peers(),
    ):
        check_agreement(runtime, config)
        Callbacks(config.train.callbacks, runtime)
        config = settle_precision(config, folder, runtime, say)
        on_chief(runtime, lambda: folder.check_open(config))
        first_label = on_chief(runtime, lambda: recorded_first_label(folder))
        experiment = build(config, runtime, first_label=first_label)
        beginning = on_chief(runtime, lambda: list(describe_start(folder, experiment, say)))
        text = describe(experiment)
        if runtime.is_chief:
            for note in (*experiment.source.notes, *beginning):
                say(note)
        runtime.barrier()
        return text if runtime.is_chief else None


def finished_row(folder: RunFolder) -> dict[str, Any] | None:
    """The last row of metrics of a finished run; None if the run is not finished."""
    outcome = folder.outcome()
    if outcome is None or outcome["outcome"] != "done":
        return None
    row: dict[str, Any] = outcome.get("result", {})
    return row


def read_result(folder: RunFolder) -> RunResult:
    """The result of a finished run, from the files in its folder."""
    return _as_result(folder, _result_rows(folder))


def settle_precision(
    config: Config, folder: RunFolder, runtime: Runtime, say: Callable[[str], None]
) -> Config:
    """The settings with the precision that all processes use; the chief says which one it is."""
    from pipeline.runtimes.agreement import on_chief
    from pipeline.training.precision import agree_on_precision, describe_precision

    precision = agree_on_precision(config, runtime)

    def describe() -> None:
        before = folder.config().train.precision if folder.is_run else None
        for line in describe_precision(precision, before):
            say(line)

    on_chief(runtime, describe)
    return precision.config


def _join(start: Start, stop: StopRequest, phases: PhaseDisplay) -> RunResult:
    """Joins the other processes, and trains with them unless the run is finished."""
    from pipeline.runtimes import kinds
    from pipeline.runtimes.agreement import on_chief

    folder = start.folder
    with (
        closing(
            kinds.start(start.config.distribute, deterministic=start.config.train.deterministic)
        ) as runtime,
        closing(folder),
        runtime.noticing_lost_peers(),
    ):
        ready = _prepare_with_those_left(start, runtime, phases)
        if isinstance(ready, Prepared):
            row, found = _fit(start, ready, stop, phases)
        else:
            row, found = ready, on_chief(runtime, lambda: _result_rows(folder))
        if runtime.is_chief:
            start.show_result(folder, row)
        try:
            runtime.barrier()
        except Exception as error:  # the run is complete, whoever is lost now
            if not _lost_another(runtime, error):
                raise
        return _as_result(folder, found)


def _prepare_with_those_left(
    start: Start, runtime: Runtime, phases: PhaseDisplay
) -> Prepared | dict[str, Any]:
    """Calls `_prepare`, and again if a process of an elastic job is lost meanwhile."""
    from pipeline.training.regrouping import regroup_while_preparing

    while True:
        try:
            return _prepare(start, runtime, phases)
        except Exception as error:  # raised unless a process is lost
            if not _lost_another(runtime, error):
                raise
        regroup_while_preparing(runtime)


def _lost_another(runtime: Runtime, error: Exception) -> bool:
    """Whether an error means that another process of an elastic job was lost."""
    return runtime.is_elastic and runtime.peer_error(error) is not None


class Prepared(NamedTuple):
    """An experiment that is ready to train, and messages for the chief to show."""

    experiment: Experiment
    callbacks: Callbacks
    notes: list[str]


def _prepare(start: Start, runtime: Runtime, phases: PhaseDisplay) -> Prepared | dict[str, Any]:
    """Builds the experiment. Returns the last row of metrics instead if the run is finished.

    A process that joins an elastic job leaves the run folder to the chief.
    """
    from pipeline.runtimes.agreement import check_agreement, on_chief
    from pipeline.training.assembly import build
    from pipeline.training.callbacks import Callbacks
    from pipeline.training.data_record import recorded_first_label

    folder, joins = start.folder, runtime.is_joining
    check_agreement(runtime, start.config)
    say = (lambda text: None) if joins else start.say
    config = settle_precision(start.config, folder, runtime, say)
    if not joins:
        folder.lock.beat_s = ELASTIC_BEAT_S if runtime.is_elastic else BEAT_S
        on_chief(runtime, lambda: folder.open(config, start.say))
        # The chief alone decides whether the run is finished: either all processes train, or none.
        row: dict[str, Any] | None = on_chief(runtime, lambda: finished_row(folder))
        if row is not None:
            return row
    callbacks = Callbacks(config.train.callbacks, runtime)
    first_label = on_chief(runtime, lambda: recorded_first_label(folder))
    experiment = build(config, runtime, on_phase=phases.show, first_label=first_label)
    return Prepared(experiment, callbacks, [] if joins else _begin(start, experiment))


def _fit(
    start: Start, prepared: Prepared, stop: StopRequest, phases: PhaseDisplay
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains to the end. Returns the last row of metrics and the value of `_result_rows`."""
    from pipeline.monitor.progress import ProgressDisplay
    from pipeline.runtimes.agreement import on_chief
    from pipeline.training.loop import fit

    folder, experiment = start.folder, prepared.experiment
    runtime = experiment.runtime
    phases.close()
    with closing(
        ProgressDisplay(
            experiment.total_steps,
            experiment.steps_per_epoch,
            runtime.is_chief and start.show_progress,
            top_5=shows_top_5(len(experiment.source.classes)),
        )
    ) as display:
        for note in prepared.notes:
            display.message(note)
        found: dict[str, Any] = {}

        def conclude(row: dict[str, Any]) -> None:
            _record_end(experiment, folder, display, row)
            found.update(on_chief(runtime, lambda: _result_rows(folder)))

        try:
            return fit(experiment, folder, display, stop, prepared.callbacks, conclude), found
        except PipelineError as error:
            # A process that is lost after the end of the run does not change its outcome.
            is_done = isinstance(error, PeerLost) and finished_row(folder) is not None
            if runtime.is_chief and folder.lock.is_held and not is_done:
                _record_failure(folder, error)
            raise


def _record_end(
    experiment: Experiment, folder: RunFolder, display: ProgressDisplay, result: dict[str, Any]
) -> None:
    from pipeline.runtimes.agreement import on_chief

    outcome = {"outcome": "done", "result": result}
    on_chief(experiment.runtime, lambda: folder.write_outcome(outcome))
    if experiment.config.monitor.report:
        _report(experiment, folder, display)


def _begin(start: Start, experiment: Experiment) -> list[str]:
    """Records this start in the run folder and returns messages; all processes must call it."""
    from pipeline.runtimes.agreement import on_chief
    from pipeline.runtimes.processor import processor_type
    from pipeline.training.data_record import changed_length, record_start
    from pipeline.training.description import headline, start_facts, versions, warnings_of
    from pipeline.training.reproducibility import bit_warnings

    runtime, folder = experiment.runtime, start.folder
    processors = runtime.all_gather(processor_type())
    facts = start_facts(experiment, start.command, processors)
    length = on_chief(runtime, lambda: changed_length(folder, experiment.total_steps))
    bits: list[str] = []
    if experiment.config.train.deterministic:
        earlier = on_chief(runtime, lambda: folder.starts() if folder.has_progress else [])
        bits = bit_warnings(processors, versions(), earlier)
    changes = on_chief(runtime, lambda: record_start(folder, experiment, facts))
    resumed = [f"resumed with a changed data set: {change}" for change in changes]
    notes = [length, *bits, *warnings_of(experiment), *experiment.source.notes]
    return [headline(experiment), *resumed, *filter(None, notes)]


def _record_failure(folder: RunFolder, error: PipelineError) -> None:
    how = "stopped" if isinstance(error, Stopped) else "failed"
    # If not even this can be written, the error itself says more.
    with suppress(RunFolderError):
        folder.write_outcome({"outcome": how, "exit_code": error.exit_code, "message": str(error)})


def _report(experiment: Experiment, folder: RunFolder, display: ProgressDisplay) -> None:
    """Writes the report. The run is finished, so a failure is only a message."""
    from pipeline.report.write import predict_examples, write_report

    try:
        predicted = predict_examples(experiment, folder)
        if experiment.runtime.is_chief:
            write_report(folder, predicted=predicted)
    except Exception as error:  # the training is done, whatever fails here
        if _lost_another(experiment.runtime, error):
            raise
        display.message(f"no report: {error}. To try again: vit report {folder.path}")


def _result_rows(folder: RunFolder) -> dict[str, Any]:
    """The best step, and the rows of metrics of its weights by split, for JSON."""
    rows = MetricsFile(folder.metrics, _LOG.warning).rows()
    tests = [row for row in rows if row["split"] == "test"]
    step = tests[-1].get("weights_of_step") if tests else best_step(folder)
    validations = [row for row in rows if row["split"] == "validation" and row["step"] == step]
    return {
        "step": step,
        "validation": validations[-1] if validations else None,
        "test": tests[-1] if tests else None,
    }


def _as_result(folder: RunFolder, found: Mapping[str, Any]) -> RunResult:
    validation, test = (
        None if found[split] is None else Metrics.of_row(found[split])
        for split in ("validation", "test")
    )
    return RunResult(folder.path, found["step"], validation, test)
