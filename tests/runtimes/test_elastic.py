"""The runtime of elastic jobs, alone before it has joined the others."""

import subprocess
import sys

import pytest

from tests.parallel.launches import needs_horovod

pytestmark = [needs_horovod, pytest.mark.processes]

# A process that connects to itself only, with a Horovod that sums with NCCL.
ALONE = """
import sys
from pipeline.errors import SettingsError
from pipeline.runtimes.elastic import ElasticRuntime

class Membership:
    joins_late = True
    device_place = (0, 1)
    def close(self): pass

ElasticRuntime.uses_nccl = True
try:
    runtime = ElasticRuntime("none", Membership(), nccl=sys.argv[1] == "allowed")
    print(runtime.describe())
    runtime.close()
except SettingsError as error:
    print(error)
"""


def test_nccl_is_refused_unless_the_user_wants_to_try_it():
    refused, allowed = (
        subprocess.run(
            [sys.executable, "-c", ALONE, word], capture_output=True, text=True, check=True
        ).stdout
        for word in ("refused", "allowed")
    )
    assert "have not been tested with NCCL" in refused
    assert "distribute.elastic_nccl=true" in refused
    assert allowed.startswith("1 Horovod processes")
    assert "elastic" in allowed
