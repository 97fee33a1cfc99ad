"""Typical broken set-ups: one line names the problem and the remedy."""

import json
import os
import pty
import re
import resource
import subprocess
import sys
from importlib.metadata import version

import pytest
from PIL import Image

from pipeline.config import DataConfig, dump_config, load_config
from pipeline.data.sources.source import open_source
from pipeline.recipes import find_recipe
from pipeline.runs.checkpoints.snapshot import Snapshot
from pipeline.runs.checkpoints.store import CheckpointStore
from pipeline.runs.folder import RunFolder
from pipeline.training.data_record import data_record
from tests.data.prepared import in_this_process, prepare_into
from tests.doctor.doctors import COMMAND, ROOT, doctor, environment

# The doctor tries some libraries in processes of their own.
pytestmark = pytest.mark.processes

FOLDER = [
    "data.image_size=16",
    "data.global_batch_size=12",
    "model.variant=Ti/8",
    "model.depth=1",
    "optim.warmup_epochs=1",
]


def images(path, *settings):
    """Arguments for the photographs."""
    return ["image_folder", f"data.path={path}", *FOLDER, *settings]


def test_digits_pass_and_leave_no_files(tmp_path):
    report = doctor("digits", cwd=tmp_path)
    assert report.complaints == []
    assert report.code == 0
    assert report.last == f"no errors, no warnings in {len(report.lines)} checks"
    assert report.errors == ""
    assert list(tmp_path.iterdir()) == []
    assert version("keras") in report.text("ok", "Keras")
    # 0.008 x 96 / 256; 1,296 of 96 an epoch, 200 epochs; 5 of them warm up.
    assert "peak learning rate 0.003 " in report.text("ok", "learning rate")
    assert "warm-up 68 steps" in report.text("ok", "learning rate")
    assert "2,700 steps" in report.text("ok", "length")


def test_photographs_pass(doctor_here, photographs):
    report = doctor_here(*images(photographs))
    assert report.complaints == []
    assert report.text("ok", "images") == "a sample of 60 was read and decoded"


def test_a_missing_folder(tmp_path):
    report = doctor(*images(tmp_path / "nowhere"), cwd=tmp_path)
    assert report.code == 3
    assert report.complaints == [("error", "data")]
    assert "nowhere is not a folder. Set data.path" in report.text("error", "data")
    assert report.text("ok", "network")  # what can be looked at without data is


def test_a_class_folder_without_images(doctor_here, photographs):
    (photographs / "train/fox").mkdir()
    report = doctor_here(*images(photographs))
    assert (report.code, report.complaints) == (3, [("error", "data")])
    text = report.text("error", "data")
    assert f"class folder {photographs}/train/fox contains no images" in text
    assert "remove the folder" in text


def test_an_image_that_is_cut_off(doctor_here, photographs):
    broken = photographs / "train/dog/03.png"
    broken.write_bytes(broken.read_bytes()[:200])
    report = doctor_here(*images(photographs))
    assert (report.code, report.complaints) == (3, [("error", "images")])
    text = report.text("error", "images")
    assert f"1 of a sample of 60 cannot be read. The first: cannot read the image {broken}" in text
    assert "Replace or remove it, or set data.on_bad_image=skip" in text
    left_out = doctor_here(*images(photographs, "data.on_bad_image=skip"))
    assert (left_out.code, left_out.complaints) == (0, [("warning", "images")])


def test_an_image_in_two_splits(doctor_here, photographs):
    twice = photographs / "test/eel/01.png"
    twice.write_bytes((photographs / "train/eel/05.png").read_bytes())
    report = doctor_here(*images(photographs))
    assert (report.code, report.complaints) == (0, [("warning", "duplicates")])
    assert "1 images are in more than one split" in report.text("warning", "duplicates")
    assert str(twice) in report.text("warning", "duplicates")


