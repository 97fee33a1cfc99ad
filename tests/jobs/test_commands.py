"""The `vit` command as people run it: real processes, real files, and what they print."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.jobs.commands import vit, vit_process

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent.parent
SHORT = ["train.max_steps=12", "train.log_every_steps=4", "train.evaluate_every_steps=6"]
SMALL = ["model.depth=1", "monitor.pictures=false", "monitor.report=false"]


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT)}


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run of digits, and what it printed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    done = vit_process("train", "digits", *SHORT, f"run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """An image folder of two classes, bright and dark, of different sizes and formats."""
    root = tmp_path_factory.mktemp("photographs")
    draw = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 6)):
        for name, level in (("bright", 200), ("dark ones", 50)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                size = (20 + i, 26)
                noise = draw.integers(-40, 40, (size[1], size[0], 3))
                image = Image.fromarray((level + noise).astype("uint8"))
                image.save(folder / f"{i}{['.jpg', '.png', '.bmp'][i % 3]}")
    return root


FOLDER = [
    "data.image_size=16",
    "data.global_batch_size=12",
    "model.variant=Ti/8",
    "model.depth=1",
    "train.max_steps=12",
    "train.log_every_steps=4",
    "train.evaluate_every_steps=6",
]


def test_training_ends_with_accuracy_folder_and_tensorboard_command(finished):
    folder, done = finished
    assert done.stdout.splitlines()[0] == f"run folder   {folder}"
    phases = ("starting TensorFlow", "reading the data", "building the model",
              "compiling the training step", "first step after")  # fmt: skip
    places = [done.stdout.find(phase) for phase in phases]
    assert -1 not in places
    assert places == sorted(places)
    assert "test accuracy" in done.stdout
    assert f"curves       vit board {folder}\n" in done.stdout
    assert f"report       {folder}/report.html\n" in done.stdout
    assert "peak learning rate 0.003" in done.stdout
    assert "validation: loss" in done.stdout
    assert done.stderr == ""


def test_the_same_command_on_a_finished_run_prints_its_result_at_once(finished):
    folder, first = finished
    started = time.monotonic()
    again = vit_process("train", "digits", *SHORT, f"run.dir={folder}")
    assert again.returncode == 0
    assert "this run is done" in again.stdout
    assert first.stdout.splitlines()[-4:] == again.stdout.splitlines()[-4:]
    assert time.monotonic() - started < 4  # TensorFlow alone takes longer


def test_other_settings_on_a_finished_run_are_refused_with_the_difference(finished):
    folder, _ = finished
    other = vit("train", "digits", *SHORT, f"run.dir={folder}", "optim.weight_decay=0.4")
    assert other.returncode == 2
    assert "optim.weight_decay: " in other.stderr
    assert "-> 0.4" in other.stderr


def test_python_m_jobs_train_does_the_same(finished):
    folder, _ = finished
    command = [sys.executable, "-m", "jobs.train", "digits", *SHORT, f"run.dir={folder}"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert (done.returncode, "this run is done" in done.stdout) == (0, True)


def test_evaluate_gives_the_test_row_again_and_counts_every_example(finished):
    folder, _ = finished
    done = vit("evaluate", folder, "--json")
    assert done.returncode == 0, done.stderr
    got = {row["split"]: row for row in map(json.loads, done.stdout.splitlines())}
    written = next(row for row in rows(folder) if row["split"] == "test")
    assert got["test"]["loss"] == pytest.approx(written["loss"], rel=1e-6)
    assert got["test"]["accuracy"] == written["accuracy"]
    facts = json.loads((folder / "dataset.json").read_text())
    assert got["test"]["examples"] == facts["examples"]["test"]


def test_tensorboard_reads_the_curves(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = finished
    for split in ("train", "validation", "test"):
        events = EventAccumulator(str(folder / "tensorboard" / split)).Reload()
        expected = [(r["step"], r["loss"]) for r in rows(folder) if r["split"] == split]
        curve = events.Tensors("loss")
        got = [
            (
                e.step,
                float(np.frombuffer(e.tensor_proto.tensor_content, "f4")[0])
                if e.tensor_proto.tensor_content
                else e.tensor_proto.float_val[0],
            )
            for e in curve
        ]
        assert [s for s, _ in got] == [s for s, _ in expected]
        np.testing.assert_allclose([v for _, v in got], [v for _, v in expected], rtol=1e-6)


def test_tensorboard_has_the_first_batch_and_what_was_learned(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = finished
    events = EventAccumulator(str(folder / "tensorboard" / "train")).Reload()
    shown = {e.step for tag in ("first batch", "patches") for e in events.Tensors(tag)}
    assert shown == {0}
    last = max(row["step"] for row in rows(folder) if row["split"] == "train")
    assert [e.step for e in events.Tensors("positions")] == [last]


def test_predict_names_five_classes_and_goes_on_past_an_unreadable_file(finished, tmp_path):
    from sklearn.datasets import load_digits

    folder, _ = finished
    image, broken = tmp_path / "a seven.png", tmp_path / "broken.png"
    Image.fromarray((load_digits().images[7] * 255 / 16).astype("uint8")).save(image)
    broken.write_text("no image")
    done = vit("predict", folder, broken, image, "--json")
    assert done.returncode == 3
    assert str(broken) in done.stderr
    assert "Traceback" not in done.stderr
    (answer,) = map(json.loads, done.stdout.splitlines())
    assert answer["image"] == str(image)
    probabilities = [t["probability"] for t in answer["top"]]
    assert len(probabilities) == 5
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) <= 1 + 1e-6
    table = vit("predict", folder, image)
    assert table.returncode == 0
    assert f"{probabilities[0]:.2%}" in table.stdout


def test_dry_run_describes_everything_and_writes_nothing(tmp_path):
    done = vit("train", "digits", "--dry-run", f"run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    for part in (
        "base_lr: ",
        "vit/block_0/attention/query/kernel",
        "136,522 parameters",
        "peak learning rate",
        "steps of 96",
        "MiB",
        "GFLOP",
    ):
        assert part in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, number):
    command = [
        sys.executable,
        "-m",
        "jobs.cli",
        "train",
        "digits",
        f"run.dir={tmp_path}",
        "train.max_steps=150",
        "train.log_every_steps=5",
        "train.evaluate_every_steps=75",
        *SMALL,
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    wait_for_rows(tmp_path, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert f"stopped by {number.name}" in errors
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "outcome.json").read_text())["outcome"] == "stopped"
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stdout
    seen = [(row["step"], row["split"]) for row in rows(tmp_path)]
    assert len(seen) == len(set(seen))
    assert [s for s, split in seen if split == "train"] == list(range(5, 151, 5))


def wait_for_rows(run, process):
    """Until the run has written metrics, so that it is in the middle of training."""
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or not rows(run):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_terminal_gets_a_live_bar(tmp_path, monkeypatch):
    shown = bytearray()

    def read(descriptor):
        data = os.read(descriptor, 4096)
        shown.extend(data)
        return data

    vit = [sys.executable, "-m", "jobs.cli"]
    command = [*vit, "train", "digits", *SHORT, *SMALL, f"run.dir={tmp_path}"]
    for name, value in {"TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)
    assert os.waitstatus_to_exitcode(pty.spawn(command, read)) == 0
    text = shown.decode()
    assert "━" in text
    assert "images/s" in text
    assert "\x1b[?25l" in text  # the cursor is hidden while the bar lives
    assert "\x1b[?25h" in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version"], 0, "vit "),
        (["--help"], 0, "exit codes"),
        (["train", "nowhere"], 2, "no recipe 'nowhere'"),
        (["train", "-x"], 2, "usage: vit train"),
    ],
)
def test_a_command_ends_before_python_takes_itself_apart(arguments, code, said):
    # An object that waits while it is taken apart, as an iterator of tf.data can for ever.
    program = """if True:
        import time
        import jobs.cli

        class Iterator:
            def __del__(self):
                time.sleep(1000)

        iterator = Iterator()
        jobs.cli.run_process()
    """
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment(), text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["digits", "optim.base_lr=banana"], 2, "optim.base_lr"),
        (["digits", "optim.bse_lr=1"], 2, "did you mean optim.base_lr"),
        (["nowhere"], 2, "no recipe 'nowhere'"),
        (["nowhere.yaml"], 2, "no recipe 'nowhere.yaml'"),
        (["image_folder", "data.path=nowhere"], 3, "nowhere"),
        (["digits", "data.global_batch_size=7", "distribute.cpu_devices=2"], 2, "Use 6 or 8"),
        (["digits", "distribute.runtime=mirrored"], 2, "cpu_devices=2"),
        (["digits", "distribute.device=gpu"], 2, "TensorFlow finds no GPU"),
        (["digits", "model.patch_size=3"], 2, "multiple of the model's patch size 3"),
        (["digits", "run.dir=/proc/nowhere"], 2, "cannot use the run folder"),
    ],
)
def test_a_mistake_gets_one_clear_message(tmp_path, arguments, code, message):
    if not any(a.startswith("run.dir") for a in arguments):
        arguments = [*arguments, f"run.dir={tmp_path / 'run'}"]
    # TensorFlow's devices can be divided once a process.
    run = vit_process if "distribute.cpu_devices=2" in arguments else vit
    done = run("train", *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4


def test_a_horovod_of_another_tensorflow_is_named_with_what_to_do(tmp_path):
    # As a library that was built for another TensorFlow fails.
    package = tmp_path / "horovod/tensorflow"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").write_text("raise ImportError('undefined symbol: _ZN10tensorflow')")
    environment = {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "train", "digits", f"run.dir={tmp_path / 'run'}"],
        env=os.environ | environment, text=True, capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "undefined symbol: _ZN10tensorflow. `make horovod` builds it" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_usage_exits_2():
    assert vit_process("nothing").returncode == 2
    assert vit("evaluate", "nowhere").returncode == 2


def test_help_lists_every_setting_and_version_names_the_release():
    from pipeline.config import all_settings

    text = vit("train", "--help").stdout
    as_yaml = {"None": "null", "True": "true", "False": "false", "()": "[]"}
    for setting in all_settings():
        default = as_yaml.get(str(setting.default), str(setting.default))
        assert f"  {setting.key}  {setting.type}, default {default}" in text
        assert setting.doc in text
    assert vit_process("--version").stdout.startswith("vit 0.")


def test_an_image_folder_of_mixed_sizes_and_formats_trains(photographs, tmp_path):
    done = vit(
        "train", "image_folder", f"data.path={photographs}", *FOLDER, f"run.dir={tmp_path / 'run'}"
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "run/dataset.json").read_text())
    assert facts["classes"] == ["bright", "dark ones"]
    assert facts["examples"]["train"] + facts["examples"]["validation"] == 48
    assert facts["examples"]["test"] == 12

    copy = tmp_path / "copy"
    shutil.copytree(photographs, copy)
    (copy / "test/bright/1.png").write_bytes(b"")
    done = vit("evaluate", tmp_path / "run", "--split", "test", "--data", copy)
    assert done.returncode == 3
    assert "1.png" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def with_broken_image(photographs, tmp_path):
    root = tmp_path / "photographs"
    shutil.copytree(photographs, root)
    broken = root / "train" / "bright" / "0.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    return root, broken


def test_an_unreadable_image_ends_the_run_and_the_advised_setting_leaves_it_out(
    with_broken_image, tmp_path
):
    root, broken = with_broken_image
    command = ("train", "image_folder", f"data.path={root}", *FOLDER, f"run.dir={tmp_path / 'r'}")
    failed = vit(*command)
    assert failed.returncode == 3
    assert str(broken) in failed.stderr
    assert "data.on_bad_image=skip" in failed.stderr
    assert "Traceback" not in failed.stderr
    done = vit(*command, "data.on_bad_image=skip")
    assert done.returncode == 0, done.stderr
    assert "1 unreadable image(s) skipped" in done.stdout
    assert (tmp_path / "r/skipped.txt").read_text().splitlines() == [str(broken)]


def test_a_run_that_is_done_without_metrics_says_so(tmp_path):
    (tmp_path / "outcome.json").write_text('{"outcome": "done", "result": {}}')
    done = vit("train", "digits", f"run.dir={tmp_path}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the run has no metrics\nrun folder   " in done.stdout
