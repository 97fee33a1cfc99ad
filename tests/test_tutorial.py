"""The tutorial notebook runs from its first cell to its last, with what is installed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs/tutorial.ipynb"

# In a process of its own, since nbclient leaves sockets and the kernel's process open. The kernel
# listens at files: the ports that it would choose could be taken in the meantime.
EXECUTE = """
import sys
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

source, target, folder, sockets = sys.argv[1:]
kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=sockets)
notebook = nbformat.read(source, as_version=4)
NotebookClient(notebook, km=kernel, timeout=400, resources={"metadata": {"path": folder}}).execute()
nbformat.write(notebook, target)
"""


@pytest.fixture
def executed(tmp_path):
    """The notebook, executed in an empty folder."""
    environment = {
        **os.environ,
        # The interpreter's folder has the command `vit`, which is to find this code.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    target, work = tmp_path / "executed.ipynb", tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, NOTEBOOK, target, work, tmp_path / "k"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return nbformat.read(target, as_version=4)


def printed(notebook, wanted):
    """What the cell with the text `wanted` printed on standard output."""
    (cell,) = (cell for cell in notebook.cells if wanted in cell.source and "outputs" in cell)
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


@pytest.mark.processes
def test_the_tutorial_trains_evaluates_predicts_and_exports(executed):
    evaluated = printed(executed, "vit evaluate")
    accuracy = float(re.search(r"accuracy (\d+\.\d+)%", evaluated)[1])
    assert accuracy > 60  # of ten classes; 80 where it was written
    assert f"test accuracy {accuracy:.2f}%" in printed(executed, "vit train")
    assert re.search(r"\d+ of 26 sevens", printed(executed, "pipeline.predict"))
    assert re.search(r"photos/test/3/\d+\.png: \d \(\d+%\)", printed(executed, "saved_model.load"))


def test_the_stored_output_is_of_these_cells_and_without_errors():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs
    assert all(output.get("name") == "stdout" for output in outputs)