def test_images_much_brighter_than_the_settings_assume(doctor_here, photographs):
    for file in photographs.rglob("*.png"):
        with Image.open(file) as image:
            bright = image.point(lambda value: 235 + value * 20 // 255)
        bright.save(file)
    report = doctor_here(*images(photographs, "data.normalize=half"))
    assert (report.code, report.complaints) == (0, [("warning", "normalization")])
    text = report.text("warning", "normalization")
    # Noise from 235 to 255: mean 245 / 255, and so (0.96 - 0.5) / 0.5.
    assert "have mean 0.96" in text
    assert "data.normalize=half 0.92" in text
    assert "set data.normalize=dataset" in text


@pytest.fixture
def shards(photographs, tmp_path):
    """The photographs, one per shard."""
    data = DataConfig(source="image_folder", path=str(photographs))
    with in_this_process():
        prepare_into(tmp_path / "shards", data, shard_size=1)
    return tmp_path / "shards"


def records(path):
    return images(path, "data.source=records")


def test_a_truncated_shard(doctor_here, shards):
    shard = sorted(shards.glob("train-*"))[2]
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-10])
    report = doctor_here(*records(shards))
    assert (report.code, report.complaints) == (3, [("error", "data")])
    text = report.text("error", "data")
    assert f"{shard} must have {size} bytes, but has {size - 10}" in text
    assert "Copy it again" in text


def test_a_record_that_was_altered(doctor_here, shards):
    shard = sorted(shards.glob("train-*"))[1]
    content = bytearray(shard.read_bytes())
    place = content.index(b"IDAT") + 40  # inside the compressed pixels
    content[place] ^= 255
    shard.write_bytes(content)
    report = doctor_here(*records(shards))
    assert (report.code, report.complaints) == (3, [("error", "images")])
    assert f"{shard}[0]: the file was altered" in report.text("error", "images")


def test_more_shards_than_files_may_be_open(shards, tmp_path):
    count = len(list(shards.glob("*-of-*")))
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))  # noqa: E731
    report = doctor(*records(shards), cwd=tmp_path, preexec_fn=limit)
    assert (report.code, report.complaints) == (2, [("error", "open files")])
    text = report.text("error", "open files")
    assert f"the limit is 300 (ulimit -Hn), but {256 + count} are needed" in text
    assert f"nofile={256 + count}" in text


def test_a_batch_that_three_devices_cannot_share(tmp_path):
    settings = ["distribute.cpu_devices=3", "data.global_batch_size=100"]
    report = doctor("digits", *settings, cwd=tmp_path)
    assert (report.code, report.complaints) == (2, [("error", "batch")])
    assert "100 cannot be divided over 3 replica(s)" in report.text("error", "batch")
    assert report.text("error", "batch").endswith("Use 99 or 102")


def test_a_warm_up_longer_than_the_run_and_a_high_learning_rate(doctor_here):
    settings = ["train.max_steps=100", "optim.warmup_steps=400"]
    report = doctor_here("digits", *settings)
    assert (report.code, report.complaints) == (0, [("warning", "learning rate")])
    text = report.text("warning", "learning rate")
    assert "warm-up of 400 steps (29.63 epochs) is longer than the run of 100 steps" in text
    assert "reaches 25% of its peak" in text
    assert "optim.warmup_steps=5," in text
    high = doctor_here("digits", "optim.base_lr=0.08")
    assert high.complaints == [("warning", "learning rate")]
    assert "peak learning rate 0.03 " in high.text("warning", "learning rate")
    assert "Lower optim.base_lr" in high.text("warning", "learning rate")


def test_a_batch_of_a_million(doctor_here):
    settings = ["data.global_batch_size=1000000", "optim.lr_scaling=none"]
    report = doctor_here("digits", *settings)
    assert (report.code, report.complaints) == (2, [("warning", "length"), ("error", "memory")])
    text = report.text("error", "memory")
    assert re.search(r"about \d{3}\.\d GiB needed", text)
    parts = int(re.search(r"optim\.accumulate_steps=(\d+)", text)[1])
    assert 1_000_000 % parts == 0
    cured = doctor_here("digits", *settings, f"optim.accumulate_steps={parts}")
    assert cured.complaints == [("warning", "length")]


def test_a_disk_without_room_for_checkpoints_and_a_full_one(doctor_here, small_disk):
    target = f"run.dir={small_disk / 'run'}"
    report = doctor_here("digits", target)
    assert (report.code, report.complaints) == (2, [("error", "room")])
    # 136,522 numbers of 4 bytes, four times, and two of that.
    assert "1.0 MB of free space, but the next checkpoints need 4.4 MB" in report.text(
        "error", "room"
    )
    assert "run.dir=FOLDER" in report.text("error", "room")
    assert list(small_disk.iterdir()) == []
    (small_disk / "full").write_bytes(b"x" * 2**20)
    full = doctor_here("digits", target)
    assert full.code == 2
    assert "No space left on device" in full.text("error", "run folder")
    assert [f.name for f in small_disk.iterdir()] == ["full"]


