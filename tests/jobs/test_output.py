"""Output that cannot be written: a full disk, a reader that left, a terminal that closed."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent.parent
LOST = "vit: cannot write to standard output: "

# Prints by all ways, before and after a chance to mend what its output goes to.
PRINTS = """
import logging, sys, warnings
from rich.console import Console
from jobs.output import take_over_output
output = take_over_output(ends=False)
for number in range(2):
    print("printed", number, flush=True)
    Console().print("shown", number)
    logging.getLogger().warning("logged")
    warnings.warn("warned")
    if number == 0:
        sys.stdin.readline()
print(output.lost, file=open(sys.argv[1], "w"))
"""


def vit(*arguments, **streams):
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, text=True, timeout=60, check=False, **streams)


def closed_pipe():
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w")


def closed_terminal():
    """The end of a terminal whose window is gone: what is written there fails with EIO."""
    master, slave = pty.openpty()
    os.close(master)
    return os.fdopen(slave, "w")


def full_disk():
    return open("/dev/full", "w")


@pytest.mark.parametrize(
    ("nowhere", "code"), [(full_disk, 1), (closed_pipe, 141), (closed_terminal, 1)]
)
def test_what_prints_goes_on_where_nothing_can_be_printed(tmp_path, nowhere, code):
    with nowhere() as lost:
        done = subprocess.run(
            [sys.executable, "-c", PRINTS, tmp_path / "end"],
            cwd=ROOT,
            input=b"\n",
            stdout=lost,
            stderr=lost,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0
    assert (tmp_path / "end").read_text() == f"{code}\n"


def test_a_line_says_where_output_is_missing_once_it_can_be_written_again(tmp_path):
    # A limit on the size of files stands in for a full disk, as it can be lifted.
    script = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8, resource.RLIM_INFINITY))
from jobs.output import take_over_output
take_over_output(ends=False)
print("one", flush=True)
print("two, too long to fit", flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("three", flush=True)
"""
    log = tmp_path / "log"
    with log.open("w") as stream:
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, stdout=stream, stderr=subprocess.PIPE,
            text=True, check=True, timeout=60,
        )  # fmt: skip
    assert log.read_text().startswith("one\n")
    assert log.read_text().endswith(
        "[vit: output is missing here: it could not be written]\nthree\n"
    )
    assert done.stderr.startswith(LOST)
    assert "continues" in done.stderr


def test_a_result_that_cannot_be_written_is_an_error_without_a_traceback():
    with full_disk() as lost:
        done = vit("pretrained", "list", stdout=lost, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, f"{LOST}No space left on device\n")


@pytest.mark.parametrize("words", [["pretrained", "list"], ["--help"], ["train", "--help"]])
def test_a_result_whose_reader_left_ends_quietly(words):
    with closed_pipe() as lost:
        done = vit(*words, stdout=lost, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_message_that_cannot_be_written_does_not_change_the_exit_code():
    for nowhere in (full_disk, closed_pipe, closed_terminal):
        with nowhere() as lost:
            assert vit("evaluate", "no/such/run", stdout=lost, stderr=lost).returncode == 2


def test_closed_streams_do_not_give_their_numbers_to_files():
    script = f"{sys.executable} -m jobs.cli train --no-such-option >&- 2>&- <&-"
    assert subprocess.run(script, shell=True, cwd=ROOT, check=False, timeout=60).returncode == 2  # noqa: S602
