"""What processes must have in common is compared, and what only one may do the others leave."""

import json
import os
import re
import shutil
import sys
from socket import gethostname

import numpy as np
import pytest
from PIL import Image

from tests.parallel.launches import ROOT, end, needs_horovod

pytestmark = pytest.mark.processes

HOST = gethostname()
EITHER = [pytest.param("horovod", marks=needs_horovod), "multi_worker"]
TRAIN = f"{sys.executable} -m jobs.cli train"
# What is compared here does not depend on the network: the smallest starts soonest.
DIGITS = "digits model.depth=1 monitor.pictures=false monitor.report=false"
# Rank of the process that a shell command runs in, for either runtime.
RANK = "${HOROVOD_RANK-$(echo $TF_CONFIG | grep -o '[0-9]*}}$' | tr -d '}')}"


def shell(vit, runtime, command, slots=2):
    """Runs one shell command line as every rank."""
    options = f"--hosts localhost --processes-per-node {slots} --runtime {runtime} --"
    return end(vit.start(options, command=["sh", "-c", command]), 300)


@pytest.mark.parametrize("runtime", EITHER)
def test_a_rank_with_other_settings_is_named(vit, tmp_path, runtime):
    command = f"exec {TRAIN} {DIGITS} run.dir={tmp_path}/run seed={RANK}"
    code, _, err = shell(vit, runtime, command)
    assert code == 2
    assert f"rank 1 on {HOST} has different settings from rank 0 on {HOST}" in err
    assert "seed: 0 on rank 0, 1 on rank 1" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@needs_horovod
def test_a_rank_with_other_code_is_named(vit, tmp_path):
    for rank in "01":
        for package in ("pipeline", "jobs"):
            shutil.copytree(ROOT / package, tmp_path / rank / package)
    with (tmp_path / "1/pipeline/optim/schedule.py").open("a") as stream:
        stream.write("# changed\n")
    command = f"cd {tmp_path}/{RANK}; PYTHONPATH=. exec {TRAIN} {DIGITS} run.dir={tmp_path}/run"
    code, _, err = shell(vit, "horovod", command)
    assert code == 2
    assert f"rank 1 on {HOST} runs a different version of the code from rank 0" in err


def test_ranks_on_different_cpus_train_in_the_precision_that_suits_all(vit, tmp_path):
    tampered = f"{sys.executable} {ROOT}/tests/parallel/tampered_train.py"
    short = "train.max_steps=2 train.evaluate_every_steps=2 train.precision=auto"
    command = (
        f"exec {tampered} cpu=avx512_bf16@0,cpu=avx2@1 {DIGITS} {short} run.dir={tmp_path}/run"
    )
    code, out, err = shell(vit, "multi_worker", command)
    assert code == 0, err
    assert err.count("train.precision=auto is float32 here: a CPU without avx512_bf16") == 1
    assert "amx_bf16 is slow at bfloat16 (rank 1)" in err
    assert ", float32\n" in out
    assert "precision: float32\n" in (tmp_path / "run/config.yaml").read_text()


@pytest.mark.parametrize("runtime", EITHER)
def test_only_the_chief_writes_and_each_rank_says_when_it_joins_and_ends(vit, tmp_path, runtime):
    for rank in "01":
        (tmp_path / rank).mkdir()
    short = "train.max_steps=4 train.evaluate_every_steps=2 train.log_every_steps=1"
    command = f"cd {tmp_path}/{RANK}; exec {TRAIN} {DIGITS} {short}"
    code, out, err = shell(vit, runtime, command)
    assert code == 0, err
    assert "test accuracy" in out
    assert (tmp_path / "0/runs/digits/outcome.json").exists()
    assert os.listdir(tmp_path / "1") == []
    for rank in (0, 1):
        said = rf"vit train: rank {rank} of 2 on {HOST} "
        assert len(re.findall(rf"{said}joined: pid \d+, CPU:0, {runtime}$", err, re.MULTILINE)) == 1
        assert len(re.findall(rf"{said}ended: done \(exit code 0\)$", err, re.MULTILINE)) == 1


@needs_horovod
def test_17_examples_on_4_workers_in_batches_of_8_are_each_counted_once(vit, tmp_path):
    random = np.random.default_rng(0)
    for i in range(25):
        folder = tmp_path / "images" / ("train" if i < 8 else "validation") / "abc"[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
    common = (
        f"{TRAIN} {DIGITS} data.source=image_folder data.path={tmp_path}/images train.max_steps=1 "
        "data.global_batch_size=8 data.eval_batch_size=8 optim.base_lr=1e-3"
    )
    rows = []
    for runtime, slots in (("horovod", 4), ("multi_worker", 4), ("horovod", 1)):
        run = tmp_path / f"{runtime}-{slots}"
        code, _, err = shell(vit, runtime, f"exec {common} run.dir={run}", slots)
        assert code == 0, err
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        rows.append(next(line for line in lines if line["split"] == "validation"))
    *both, one = rows
    for four in both:
        assert four["accuracy"] * 17 == pytest.approx(round(one["accuracy"] * 17), abs=1e-9)
        assert four["top_5_accuracy"] == 1
        assert four["loss"] == pytest.approx(one["loss"], rel=1e-6)


def test_more_workers_than_examples_are_refused(vit, tmp_path):
    options = "data.source=synthetic data.num_examples=2 data.global_batch_size=12"
    command = f"exec {TRAIN} {DIGITS} {options} run.dir={tmp_path}/run"
    code, _, err = shell(vit, "multi_worker", command, 3)
    assert code == 2
    assert "3 replicas would train on 2 example(s): start at most 2 worker(s)" in err


def test_ranks_whose_folders_differ_are_refused_before_they_train(vit, tmp_path):
    for rank, classes in (("0", "abc"), ("1", "abd")):
        for name in classes:
            folder = tmp_path / rank / "images" / "train" / name
            folder.mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")
    settings = f"data.source=image_folder data.path=images run.dir={tmp_path}/run"
    command = f"cd {tmp_path}/{RANK}; exec {TRAIN} {DIGITS} {settings}"
    code, _, err = shell(vit, "multi_worker", command)
    assert code == 3
    assert f"rank 1 on {HOST} has different data from rank 0 on {HOST}" in err
    assert "classes: only on rank 0: c; only on this rank: d" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "checkpoints").exists()
