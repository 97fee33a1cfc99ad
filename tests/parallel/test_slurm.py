"""k8s/slurm.sbatch, with Slurm's own commands played by scripts: there is no Slurm here."""

import os
import subprocess
import sys

import pytest

from tests.parallel.launches import ROOT, needs_horovod

pytestmark = pytest.mark.processes

SMALL = ["train.max_steps=20", "model.depth=1", "monitor.pictures=false", "monitor.report=false"]
SRUN = """
while [[ $1 == --* ]]; do shift; done
for node in 0 1; do SLURM_NODEID=$node "$@" & done
code=0
for job in $(jobs -p); do wait "$job" || { c=$?; [ $c -gt $code ] && code=$c; }; done
exit $code
"""
SCONTROL = """
case $1 in
    show) [ "$*" = "show hostnames node[0-1]" ] && printf '127.0.0.1\\n127.0.0.2\\n' ;;
    requeue) echo "$2" >>"$REQUEUED" ;;
esac
"""


@pytest.fixture
def sbatch(tmp_path):
    """Runs the batch script on two nodes of this machine."""
    bodies = {"srun": SRUN, "scontrol": SCONTROL}
    bodies["vit"] = f'exec {sys.executable} -m jobs.cli "$@"\n'
    for name, body in bodies.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}")
        (tmp_path / name).chmod(0o755)

    def run(*settings):
        # The port follows from the job's number; this process's keeps two test runs apart.
        slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "node[0-1]",
                 "REQUEUED": str(tmp_path / "requeued")}  # fmt: skip
        return subprocess.run(
            ["bash", ROOT / "k8s/slurm.sbatch", "digits", f"run.dir={tmp_path}/run", *settings],
            cwd=ROOT,
            env=os.environ | slurm | {
                "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
            },
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip

    return run


@needs_horovod
def test_two_nodes_train_and_a_stopped_job_is_queued_again(sbatch, tmp_path):
    # 20 steps take longer than this, and so does the first.
    stopped = sbatch(*SMALL, "train.max_time_s=0.5")
    assert stopped.returncode == 75, stopped.stderr
    assert (tmp_path / "requeued").read_text() == f"{os.getpid()}\n"
    done = sbatch(*SMALL)
    assert done.returncode == 0, done.stderr
    assert "2 Horovod processes" in done.stdout
    assert "test accuracy" in done.stdout
    assert (tmp_path / "requeued").read_text() == f"{os.getpid()}\n"
