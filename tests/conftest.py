"""Set-up shared by all tests. TensorFlow is not imported here: many tests do not need it."""

import multiprocessing.util
import os
import signal
import subprocess
import sys

import pytest

# Two test processes share two cores; one thread each also makes sums come out the same each time.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ["KERAS_BACKEND"] = "tensorflow"
# Where the runner ignores them, under nohup or in a shell's background, all its processes would.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# What Python reports before a process starts. multiprocessing reports nothing: see below.
_STARTS_PROCESS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
# Libraries run these once, in whichever test comes first: Python's `platform`, and matplotlib where
# it has no list of fonts yet.
_LIBRARIES = {("uname",), ("fc-list",)}
_unmarked_test = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Lets only tests marked `processes` start a process: `make check` leaves those out."""
    global _unmarked_test
    _unmarked_test = None if item.get_closest_marker("processes") else item.nodeid
    try:
        return (yield)
    finally:
        _unmarked_test = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Escapes captured names of files that are not UTF-8: pytest-xdist cannot send them."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


def _refuse_unmarked(event, arguments):
    if event in _STARTS_PROCESS and _unmarked_test is not None and arguments[:1] not in _LIBRARIES:
        pytest.fail(f"{_unmarked_test} starts a process: mark it with @pytest.mark.processes")


def _spawn(*arguments):
    _refuse_unmarked("os.posix_spawn", arguments)
    return _spawn_of_multiprocessing(*arguments)


sys.addaudithook(_refuse_unmarked)
_spawn_of_multiprocessing = multiprocessing.util.spawnv_passfds
multiprocessing.util.spawnv_passfds = _spawn


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe from text and returns its path."""

    def write(text: str, name: str = "recipe.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    if os.getuid() != 0:
        pytest.skip("only root may mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
