"""Trains with the other processes of the job. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, NamedTuple

from pipeline.api.results import RunResult
from pipeline.api.start import Start, as_result, finished_row, result_rows
from pipeline.config import Config
from pipeline.errors import PeerLost, PipelineError, Stopped
from pipeline.monitor.phase import PhaseDisplay
from pipeline.monitor.progress import ProgressDisplay
from pipeline.report.write import predict_examples, write_report
from pipeline.runs.folder import RunFolder, RunFolderError
from pipeline.runs.lock import BEAT_S, ELASTIC_BEAT_S
from pipeline.runs.metrics_file import shows_top_5
from pipeline.runtimes import kinds
from pipeline.runtimes.agreement import check_agreement, on_chief
from pipeline.runtimes.processor import processor_type
from pipeline.runtimes.runtime import Runtime
from pipeline.training.assembly import build
from pipeline.training.callbacks import Callbacks
from pipeline.training.data_record import changed_length, record_start, recorded_first_label
from pipeline.training.description import (
    describe,
    headline,
    start_facts,
    versions,
    warnings_of,
)
from pipeline.training.dry_run import describe_start
from pipeline.training.experiment import Experiment
from pipeline.training.loop import fit
from pipeline.training.precision import agree_on_precision, describe_precision
from pipeline.training.regrouping import regroup_while_preparing
from pipeline.training.reproducibility import bit_warnings
from pipeline.training.stop_request import StopRequest


def join_and_train(start: Start, stop: StopRequest, phases: PhaseDisplay) -> RunResult:
    """Joins the other processes, and trains with them unless the run is finished."""
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
            row, found = ready, on_chief(runtime, lambda: result_rows(folder))
        if runtime.is_chief:
            start.show_result(folder, row)
        try:
            runtime.barrier()
        except Exception as error:  # the run is complete, whoever is lost now
            if not _lost_another(runtime, error):
                raise
        return as_result(folder, found)


def _prepare_with_those_left(
    start: Start, runtime: Runtime, phases: PhaseDisplay
) -> Prepared | dict[str, Any]:
    """Calls `_prepare`, and again if a process of an elastic job is lost meanwhile."""
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
    """Trains to the end. Returns the last row of metrics and the value of `result_rows`."""
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
            found.update(on_chief(runtime, lambda: result_rows(folder)))

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
    outcome = {"outcome": "done", "result": result}
    on_chief(experiment.runtime, lambda: folder.write_outcome(outcome))
    if experiment.config.monitor.report:
        _report(experiment, folder, display)


def _begin(start: Start, experiment: Experiment) -> list[str]:
    """Records this start in the run folder and returns messages; all processes must call it."""
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
    try:
        predicted = predict_examples(experiment, folder)
        if experiment.runtime.is_chief:
            write_report(folder, predicted=predicted)
    except Exception as error:  # the training is done, whatever fails here
        if _lost_another(experiment.runtime, error):
            raise
        display.message(f"no report: {error}. To try again: vit report {folder.path}")


def describe_start_of(config: Config, folder: RunFolder, say: Callable[[str], None]) -> str | None:
    """What `train_run` would do, without training or writing anything; all processes must call it.

    Args:
      say: Shows a message of the chief.

    Returns:
      Settings, model, learning rate and memory as text; None on processes other than the chief.
    """
    with (
        closing(
            kinds.start(config.distribute, deterministic=config.train.deterministic)
        ) as runtime,
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


def settle_precision(
    config: Config, folder: RunFolder, runtime: Runtime, say: Callable[[str], None]
) -> Config:
    """The settings with the precision that all processes use; the chief says which one it is."""
    precision = agree_on_precision(config, runtime)

    def describe() -> None:
        before = folder.config().train.precision if folder.is_run else None
        for line in describe_precision(precision, before):
            say(line)

    on_chief(runtime, describe)
    return precision.config
