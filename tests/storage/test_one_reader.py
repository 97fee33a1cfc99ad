"""Files of other people are opened by `pipeline.storage`: regular ones, without waiting."""

import ast

import pytest

from tests.storage.calls import count_calls, only_call, source_files

# What else is opened to be read, how often, and why it is nobody's but ours or the kernel's.
ALLOWED = {
    # /proc and /sys
    ("pipeline/cores.py", "read_text"): 4,
    ("pipeline/runs/lock.py", "read_text"): 2,
    ("pipeline/training/step_statistics.py", "read_text"): 1,
    ("pipeline/launch/private_network.py", "read_text"): 2,
    ("pipeline/launch/private_network.py", "os.open"): 2,
    ("pipeline/runtimes/interfaces.py", "read_text"): 1,
    ("pipeline/doctor/machine.py", "read_text"): 5,
    ("k8s/api.py", "read_text"): 1,
    ("pipeline/runtimes/bfloat16.py", "read_text"): 1,
    ("pipeline/runtimes/processor.py", "read_text"): 1,
    # This package, and installed ones
    ("pipeline/runtimes/agreement.py", "read_bytes"): 1,
    ("pipeline/runtimes/horovod_build.py", "read_text"): 1,
    ("k8s/manifests.py", "read_text"): 2,
    # A folder or file of ours, to lock it or to have it on the disk
    ("pipeline/data/prepare/prepare.py", "os.open"): 1,
    ("pipeline/data/prepare/shard_file.py", "os.open"): 1,
    ("pipeline/runs/checkpoints/store.py", "os.open"): 1,
    # /dev/null, and the end of a pipe
    ("pipeline/launch/processes.py", "os.open"): 1,
    ("pipeline/launch/processes.py", "open"): 1,
    ("jobs/output.py", "os.open"): 1,
    # An archive in memory, one that storage opened, and two that we write
    ("pipeline/export/keras_checks.py", "ZipFile"): 2,
    ("pipeline/export/keras_file.py", "ZipFile"): 1,
}


def opened(call: ast.Call) -> str | None:
    """What a call opens a file by; None if it opens none."""
    function = call.func
    if isinstance(function, ast.Name):
        return function.id if function.id in ("open", "ZipFile") else None
    if not isinstance(function, ast.Attribute):
        return None
    owner = getattr(function.value, "id", "")
    if function.attr in ("read_text", "read_bytes", "ZipFile", "fromfile", "memmap"):
        return function.attr
    if function.attr == "open" and owner == "os":
        return "os.open"
    if function.attr == "load" and owner in ("np", "numpy"):
        return "np.load"
    # `Path.open` takes a mode, and no other `open` here does.
    modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
    if function.attr == "open" and any(mode in ("r", "rb", "rt") for mode in modes):
        return "open"
    return None


@pytest.mark.parametrize("file", source_files("pipeline/storage/"))
def test_a_module_reads_files_through_storage_alone(file):
    allowed = {name: count for (where, name), count in ALLOWED.items() if where == file}
    assert dict(count_calls(file, opened)) == allowed


@pytest.mark.parametrize(
    "line",
    [
        "open(path)", "path.open('rb')", "path.read_text()", "path.read_bytes()", "np.load(path)",
        "os.open(path, os.O_RDONLY)", "zipfile.ZipFile(path)", "np.fromfile(path)",
    ],
)  # fmt: skip
def test_what_reads_is_recognized(line):
    assert opened(only_call(line))
