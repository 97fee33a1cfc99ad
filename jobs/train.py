"""`vit train RECIPE [section.key=value ...]`"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from jobs.cli import run_process
from pipeline.config import Config, all_settings, load_config
from pipeline.errors import PipelineError, Stopped
from pipeline.monitor.bars import figure
from pipeline.monitor.phase import PhaseDisplay
from pipeline.recipes import find_recipe
from pipeline.runs.folder import RunFolder, RunFolderError
from pipeline.runs.metrics_file import shows_top_5
from pipeline.runtimes.environment import find_place
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.training.stop_request import StopRequest

if TYPE_CHECKING:
    from pipeline.monitor.progress import ProgressDisplay
    from pipeline.runtimes.runtime import Runtime
    from pipeline.training.experiment import Experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments, and every setting to its help."""
    parser.add_argument("recipe", help="name of a shipped recipe, or path of a YAML file")
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="section.key=value",
        help="settings over the recipe's",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, check the run folder, print settings, model, rate and memory, and "
        "train and write nothing",
    )
    lines = [f"  {s.key}  {s.type}, default {s.default}\n      {s.doc}" for s in all_settings()]
    parser.epilog = "settings:\n" + "\n".join(lines)


def run(arguments: argparse.Namespace) -> int:
    """Trains, or goes on training, or prints the result of a run that is done."""
    config = load_config(find_recipe(arguments.recipe), arguments.settings)
    folder = RunFolder(config.run_dir)
    folder.check(config)
    if arguments.dry_run:
        return _describe(config, folder)
    if find_place(os.environ).world_size == 1 and (result := _result(folder)) is not None:
        # Answered without TensorFlow, which takes seconds to import.
        print("this run is done; name another folder with run.dir=FOLDER to train again")
        _print_result(folder, result)
        return 0
    _train(config, folder, ["vit", "train", arguments.recipe, *arguments.settings])
    return 0


def _train(config: Config, folder: RunFolder, command: Sequence[str]) -> None:
    place = find_place(os.environ)
    is_chief = place.rank == 0
    stop = StopRequest(config.train.max_time_s, config.checkpoint.grace_s, answers=is_chief)
    with (
        closing(PhaseDisplay(is_chief)) as phases,
        stop.listening(),  # also while TensorFlow is imported, which takes seconds
    ):
        phases.message(f"run folder   {folder.path}")
        phases.show("starting TensorFlow")
        import_tensorflow()
        if place.world_size > 1:
            phases.show(f"joining {place.world_size} processes")
        _join(config, folder, stop, command, phases)


def _join(
    config: Config,
    folder: RunFolder,
    stop: StopRequest,
    command: Sequence[str],
    phases: PhaseDisplay,
) -> None:
    """Meets the other processes, and trains with them unless the run is done."""
    from pipeline.runtimes.agreement import check_agreement, on_chief
    from pipeline.runtimes.kinds import start

    with (
        closing(start(config.distribute)) as runtime,
        closing(folder),
        runtime.noticing_lost_peers(),
    ):
        check_agreement(runtime, config)
        config = _settle_precision(config, folder, runtime)
        on_chief(runtime, lambda: folder.open(config, _say))
        # Whether the run is done is the chief's to say: all train, or none.
        result = on_chief(runtime, lambda: _result(folder))
        if result is None:
            result = _fit(config, folder, runtime, stop, command, phases)
        if runtime.is_chief:
            _print_result(folder, result)
        runtime.barrier()


def _settle_precision(config: Config, folder: RunFolder, runtime: Runtime) -> Config:
    """The settings with the precision that all processes train in; the chief says what it is."""
    from pipeline.runtimes.agreement import on_chief
    from pipeline.training.precision import agree_on_precision, describe_precision

    precision = agree_on_precision(config, runtime)

    def say() -> None:
        before = folder.config().train.precision if folder.was_begun else None
        for line in describe_precision(precision, before):
            _say(line)

    on_chief(runtime, say)
    return precision.config


