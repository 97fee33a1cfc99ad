"""All files are written, moved and deleted by `pipeline.storage`: it follows no links."""

import ast
import re

import pytest

from tests.storage.calls import count_calls, only_call, source_files

# What else may write, how often, and why.
ALLOWED = {
    # In a folder that the caller has just made, whose name nobody could guess.
    ("pipeline/runs/checkpoints/store.py", "save_file"): 1,
    ("pipeline/export/saved_model.py", "save"): 1,
    ("pipeline/export/keras_file.py", "save"): 1,
    ("pipeline/export/keras_file.py", "ZipFile"): 1,
    ("pipeline/export/safetensors_folder.py", "save_file"): 1,
    # In a TemporaryDirectory.
    ("pipeline/training/parity.py", "save_file"): 1,
    ("pipeline/doctor/parity_runs.py", "save"): 1,  # of parity.py above
    ("pipeline/runs/log_folders.py", "symlink_to"): 1,
    ("pipeline/export/saved_model_checks.py", "write_bytes"): 1,
    ("pipeline/export/saved_model_checks.py", "symlink_to"): 1,
    ("pipeline/export/keras_checks.py", "ZipFile"): 1,
    ("k8s/answering_hosts.py", "write_text"): 2,
    # Removes the lock's folder, if it is empty.
    ("pipeline/runs/lock.py", "rmdir"): 1,
    # /dev/null in place of a closed standard stream.
    ("jobs/output.py", "os.open"): 1,
    ("pipeline/launch/processes.py", "os.open"): 1,
    ("pipeline/launch/private_network.py", "os.open"): 1,  # in /proc
    # A checkpoint, by the class that is called Saver, whose method is called so.
    ("pipeline/training/resuming.py", "save"): 1,
    ("pipeline/training/step_actions.py", "save"): 1,
    ("pipeline/runs/checkpoints/background.py", "save"): 1,
}  # fmt: skip

METHODS = {
    "write_text", "write_bytes", "touch", "rename", "unlink", "rmdir", "mkdir", "symlink_to",
    "hardlink_to", "rmtree", "move", "copy", "copy2", "copyfile", "copytree", "makedirs",
    "removedirs", "mkstemp", "mkdtemp", "mktemp", "NamedTemporaryFile",
}  # fmt: skip
# These take a path or an open file, which is called `stream` wherever it is one.
SAVES = {"save", "savez", "savez_compressed", "savetxt", "savefig", "save_file", "tofile"}
MODE = re.compile("[rbt]*[wxa+][wxabt+]*")  # of a file that is opened to write
OF_OS = {"replace", "rename", "remove", "link", "symlink", "truncate", "mknod", "mkfifo"}


def written(call: ast.Call) -> str | None:
    """What a call writes by; None if it writes nothing."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = getattr(getattr(function, "value", None), "id", None)
    if owner == "os" and name == "open":
        flags = {n.attr for n in ast.walk(call) if isinstance(n, ast.Attribute)}
        return "os.open" if flags & {"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"} else None
    if name in ("open", "fdopen", "ZipFile", "TarFile"):
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        texts = [a.value for a in arguments if isinstance(a, ast.Constant)]
        return (
            name if any(MODE.fullmatch(text) for text in texts if isinstance(text, str)) else None
        )
    if owner in ("os", "shutil") and name in OF_OS | METHODS:
        return name
    if owner != "os" and name == "replace" and isinstance(function, ast.Attribute):
        # `Path.replace` takes one argument, `str.replace` two, `datetime.replace` keywords.
        return name if len(call.args) == 1 and not call.keywords else None
    if name in METHODS and isinstance(function, ast.Attribute):
        return name if name != "copy" or owner == "shutil" else None
    if name in SAVES and call.args:
        first = call.args[0]
        return None if isinstance(first, ast.Name) and first.id == "stream" else name
    return None


@pytest.mark.parametrize("file", source_files("pipeline/storage/"))
def test_a_module_writes_through_storage_alone(file):
    allowed = {name: count for (where, name), count in ALLOWED.items() if where == file}
    assert dict(count_calls(file, written)) == allowed


@pytest.mark.parametrize(
    "line",
    [
        "path.write_text('x')", "open(path, 'w')", "path.open('ab', buffering=0)", "open(p, 'r+')",
        "os.replace(a, b)", "a.rename(b)", "a.replace(b)", "np.savez(path, a=1)",
        "shutil.rmtree(path)", "tempfile.mkstemp()", "os.open(p, os.O_WRONLY)", "path.unlink()",
        "figure.savefig(path)", "zipfile.ZipFile(path, 'a')", "path.mkdir()", "path.touch()",
        "save_file(arrays, path)", "shutil.copy(a, b)",
    ],
)  # fmt: skip
def test_what_writes_is_recognized(line):
    assert written(only_call(line))


@pytest.mark.parametrize(
    "line",
    [
        "open(path, 'rb')", "text.replace('a', 'b')", "dataclasses.replace(x, y=1)",
        "np.savez(stream, a=1)", "os.open(p, os.O_RDONLY)", "array.copy()", "path.open()",
    ],
)  # fmt: skip
def test_what_reads_is_not_taken_for_writing(line):
    assert written(only_call(line)) is None
