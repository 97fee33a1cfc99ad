"""Training: `pipeline.train`, and the steps that `vit train` shares with it.

Importing this module does not import TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from os import PathLike, fspath
from typing import Any

from pipeline.api.results import RunResult
from pipeline.api.settings import as_overrides
from pipeline.api.start import Start, as_result, finished_row, result_rows
from pipeline.config import Config, load_config
from pipeline.monitor.phase import PhaseDisplay
from pipeline.recipes import find_recipe
from pipeline.runs.folder import RunFolder
from pipeline.runtimes.environment import this_place
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.training.stop_request import StopRequest


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
        from pipeline.api.run_training import join_and_train

        return join_and_train(start, stop, phases)


def describe_run(config: Config, folder: RunFolder, say: Callable[[str], None]) -> str | None:
    """What `train_run` would do, without training or writing anything; all processes must call it.

    Args:
      say: Shows a message of the chief.

    Returns:
      Settings, model, learning rate and memory as text; None on processes other than the chief.
    """
    import_tensorflow()
    from pipeline.api.run_training import describe_start_of

    return describe_start_of(config, folder, say)


def read_result(folder: RunFolder) -> RunResult:
    """The result of a finished run, from the files in its folder."""
    return as_result(folder, result_rows(folder))
