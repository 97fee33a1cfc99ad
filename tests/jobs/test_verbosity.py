"""Messages of a verb: -v and -q choose which ones are shown, and none is on standard output."""

import importlib
import json
import logging
import sys
from types import ModuleType

import pytest

from jobs import cli
from pipeline.errors import DataError


@pytest.fixture
def vit(monkeypatch, capsys):
    """Calls a verb that prints a JSON object and logs at every level."""
    verb = ModuleType("jobs.example")
    verb.add_arguments = lambda parser: parser.add_argument("--fail", action="store_true")

    def run(arguments):
        print(json.dumps({"accuracy": 1.0}))
        for package in ("pipeline", "jobs", "k8s"):
            log = logging.getLogger(f"{package}.example")
            for level in ("debug", "info", "warning", "error"):
                getattr(log, level)("%s of %s", level, package)
        if arguments.fail:
            raise DataError("the data is gone")
        return 0

    verb.run = run
    monkeypatch.setitem(sys.modules, "jobs.example", verb)
    monkeypatch.setitem(cli.VERBS, "example", "an example")
    loggers = [logging.getLogger(name) for name in cli._LOGGED]
    before = [(logger, logger.handlers, logger.level) for logger in loggers]

    def call(*arguments):
        code = cli.main(["example", *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield call
    for logger, handlers, level in before:
        logger.handlers, logger.level = handlers, level


@pytest.mark.parametrize(
    ("option", "hidden"),
    [((), ["debug"]), (("-q",), ["debug", "info"]), (("--quiet",), ["debug", "info"]),
     (("-v",), []), (("--verbose",), [])],
)  # fmt: skip
def test_the_options_choose_the_messages_and_leave_the_result(vit, option, hidden):
    code, out, err = vit(*option)
    assert code == 0
    assert json.loads(out) == {"accuracy": 1.0}
    for level in ("debug", "info", "warning", "error"):
        for package in ("pipeline", "jobs", "k8s"):
            assert (f"{level} of {package}" in err) == (level not in hidden)


def test_messages_begin_with_the_command_and_without_options_have_nothing_else(vit):
    _, _, err = vit()
    levels = ("info", "warning", "error")
    assert err.splitlines() == [
        f"vit example: {level} of {package}"
        for package in ("pipeline", "jobs", "k8s")
        for level in levels
    ]


@pytest.mark.parametrize(("option", "traceback"), [((), False), (("-q",), False), (("-v",), True)])
def test_an_error_is_always_printed_and_its_traceback_with_v(vit, option, traceback):
    code, _, err = vit("--fail", *option)
    assert code == 3
    assert "vit example: the data is gone\n" in err
    assert ("Traceback" in err) == traceback


def test_both_options_together_are_refused(vit):
    with pytest.raises(SystemExit) as ended:
        vit("-v", "-q")
    assert ended.value.code == 2


@pytest.mark.parametrize("rank", ["0", "1"])
def test_other_ranks_log_errors_only(vit, monkeypatch, rank):
    for name, value in {"RANK": rank, "SIZE": "2", "LOCAL_RANK": rank, "LOCAL_SIZE": "2"}.items():
        monkeypatch.setenv(f"HOROVOD_{name}", value)
    _, _, err = vit("-v")
    assert ("info of pipeline" in err) == (rank == "0")
    assert "error of pipeline" in err


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_the_options(verb, capsys):
    importlib.import_module(f"jobs.{verb.replace('-', '_')}")
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "-v, --verbose" in text
    assert "-q, --quiet" in text


def test_a_library_that_logs_through_the_root_logger_does_not_repeat_our_messages(vit, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's own
    verb, run = sys.modules["jobs.example"], sys.modules["jobs.example"].run

    def run_with_library(arguments):
        logging.warning("from a library")  # noqa: LOG015  # what such a library does
        return run(arguments)

    monkeypatch.setattr(verb, "run", run_with_library)
    _, _, err = vit()
    assert err.count("from a library") == 1
    assert err.count("warning of jobs") == 1
