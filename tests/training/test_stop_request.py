"""Requests to stop, with real signals to real processes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.training.stop_request import StopRequest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent.parent

# Stands in for TensorFlow that compiles: one call of minutes, which gives the interpreter to other
# threads, and this one no chance to run a signal's handler.
BUSY = """
import hashlib, signal, sys, time
from pipeline.training.stop_request import StopRequest
stop = StopRequest(grace_s=float(sys.argv[1]), acknowledges=True)
with stop.listening():
    print("ready", flush=True)
    if sys.argv[2] == "busy":
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    while stop.reason is None:
        time.sleep(0.01)
    print(stop.reason, flush=True)
"""


@pytest.fixture
def start():
    """Starts a process that waits for a signal, idle or busy; it is ended with the test."""
    started = []

    def begin(grace_s, what):
        process = subprocess.Popen(
            [sys.executable, "-c", BUSY, str(grace_s), what],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_is_a_request_that_names_it(start, number):
    process = start(30, "idle")
    process.send_signal(number)
    out, _ = process.communicate(timeout=10)
    assert (out, process.returncode) == (f"{number.name}\n", 0)


def test_a_sighup_that_was_ignored_at_the_start_stays_ignored(start):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        process = start(30, "idle")
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=10)
    assert (out, process.returncode) == ("SIGTERM\n", 0)


def test_a_second_interrupt_ends_the_process_whatever_it_does(start):
    process = start(30, "busy")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=2)
    assert process.returncode == 130
    assert err.splitlines()[-1] == (
        "vit train: interrupted twice: exiting now; the newest checkpoint is kept"
    )


def test_a_signal_is_answered_at_once_also_amid_a_step_of_minutes(start):
    process = start(30, "busy")
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    answer = process.stderr.readline()
    assert answer == (
        "vit train: SIGINT: saving a checkpoint and stopping after the current step, within 30 s "
        "(checkpoint.grace_s). Press Ctrl-C again to exit now\n"
    )
    assert process.poll() is None


def test_two_different_signals_are_one_request(start):
    process = start(30, "busy")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None


def test_the_grace_ends_a_process_that_does_not_come_to_the_end_of_a_step(start):
    process = start(0.5, "busy")
    process.send_signal(signal.SIGTERM)
    start_s = time.monotonic()
    _, err = process.communicate(timeout=5)
    assert 0.3 < time.monotonic() - start_s < 2
    assert process.returncode == 75
    assert "checkpoint.grace_s" in err


def test_more_signals_do_not_lengthen_the_grace(start):
    process = start(1.5, "busy")
    start_s = time.monotonic()
    for _ in range(4):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    process.communicate(timeout=5)
    assert process.returncode == 75
    assert time.monotonic() - start_s < 2.3


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest().listening():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_time_and_file():
    stop = StopRequest(max_time_s=0.05)
    assert stop.reason is None
    time.sleep(0.06)
    assert stop.reason == "train.max_time_s=0.05"
    stop = StopRequest()
    stop.file_exists = lambda: True
    assert stop.reason == "the file `stop`"