def test_a_read_only_folder(doctor_here, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    report = doctor_here("digits", f"run.dir={small_disk / 'run'}")
    assert (report.code, report.complaints[0]) == (2, ("error", "run folder"))
    text = report.text("error", "run folder")
    assert f"Read-only file system in {small_disk}" in text
    assert "run.dir=FOLDER" in text


HOLD = (
    "import sys, time; from pathlib import Path; from pipeline.runs.lock import RunLock;"
    "lock = RunLock(Path(sys.argv[1])); lock.acquire(print); print('held', flush=True);"
    "time.sleep(300)"
)


def test_a_run_folder_in_use(doctor_here, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)],
        stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    with holder:
        try:
            assert holder.stdout.readline() == "held\n"
            report = doctor_here("digits", f"run.dir={run}")
        finally:
            holder.kill()
    assert (report.code, report.complaints) == (2, [("error", "run folder")])
    text = report.text("error", "run folder")
    assert f"{run} is in use: process {holder.pid} on " in text
    assert "stop it, or set run.dir=FOLDER" in text
    assert [f.name for f in run.iterdir()] == [".lock"]
    freed = doctor_here("digits", f"run.dir={run}")
    assert freed.complaints == []


def test_a_run_folder_with_other_settings(doctor_here, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("optim: {weight_decay: 0.7}\n")
    report = doctor_here("digits", f"run.dir={tmp_path / 'run'}")
    assert report.complaints == []  # nothing was trained with these settings
    (tmp_path / "run/checkpoints/step-00000005").mkdir(parents=True)
    report = doctor_here("digits", f"run.dir={tmp_path / 'run'}")
    assert (report.code, report.complaints) == (2, [("error", "run folder")])
    assert "optim.weight_decay: 0.7 -> 0.3" in report.text("error", "run folder")


def test_a_run_folder_of_a_finished_run_on_data_at_another_place(doctor_here, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    config = load_config(find_recipe("image_folder"), [f"data.path={tmp_path}/a"])
    (run.path / "config.yaml").write_text(dump_config(config))
    run.write_outcome({"outcome": "done", "result": {}})
    report = doctor_here("image_folder", f"data.path={tmp_path}/b", f"run.dir={run.path}")
    assert ("error", "run folder") in report.complaints
    assert f"data.path: {tmp_path}/a -> {tmp_path}/b" in report.text("error", "run folder")


def test_a_run_folder_of_another_data_set(doctor_here, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    source = open_source(DataConfig(source="digits"), 0)
    record = data_record(source)
    record["fingerprints"]["train"] = "0" * 32
    (run.path / "dataset.json").write_text(json.dumps(record))
    CheckpointStore(run.checkpoints).save(Snapshot(7, {}, {}))
    report = doctor_here("digits", f"run.dir={run.path}")
    assert (report.code, report.complaints) == (3, [("error", "run data")])
    assert "data.allow_changes=true" in report.text("error", "run data")
    report = doctor_here("digits", f"run.dir={run.path}", "data.allow_changes=true")
    assert (report.code, report.complaints) == (0, [("warning", "run data")])


WITHOUT_HOROVOD = """
import importlib.machinery
real = importlib.machinery.PathFinder.find_spec
def find(cls, name, path=None, target=None):
    return None if name.split(".")[0] == "horovod" else real(name, path, target)
importlib.machinery.PathFinder.find_spec = classmethod(find)
"""


def test_horovod_is_missing(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WITHOUT_HOROVOD)
    env = {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    report = doctor("digits", "distribute.runtime=horovod", cwd=tmp_path, env=env)
    assert report.code == 2
    assert report.complaints == [("error", "Horovod"), ("warning", "processes")]
    assert f"not installed in {sys.prefix}" in report.text("error", "Horovod")
    assert "tools/build_horovod.sh builds it" in report.text("error", "Horovod")


def test_horovod_was_built_for_another_tensorflow(tmp_path):
    package = tmp_path / "site/horovod"
    (package / "tensorflow").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "metadata.json").write_text('{"tensorflow": "2.20.0"}')
    (package / "tensorflow/mpi_lib.so").write_bytes(b"no library")
    env = {"PYTHONPATH": f"{package.parent}{os.pathsep}{ROOT}"}
    report = doctor("digits", "distribute.runtime=horovod", cwd=tmp_path, env=env)
    assert (report.code, report.complaints[0]) == (2, ("error", "Horovod"))
    text = report.text("error", "Horovod")
    assert f"built for TensorFlow 2.20.0, but {version('tensorflow-cpu')} is installed" in text


def test_a_tensorflow_that_cannot_be_imported(tmp_path):
    package = tmp_path / "site/tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('libfoo.so.1 is missing')")
    env = {"PYTHONPATH": f"{package.parent}{os.pathsep}{ROOT}"}
    report = doctor("digits", cwd=tmp_path, env=env)
    assert (report.code, report.complaints) == (2, [("error", "TensorFlow")])
    text = report.text("error", "TensorFlow")
    assert "cannot be imported (ImportError: libfoo.so.1 is missing)" in text
    assert "pip install --force-reinstall" in text


def test_gpus_that_tensorflow_does_not_see(tmp_path):
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\nif [ "$1" = -L ]; then echo "GPU 0: NVIDIA L4"; echo "GPU 1: NVIDIA L4"\n'
        'else for i in 1 2; do echo "NVIDIA L4, 550.54.15, 23034, 22500"; done; fi\n'
    )
    program.chmod(0o755)
    env = {"PATH": f"{program.parent}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": None}
    report = doctor("digits", cwd=tmp_path, env=env)
    assert report.code == 2
    assert ("error", "GPUs") in report.complaints
    text = report.text("error", "GPUs")
    assert "2 NVIDIA L4, driver 550.54.15, but TensorFlow sees none of them" in text
    assert "pip install 'vit-pipeline[gpu]'" in text


def test_a_wrong_tf_config_is_reported_once(doctor_here, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{")
    report = doctor_here("digits")
    assert (report.code, report.complaints) == (2, [("error", "processes")])
    assert "It must look like" in report.text("error", "processes")


def test_a_misspelt_setting_does_not_hide_the_rest(doctor_here):
    report = doctor_here("digits", "optim.bse_lr=1")
    assert (report.code, report.complaints) == (2, [("error", "recipe")])
    assert "did you mean optim.base_lr?" in report.text("error", "recipe")
    assert report.text("ok", "TensorFlow")


def test_json_is_one_object_with_all_lines(tmp_path):
    done = subprocess.run(
        [*COMMAND, "digits", "--json", "data.global_batch_size=100", "distribute.cpu_devices=3"],
        cwd=tmp_path, env=environment(), text=True, capture_output=True, check=False,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert done.returncode == report["exit_code"] == 2
    (wrong,) = [f for f in report["findings"] if f["level"] != "ok"]
    assert (wrong["level"], wrong["subject"]) == ("error", "batch")
    assert wrong["remedy"] == "Use 99 or 102"


def test_the_processes_of_a_job_are_checked(tmp_path):
    low_on_rank_1 = (
        'case "$TF_CONFIG" in *\'"index": 1\'*) ulimit -n 200;; esac; '
        f"exec {' '.join(COMMAND)} digits data.global_batch_size=97"
    )
    done = subprocess.run(
        [*COMMAND[:-1], "launch", "--hosts", "localhost", "--processes-per-node", "2",
         "--runtime", "multi_worker", "--", "bash", "-c", low_on_rank_1],
        cwd=tmp_path, env=environment(), text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cannot be divided over 2 replica(s)" in done.stdout
    assert done.stdout.count("cannot be divided") == 1  # said once, by the chief
    (low,) = [line for line in done.stdout.splitlines() if line.startswith("warning")]
    assert re.search(r"open files +rank 1 on \S+: the limit is 200", low)


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_gets_color_and_lines_that_fit(tmp_path, no_color):
    shown = bytearray()

    def read(descriptor):
        data = os.read(descriptor, 4096)
        shown.extend(data)
        return data

    env = environment(TERM="xterm", COLUMNS="80", NO_COLOR="1" if no_color else None)
    names = [f"{name}={value}" for name, value in env.items()]
    command = ["env", "-i", "-C", str(tmp_path), *names, *COMMAND, "digits", "optim.base_lr=0.1"]
    assert os.waitstatus_to_exitcode(pty.spawn(command, read)) == 0
    text = shown.decode()
    assert ("\x1b[32m" in text) is not no_color
    lines = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 40
    assert any(line.startswith("warning  learning rate") for line in lines)


def test_wrong_usage(tmp_path):
    done = subprocess.run(
        [*COMMAND, "digits", "--workers", "2"],
        cwd=tmp_path, env=environment(), text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, "--parity" in done.stderr) == (2, True)
    assert (ROOT / "tools/build_horovod.sh").is_file()  # which lines tell to run