def _fit(
    config: Config,
    folder: RunFolder,
    runtime: Runtime,
    stop: StopRequest,
    command: Sequence[str],
    phases: PhaseDisplay,
) -> dict[str, Any]:
    """Trains to the end and returns the last row of metrics."""
    from pipeline.monitor.progress import ProgressDisplay
    from pipeline.runtimes.agreement import on_chief
    from pipeline.training.callbacks import Callbacks
    from pipeline.training.data_record import changed_length, record_start, recorded_first_label
    from pipeline.training.description import headline, start_facts, warnings_of
    from pipeline.training.experiment import build
    from pipeline.training.loop import fit

    callbacks = Callbacks(config.train.callbacks, runtime)
    first_label = on_chief(runtime, lambda: recorded_first_label(folder))
    experiment = build(config, runtime, tell=phases.show, first_label=first_label)
    start = start_facts(experiment, command)
    length = on_chief(runtime, lambda: changed_length(folder, experiment.total_steps))
    changes = on_chief(runtime, lambda: record_start(folder, experiment, start))
    phases.close()
    with closing(
        ProgressDisplay(
            experiment.total_steps,
            experiment.steps_per_epoch,
            runtime.is_chief,
            top_5=shows_top_5(len(experiment.source.classes)),
        )
    ) as display:
        display.message(headline(experiment))
        for change in changes:
            display.message(f"resumed with a changed data set: {change}")
        for note in filter(None, (length, *warnings_of(experiment), *experiment.source.notes)):
            display.message(note)
        try:
            result = fit(experiment, folder, display, stop, callbacks)
        except PipelineError as error:
            how = "stopped" if isinstance(error, Stopped) else "failed"
            if runtime.is_chief and folder.lock.is_held:
                # Where not even this can be written, the error itself says more.
                with suppress(RunFolderError):
                    folder.write_outcome(
                        {"outcome": how, "exit_code": error.exit_code, "message": str(error)}
                    )
            raise
        on_chief(runtime, lambda: folder.write_outcome({"outcome": "done", "result": result}))
        if config.monitor.report:
            _report(experiment, folder, display)
        return result


def _report(experiment: Experiment, folder: RunFolder, display: ProgressDisplay) -> None:
    """Writes the report; where it cannot, the run is none the worse."""
    from pipeline.report.write import look_at_examples, write_report

    try:
        looked = look_at_examples(experiment, folder)
        if experiment.runtime.is_chief:
            write_report(folder, looked=looked)
    except Exception as error:  # the training is done, whatever fails here
        display.message(f"no report: {error}. To try again: vit report {folder.path}")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _result(folder: RunFolder) -> dict[str, Any] | None:
    """The last row of metrics of a run that is done; None for one that is not."""
    outcome = folder.outcome()
    return (
        outcome.get("result", {}) if outcome is not None and outcome["outcome"] == "done" else None
    )


def _describe(config: Config, folder: RunFolder) -> int:
    import_tensorflow()
    from pipeline.runtimes.agreement import check_agreement, on_chief
    from pipeline.runtimes.kinds import start
    from pipeline.training.callbacks import Callbacks
    from pipeline.training.data_record import recorded_first_label
    from pipeline.training.description import describe
    from pipeline.training.dry_run import describe_start
    from pipeline.training.experiment import build

    with closing(start(config.distribute)) as runtime, runtime.noticing_lost_peers():
        check_agreement(runtime, config)
        Callbacks(config.train.callbacks, runtime)
        config = _settle_precision(config, folder, runtime)
        on_chief(runtime, lambda: folder.check_open(config))
        first_label = on_chief(runtime, lambda: recorded_first_label(folder))
        experiment = build(config, runtime, first_label=first_label)
        beginning = on_chief(runtime, lambda: list(describe_start(folder, experiment, _say)))
        text = describe(experiment)
        if runtime.is_chief:
            for note in (*experiment.source.notes, *beginning):
                _say(note)
            print(text)
        runtime.barrier()
    return 0


def _print_result(folder: RunFolder, row: dict[str, Any]) -> None:
    result = "nothing is left to train, and the run has no metrics"
    if row:
        top_5 = ""
        if shows_top_5(len(folder.dataset()["classes"])):
            top_5 = f"top-5 {figure(row['top_5_accuracy'], '.2%')}, "
        accuracy, loss = figure(row["accuracy"], ".2%"), figure(row["loss"], ".4f")
        result = f"{row['split']} accuracy {accuracy}, {top_5}loss {loss}"
    report = f"report       {folder.report}\n" if folder.report.is_file() else ""
    print(
        f"{result}\n"
        f"run folder   {folder.path}\n"
        f"{report}"
        f"curves       vit board {shlex.quote(str(folder.path))}"
    )


if __name__ == "__main__":
    run_process(["train", *sys.argv[1:]])
