"""The tutorial notebook runs from its first cell to its last, with what is installed."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs/tutorial.ipynb"


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """The notebook, executed in an empty folder."""
    # The kernel's own interpreter has the command `vit`, which is to find this code.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    folder = tmp_path / "work"
    folder.mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # Sockets in a folder of this test: ports could be taken by another test in the meantime.
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(tmp_path / "k"))
    client = NotebookClient(
        notebook, km=kernel, timeout=400, resources={"metadata": {"path": str(folder)}}
    )
    try:
        return client.execute()
    finally:
        client.kc.stop_channels()
        kernel.context.destroy(linger=0)


def printed(notebook, wanted):
    """What the cell with the text `wanted` printed on standard output."""
    (cell,) = (cell for cell in notebook.cells if wanted in cell.source and "outputs" in cell)
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def test_the_tutorial_trains_evaluates_predicts_and_exports(executed):
    evaluated = printed(executed, "vit evaluate")
    accuracy = float(re.search(r"accuracy (\d+\.\d+)%", evaluated)[1])
    assert accuracy > 60  # of ten classes; 80 where it was written
    assert f"test accuracy {accuracy:.2f}%" in printed(executed, "vit train")
    assert re.search(r"\d+ of 26 sevens", printed(executed, '"predict"'))
    assert re.search(r"photos/test/3/\d+\.png: \d \(\d+%\)", printed(executed, "saved_model.load"))


def test_the_stored_output_is_of_these_cells_and_without_errors():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs
    assert all(output.get("name") == "stdout" for output in outputs)
