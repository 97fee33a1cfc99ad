"""Launchers with real processes, for the tests: started, ended, and none left behind."""

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from pipeline.runtimes.ports import find_free_ports

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
needs_horovod = pytest.mark.skipif(
    importlib.util.find_spec("horovod") is None, reason="Horovod is not built: make horovod"
)
TWO = "127.0.0.1,127.0.0.2"
TOKEN = {"VIT_LAUNCH_TOKEN": "of-the-tests-" + "0123456789abcdef" * 2}


class Launches:
    """Launchers of one test, all of whose processes carry a mark in their environment."""

    def __init__(self):
        self.mark = f"VIT_TEST_MARK={uuid.uuid4().hex}"
        self.started = []
        self.port = find_free_ports(5, random.SystemRandom())

    def start(self, *arguments, script="rank.py", command=None, under=(), **variables):
        """Starts a launcher; arguments before "--" are its own, those after it the script's.

        Args:
          under: Program and arguments that start it in turn.
        """
        own, _, rest = f"{' '.join(arguments)} ".partition(" -- ")
        command = command or [sys.executable, str(HERE / script), *rest.split()]
        launcher = [
            *under,
            sys.executable,
            "-m",
            "jobs.cli",
            "launch",
            *own.split(),
            "--",
            *command,
        ]
        return self._open(launcher, subprocess.PIPE, variables)

    def horovodrun(self, processes, *command):
        """Starts horovodrun on this machine; all it prints comes on standard output."""
        horovodrun = str(Path(sys.executable).with_name("horovodrun"))
        words = [horovodrun, "--gloo", "-np", str(processes), *map(str, command)]
        return self._open(words, subprocess.STDOUT, {})

    def _open(self, command, stderr, variables):
        name, value = self.mark.split("=")
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), name: value} | TOKEN | variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
        self.started.append(process)
        return process

    def run(self, *arguments, timeout_s=60, **options):
        return end(self.start(*arguments, **options), timeout_s)

    def start_two(self, *arguments, first=0, apart_s=0.0, **options):
        """Launchers of two nodes on addresses of this machine; returned by index."""
        launchers = {}
        for index in (first, 1 - first):
            launchers[index] = self.start(
                f"--hosts {TWO} --port {self.port} --index {index}", *arguments, **options
            )
            time.sleep(apart_s)
        return launchers[0], launchers[1]

    def left(self):
        """Process ids that carry the mark and are no zombies."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                if self.mark.encode() in (folder / "environ").read_bytes() and state != "Z":
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def clean_up(self):
        """Ends the launchers; raises where they leave a process behind, and ends that too."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        try:
            wait_until(lambda: not self.left(), 5)
        finally:
            for process in self.left():
                os.kill(process, signal.SIGKILL)


def end(process, timeout_s=60):
    """The code, standard output and standard error of a launcher that ends by itself."""
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def wait_until(condition, timeout_s=20.0):
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit, "this did not come"
        time.sleep(0.05)
