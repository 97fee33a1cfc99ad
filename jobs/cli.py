"""`vit VERB ...`: runs the verb, and turns an error into one message and an exit code."""

from __future__ import annotations

import argparse
import atexit
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import chdir, suppress
from importlib.metadata import version
from socket import gethostname
from types import ModuleType
from typing import NoReturn, TextIO

from jobs.output import take_over_output
from jobs.usage import check_paths, explain_options, explain_verb, paths_of
from pipeline.errors import PipelineError, SettingsError, without_settings
from pipeline.recipes import is_recipe
from pipeline.runtimes.environment import Place, find_place
from pipeline.runtimes.tensorflow_start import leave_out_extras_of_keras

# Each verb is a module of this package with add_arguments(parser) and run(arguments) -> exit code.
# The module is imported only when it is needed, and TensorFlow only inside run().
VERBS = {
    "train": "train a recipe, or resume its run",
    "evaluate": "evaluate the best weights of a run, counting each example once",
    "predict": "classify images",
    "export": "export the model of a run as SavedModel, ONNX, Keras file or safetensors",
    "report": "write an HTML report of a run, or compare runs",
    "board": "show the curves of runs in TensorBoard",
    "pretrained": "list published weights to start from, with their addresses and settings",
    "prepare": "write images into shards with random access",
    "doctor": "check a recipe before training; show that N workers train what one trains",
    "plan": "predict time, cost, memory and the limiting factor on N GPUs",
    "launch": "start a command as several processes, on one or several nodes",
    "submit": "run a recipe, or another verb, on Kubernetes",
    "jobs": "list the jobs of a Kubernetes namespace and their progress",
    "logs": "print the logs of a job",
    "stop": "save a checkpoint of a job's run and suspend the job",
    "resume": "resume a stopped job",
    "delete": "delete a job; the files on the claim are kept",
    "mpi-launch": "run horovodrun in an MPIJob's launcher, and return the run's exit code",
}

# These verbs use a run as it is, so their messages must not advise changing settings.
_WITHOUT_SETTINGS = ("vit evaluate", "vit predict", "vit export", "vit report")

# The result of these verbs is what they print: they end if it cannot be written. Others continue.
_FOR_OUTPUT = {"evaluate", "predict", "pretrained", "doctor", "plan", "jobs", "logs"}
_PRINTS = {"-h", "--help", "--dry-run"}

_LOG = logging.getLogger("jobs.cli")  # this module may be __main__
_LOGGED = ("pipeline", "jobs", "k8s", "benchmarks")

EXIT_CODES = """exit codes:
  0   done
  1   failed: a bug, a hang, a full disk, or output that could not be written
  2   wrong usage or settings
  3   the data is missing or wrong
  75  stopped on request, with a checkpoint: run the same command to continue
  76  another process of the job was lost: start all processes again
  130 interrupted before there was anything to save, or by a second Ctrl-C
  141 the program that reads the output has ended
"""


_ENDS = {
    0: "done",
    2: "the settings are wrong",
    3: "the data is missing or wrong",
    75: "stopped on request",
    76: "another process was lost",
    130: "interrupted",
}


def run_process(
    arguments: Sequence[str] | None = None,
    command: Callable[[Sequence[str] | None], int] | None = None,
) -> NoReturn:
    """Runs one command, and exits this process with the command's exit code.

    The process exits before the interpreter is finalized. During finalization, a thread of tf.data
    that asks for the interpreter would block forever, and so would the deletion of its iterator.

    Args:
      arguments: By default those of this process.
      command: Takes the arguments and returns the exit code; by default `main`.
    """
    code = 1

    def end() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, SystemExit):
                stream.flush()
        os._exit(code or (output.lost if is_result else 0))

    words = sys.argv[1:] if arguments is None else arguments
    is_result = _is_for_its_output(words)
    # One of several processes continues in any case, because the others wait for it.
    output = take_over_output(ends=is_result and _place().world_size == 1)
    if words[:1] != ["launch"]:
        # In Python processes that this process starts, files in the current folder must not replace
        # modules: `python -m` and multiprocessing search that folder first. A command that
        # `vit launch` starts is the user's own, and may need the folder.
        os.environ["PYTHONSAFEPATH"] = "1"
        _import_matplotlib_elsewhere()
    leave_out_extras_of_keras()
    # What is registered first runs last, for example after the shutdown of Horovod.
    atexit.register(end)
    try:
        code = (command or main)(arguments)
    except SystemExit as usage:  # argparse or the output has printed the message.
        code = int(usage.code or 0)
    sys.exit(code)


def _import_matplotlib_elsewhere() -> None:
    """Prevents matplotlib from reading its settings from the current folder, which it prefers.

    These settings could import a module or start LaTeX, and the file could be a FIFO.
    """
    if os.path.lexists("matplotlibrc"):
        with chdir("/"):
            importlib.import_module("matplotlib")


