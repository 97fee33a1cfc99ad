"""What the input stage imports only where it is needed."""

import subprocess
import sys

import pytest


@pytest.mark.processes
def test_numba_is_not_imported_before_an_image_is_resized():
    program = "import sys, pipeline.data.input; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
