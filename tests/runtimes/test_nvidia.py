"""A driver that fails is not a machine without a GPU. nvidia-smi is a stand-in."""

import subprocess
from pathlib import Path

import pytest

from jobs.cli import main
from pipeline.errors import SettingsError
from pipeline.runtimes import nvidia
from pipeline.runtimes.nvidia import find_gpus

pytestmark = pytest.mark.processes

MISMATCH = "Failed to initialize NVML: Driver/library version mismatch"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Makes a program of this name, from lines of a shell script."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def make(script):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return make


def test_gpus_are_counted(nvidia_smi):
    nvidia_smi("echo 'GPU 0: NVIDIA L4'; echo 'GPU 1: NVIDIA L4'")
    assert find_gpus({}) == ("0", "1")


@pytest.mark.parametrize("status", [0, 6])
def test_a_driver_without_a_gpu_is_no_failure(nvidia_smi, status):
    nvidia_smi(f"echo 'No devices were found'; exit {status}")
    assert find_gpus({}) == ()


@pytest.mark.parametrize("stream", [1, 2])
def test_a_driver_that_fails_is_an_error_with_what_it_printed(nvidia_smi, stream):
    nvidia_smi(f"echo '{MISMATCH}' >&{stream}; exit 18")
    with pytest.raises(SettingsError, match=f"nvidia-smi fails: {MISMATCH}.*CUDA_VISIBLE_DEVICES="):
        find_gpus({})
    assert find_gpus({"CUDA_VISIBLE_DEVICES": ""}) == ()


def test_a_driver_that_hangs_is_an_error(nvidia_smi, monkeypatch):
    monkeypatch.setattr(nvidia, "_TIMEOUT_S", 0.2)
    nvidia_smi("exec sleep 60")
    with pytest.raises(SettingsError, match=r"it did not answer within 0\.2 s"):
        find_gpus({})


def test_vit_launch_starts_nothing_with_a_driver_that_fails(nvidia_smi, tmp_path, capsys):
    nvidia_smi(f"echo '{MISMATCH}'; exit 18")
    started = tmp_path / "started"
    assert main(["launch", "--hosts", "localhost", "--", "touch", str(started)]) == 2
    assert MISMATCH in capsys.readouterr().err
    assert not started.exists()


@pytest.mark.parametrize(
    ("script", "words", "code", "said"),
    [
        (f"echo '{MISMATCH}'; exit 18", ["train"], 2, MISMATCH),
        (f"echo '{MISMATCH}'; exit 18", ["train", "FLAVOUR=cpu"], 0, "installed-cpu"),
        (f"echo '{MISMATCH}'; exit 18", ["clean"], 0, "rm -rf"),
        ("echo 'GPU 0: NVIDIA L4'", ["train"], 0, "installed-gpu"),
        ("echo 'No devices were found'; exit 6", ["train"], 0, "installed-cpu"),
    ],
)
def test_make_does_not_install_for_the_cpu_where_the_driver_fails(
    nvidia_smi, script, words, code, said
):
    nvidia_smi(script)
    words = ["make", "--dry-run", "VENV=no", *words]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
