"""`vit VERB ...`: finds the verb, runs it, and turns an error into one message and a code."""

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

# Each is a module of this package with add_arguments(parser) and run(arguments) -> exit code.
# Their modules are imported only when needed, and TensorFlow only inside run().
VERBS = {
    "train": "train a recipe, or go on with its run",
    "evaluate": "evaluate a run's best weights, each example once",
    "predict": "name what images show",
    "export": "write a run's model as SavedModel, ONNX, Keras file or safetensors",
    "report": "write what a run did into one HTML page, or compare runs",
    "board": "show the curves of runs in TensorBoard",
    "pretrained": "list published weights to start from: where they are, and their settings",
    "prepare": "write images into shards that are read by index",
    "doctor": "say what will go wrong before it does; show that N workers train what one trains",
    "plan": "predict what N GPUs will give: time, cost, memory, and what limits them",
    "launch": "start a command as many processes, on one node or on several",
    "submit": "start a recipe, or another verb, on Kubernetes",
    "jobs": "show the jobs of a Kubernetes namespace, and how far they are",
    "logs": "print what a job's processes print",
    "stop": "save a job's run and suspend it",
    "resume": "let a stopped job go on",
    "delete": "delete a job; what it wrote stays on the claim",
    "mpi-launch": "run horovodrun as an MPIJob's launcher, and end as the run did",
}

# They look at a run as it is: what a message advises must not be a setting.
_WITHOUT_SETTINGS = ("vit evaluate", "vit predict", "vit export", "vit report")

# What they print is their result: they end where it cannot be written. The others go on.
_FOR_OUTPUT = {"evaluate", "predict", "pretrained", "doctor", "plan", "jobs", "logs"}
_PRINTS = {"-h", "--help", "--dry-run"}

_LOG = logging.getLogger("jobs.cli")  # this module may be __main__
_LOGGED = ("pipeline", "jobs", "k8s", "benchmarks")

EXIT_CODES = """exit codes:
  0   done
  2   wrong usage or settings
  3   the data is missing or wrong
  75  stopped on request, with a checkpoint: give the same command to go on
  76  another process of the job was lost: start all of them again
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
    """Runs one command as this process, and ends the process with the command's exit code.

    Args:
      arguments: By default those of this process.
      command: Takes the arguments and returns the exit code; by default `main`.

    It ends before Python takes itself apart. A thread of tf.data that asks for the interpreter by
    then never comes back, and its iterator, which is freed there, would wait for it for ever.
    """
    code = 1

    def end() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, SystemExit):
                stream.flush()
        os._exit(code or (output.lost if is_result else 0))

    words = sys.argv[1:] if arguments is None else arguments
    is_result = _is_for_its_output(words)
    # One of several processes goes on in any case: the others wait for it.
    output = take_over_output(ends=is_result and _place().world_size == 1)
    if words[:1] != ["launch"]:
        # No file of the current folder takes the place of a module in a Python that this process
        # starts: `python -m` and multiprocessing search that folder first. What `vit launch` starts
        # is the user's own, and may need it.
        os.environ["PYTHONSAFEPATH"] = "1"
        _import_matplotlib_elsewhere()
    # What is registered first runs last: Horovod, for one, has shut down by then.
    atexit.register(end)
    try:
        code = (command or main)(arguments)
    except SystemExit as usage:  # argparse or the output has said what is wrong
        code = int(usage.code or 0)
    sys.exit(code)


def _import_matplotlib_elsewhere() -> None:
    """Keeps matplotlib from the settings of the current folder, which it reads before all others.

    They could name a module to import, have LaTeX started, or be a FIFO.
    """
    if os.path.lexists("matplotlibrc"):
        with chdir("/"):
            importlib.import_module("matplotlib")


def _is_for_its_output(words: Sequence[str]) -> bool:
    """Whether the command is there for what it prints, and is useless where that is lost."""
    # Behind these two verbs comes a command with options of its own.
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
    # Intermixed, so that options may stand before, between and after settings; argparse cannot do
    # so where a verb ends in a command or has sub-commands.
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
    except Exception:  # a fault of the program, which has this exit code
        traceback.print_exc()
        print(f"{program}: {where}failed, see the traceback above", file=sys.stderr)
        return 1


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`: a live display replaces it while it is shown."""

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
        "-v", "--verbose", action="store_true", help="debug messages, and tracebacks of errors"
    )
    group.add_argument(
        "-q", "--quiet", action="store_true", help="of the messages only warnings and errors"
    )


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


def _place() -> Place:
    """Which process this is, for messages; a broken TF_CONFIG is for the verb to complain of."""
    try:
        return find_place(os.environ)
    except SettingsError:
        return Place("alone")


def _explain(arguments: Sequence[str]) -> int:
    """Answers `vit --help`, `vit --version` and what is no verb."""
    word = arguments[0]
    if word in ("-h", "--help", "--version"):
        _help().parse_args(arguments)  # answers, and exits with 0
    message = explain_verb(word, VERBS, is_recipe(word))
    print(f"vit: {message}", file=sys.stderr)
    return SettingsError.exit_code


def _help() -> argparse.ArgumentParser:
    """The parser of `vit` itself, without a verb."""
    verbs = "\n".join(f"  {name:<12}{summary}" for name, summary in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="vit",
        usage="vit VERB ...   (vit VERB --help: its arguments)",
        description="Trains Vision Transformers from one recipe file.",
        epilog=f"verbs:\n{verbs}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vit {version('vit-pipeline')}")
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    run_process()