def _is_for_its_output(words: Sequence[str]) -> bool:
    """Whether the output is the purpose of the command, which is useless without it."""
    # These two verbs are followed by a command with options of its own.
    own = words[:2] if words[:1] in (["launch"], ["mpi-launch"]) else words
    verb = next(iter(words), "")
    return verb not in VERBS or verb in _FOR_OUTPUT or not _PRINTS.isdisjoint(own)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one `vit` command and returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments:
        print(_help().format_help(), end="")
        return SettingsError.exit_code
    if arguments[0] not in VERBS:
        return _explain(arguments)
    verb, *rest = arguments
    module = importlib.import_module(f"jobs.{verb.replace('-', '_')}")
    summary = VERBS[verb]
    parser = argparse.ArgumentParser(
        prog=f"vit {verb}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    _add_verbosity(parser)
    # Intermixed, so that options can stand before, between and after settings. argparse cannot do
    # this for verbs that end with a command.
    in_order = getattr(module, "PARSES_IN_ORDER", False)
    parse = parser.parse_known_args if in_order else parser.parse_known_intermixed_args
    parsed, unknown = parse(rest)
    if unknown:
        parser.error(explain_options(unknown, rest, parser.format_help()))
    return run_module(f"vit {verb}", module, parsed)


def run_module(program: str, module: ModuleType, parsed: argparse.Namespace) -> int:
    """Runs a command's module, reports an error in one message, and returns the exit code.

    Args:
      program: What the user typed, such as "vit train". Messages begin with it.
      module: Has `run(parsed)`, which returns the exit code.
      parsed: The arguments of the command.
    """
    place = _place()
    _log_to_stderr(
        program, place, getattr(parsed, "verbose", False), getattr(parsed, "quiet", False)
    )
    _LOG.debug("Python %s, %s, arguments %s", sys.version.split()[0], place, vars(parsed))
    code = _run(program, module, parsed, place)
    if place.world_size > 1:
        how = _ENDS.get(code, "failed")
        print(
            f"{program}: rank {place.rank} of {place.world_size} on {gethostname()} ended: {how} "
            f"(exit code {code})",
            file=sys.stderr,
        )
    return code


def _run(program: str, module: ModuleType, parsed: argparse.Namespace, place: Place) -> int:
    """Runs the command and turns an error into one message; returns the exit code."""
    where = f"rank {place.rank} on {gethostname()}: " if place.world_size > 1 else ""
    try:
        check_paths(paths_of(parsed))
        return int(module.run(parsed))
    except PipelineError as error:
        if place.rank == 0 or not error.said_by_chief:
            text = without_settings(str(error)) if program in _WITHOUT_SETTINGS else str(error)
            print(f"{program}: {where}{text}", file=sys.stderr)
        _LOG.debug("the error in detail:", exc_info=True)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except Exception:  # A bug: exit code 1.
        traceback.print_exc()
        print(f"{program}: {where}failed, see the traceback above", file=sys.stderr)
        return 1


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`, which a live display replaces while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Formatter(logging.Formatter):
    """Omits the prefix of a record with the attribute `is_plain`."""

    def format(self, record: logging.LogRecord) -> str:
        if getattr(record, "is_plain", False):
            return record.getMessage()
        return super().format(record)


def _add_verbosity(parser: argparse.ArgumentParser) -> None:
    """Adds the options that every verb has."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="print debug messages, and tracebacks of errors",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="print only warnings and errors")


def _log_to_stderr(program: str, place: Place, verbose: bool, quiet: bool) -> None:
    """Sends log messages to standard error, once for all ranks.

    Standard output contains only the result: it may be piped into a JSON reader.
    """
    shown = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    origin = "%(asctime)s %(name)s: " if verbose else ""
    handler = _StderrHandler(sys.stderr)
    handler.setFormatter(_Formatter(f"{program}: {origin}%(message)s"))
    for package in _LOGGED:
        logger = logging.getLogger(package)
        logger.handlers = [handler]
        logger.setLevel(shown if place.rank == 0 else logging.ERROR)
    # Every rank reports that it has joined.
    logging.getLogger("pipeline.runtimes.kinds.joined").setLevel(shown)
    # For libraries. If the root logger had no handler, the first library that logs through it would
    # add one, which would print our messages a second time.
    if not logging.root.handlers:
        others = _StderrHandler(sys.stderr)
        others.setLevel(logging.WARNING)
        others.setFormatter(_Formatter(f"{program}: %(name)s: %(message)s"))
        others.addFilter(lambda record: record.name.partition(".")[0] not in _LOGGED)
        logging.root.addHandler(others)


def _place() -> Place:
    """Returns the place of this process, for messages. The verb reports a wrong TF_CONFIG."""
    try:
        return find_place(os.environ)
    except SettingsError:
        return Place("alone")


def _explain(arguments: Sequence[str]) -> int:
    """Handles `vit --help`, `vit --version` and unknown verbs."""
    word = arguments[0]
    if word in ("-h", "--help", "--version"):
        _help().parse_args(arguments)  # Prints the answer and exits with 0.
    message = explain_verb(word, VERBS, is_recipe(word))
    print(f"vit: {message}", file=sys.stderr)
    return SettingsError.exit_code


def _help() -> argparse.ArgumentParser:
    """Returns the parser of `vit` without a verb."""
    verbs = "\n".join(f"  {name:<12}{summary}" for name, summary in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="vit",
        usage="vit VERB ...   (vit VERB --help shows its arguments)",
        description="Trains Vision Transformers from one recipe file.",
        epilog=f"verbs:\n{verbs}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vit {version('vit-pipeline')}")
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    run_process()
