"""What a command imports with TensorFlow."""

import subprocess
import sys

import pytest

from tests.jobs.commands import vit_process


@pytest.mark.processes
def test_a_command_imports_keras_without_what_its_extras_need(tmp_path):
    run = f"run.dir={tmp_path / 'run'}"
    done = vit_process(
        "train", "digits", "--dry-run", run, start=("-X", "importtime", "-m", "jobs.cli")
    )
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"keras", "tensorflow"} <= imported
    # A package whose import is refused is listed, and none of its modules.
    left_out = ("IPython.", "matplotlib.figure", "sklearn.")
    assert not [name for name in imported if name.startswith(left_out)]


@pytest.mark.processes
def test_code_of_users_can_import_them_afterwards():
    code = """if True:
        from pipeline.runtimes import tensorflow_start
        tensorflow_start.leave_out_extras_of_keras()
        tensorflow_start.import_tensorflow()
        import sys, keras
        assert sys.modules.keys().isdisjoint({"matplotlib", "sklearn"})
        import IPython, matplotlib.pyplot, sklearn.datasets
        assert len(sklearn.datasets.load_digits().images) == 1797
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
