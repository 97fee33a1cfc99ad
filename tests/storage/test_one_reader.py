"""Files of other people are opened by `pipeline.storage`: regular ones, without waiting."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path
    for top in ("pipeline", "jobs")
    for path in (ROOT / top).rglob("*.py")
    if not str(path.relative_to(ROOT)).startswith(("pipeline/storage/", "jobs/benchmark/"))
)

# What else is opened to be read, how often, and why it is nobody's but ours or the kernel's.
ALLOWED = {
    # /proc and /sys
    ("pipeline/cores.py", "read_text"): 4,
    ("pipeline/train/run_lock.py", "read_text"): 2,
    ("pipeline/train/gauges.py", "read_text"): 1,
    ("pipeline/distribute/private_network.py", "read_text"): 2,
    ("pipeline/distribute/private_network.py", "os.open"): 2,
    ("pipeline/distribute/interfaces.py", "read_text"): 1,
    ("jobs/doctor/machine.py", "read_text"): 5,
    ("jobs/cluster/api.py", "read_text"): 1,
    ("pipeline/distribute/bfloat16.py", "read_text"): 1,
    # This package, and installed ones
    ("pipeline/distribute/agreement.py", "read_bytes"): 1,
    ("pipeline/distribute/horovod_build.py", "read_text"): 1,
    ("jobs/cluster/render.py", "read_text"): 2,
    # A folder or file of ours, to lock it or to have it on the disk
    ("pipeline/data/prepare/prepare.py", "os.open"): 1,
    ("pipeline/data/prepare/shard_file.py", "os.open"): 1,
    ("pipeline/checkpoint/store.py", "os.open"): 1,
    # /dev/null, and the end of a pipe
    ("pipeline/distribute/processes.py", "os.open"): 1,
    ("pipeline/distribute/processes.py", "open"): 1,
    ("jobs/output.py", "os.open"): 1,
    # An archive in memory, one that storage opened, and two that we write
    ("pipeline/export/foreign_keras.py", "ZipFile"): 2,
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


def readers(path: Path) -> Counter:
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return Counter(name for call in calls if (name := opened(call)) is not None)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_reads_files_through_storage_alone(path):
    file = str(path.relative_to(ROOT))
    allowed = {name: count for (where, name), count in ALLOWED.items() if where == file}
    assert dict(readers(path)) == allowed


@pytest.mark.parametrize(
    "line",
    [
        "open(path)", "path.open('rb')", "path.read_text()", "path.read_bytes()", "np.load(path)",
        "os.open(path, os.O_RDONLY)", "zipfile.ZipFile(path)", "np.fromfile(path)",
    ],
)  # fmt: skip
def test_what_reads_is_recognised(line):
    (call,) = [node for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call)]
    assert opened(call)
