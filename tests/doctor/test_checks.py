"""The checks of the doctor, called directly."""

import sys
from fractions import Fraction
from importlib.metadata import version

import numpy as np
import pytest

from pipeline.config import CheckpointConfig, Config, load_config
from pipeline.data.batch import check_batch
from pipeline.data.duplicates import Duplicates, Place
from pipeline.data.split import DataSource, Split
from pipeline.doctor import data, installation, machine, training
from pipeline.doctor.finding import Findings, exit_code, from_error
from pipeline.doctor.machine import GIB, MIB, Gpu
from pipeline.doctor.processes import JobProcesses
from pipeline.errors import DataError, SettingsError
from pipeline.optim.schedule import build_schedule
from pipeline.runtimes.horovod_build import HorovodBuild, load_controllers
from pipeline.runtimes.single import SingleRuntime
from pipeline.training.assembly import build
from pipeline.training.memory import memory_of
from pipeline.training.precision import resolve_precision
from tests.doctor.doctors import ROOT

L4 = Gpu("NVIDIA L4", "550.54", 23034 * MIB, 22000 * MIB)


def the(findings):
    """The only finding."""
    (finding,) = findings
    return finding


def versions(**changes):
    """The installed versions with changes; None means not installed."""
    names = {name.replace("_", "-"): found for name, found in changes.items()}
    return lambda name: names.get(name, installation.installed_version(name))


@pytest.mark.parametrize(
    ("installed", "level", "subject", "text", "remedy"),
    [
        ({"keras": "3.12.0"}, "error", "Keras", "keras 3.12.0 is not within", "pip install 'keras"),
        ({"keras": None}, "error", "Keras", "not installed", "pip install 'keras"),
        ({"tensorflow_cpu": "2.20.0"}, "error", "TensorFlow", "2.20.0 is not", "tensorflow-cpu<"),
        ({"tensorflow_cpu": None}, "error", "TensorFlow", "not installed", "vit-pipeline[cpu]"),
        ({"tensorflow": "2.21.0"}, "warning", "TensorFlow", "both installed", "pip uninstall"),
        ({"pillow": "9.0"}, "error", "packages", "pillow 9.0 is not within", "pip install 'pillow"),
    ],
)
def test_a_package_out_of_range_is_named(installed, level, subject, text, remedy):
    found = list(installation.check_packages(versions(**installed)))
    wrong = the(f for f in found if f.level != "ok")
    assert (wrong.level, wrong.subject) == (level, subject)
    assert text in wrong.text
    assert remedy in wrong.remedy


def test_the_ranges_are_those_of_setup_cfg():
    text = (ROOT / "setup.cfg").read_text()
    found = {f.subject: f.text for f in installation.check_packages()}
    assert "    keras >=3.15,<3.16\n" in text
    assert found["Keras"].endswith("within <3.16,>=3.15")
    assert "python_requires = >=3.11,<3.14" in text
    assert the(installation.check_python("3.10.9")).text == "3.10.9 is not within <3.14,>=3.11"
    assert the(installation.check_python("3.13.1")).level == "ok"


BUILD = HorovodBuild("0.28.1", "2.21.0", ROOT / "no_library")


def horovod(build=BUILD, needed=True, gpus=0, tensorflow="2.21.0", built_with=("gloo",)):
    def load(library):
        return list(built_with)

    return the(installation.check_horovod(build, needed, gpus, tensorflow, load))


def test_horovod_is_an_error_only_where_it_is_needed():
    old = BUILD._replace(tensorflow="2.20.0")
    for found, level in ((None, "ok"), (old, "warning"), (BUILD, "ok")):
        assert horovod(found, needed=False).level == level
    assert horovod(None).level == "error"
    assert horovod(old).level == "error"
    assert horovod(BUILD._replace(library=None)).text == "0.28.1 was built without TensorFlow"


def test_horovod_without_nccl_is_reported_with_gpus():
    assert horovod().text == "0.28.1, built for TensorFlow 2.21.0, with Gloo"
    slow = horovod(gpus=2)
    assert (slow.level, "without NCCL" in slow.text) == ("warning", True)
    assert "tools/build_horovod.sh --gpu" in slow.remedy
    assert horovod(gpus=2, built_with=("gloo", "nccl")).text.endswith("with Gloo and NCCL")
    assert "neither Gloo nor MPI" in horovod(built_with=()).text


@pytest.mark.processes
def test_a_library_that_cannot_be_loaded_ends_another_process(tmp_path):
    library = tmp_path / "mpi_lib.so"
    library.write_bytes(b"no library")
    with pytest.raises(OSError, match=r"file too short|invalid ELF header"):
        load_controllers(library)
    broken = BUILD._replace(library=library)
    found = the(installation.check_horovod(broken, True, 0, "2.21.0"))
    assert (found.level, "cannot be loaded" in found.text) == ("error", True)


def test_gpus_are_counted_against_what_is_visible():
    gpus = [L4, L4]
    assert the(machine.check_gpus(gpus, 2, 2)).text == "2 NVIDIA L4, driver 550.54"
    assert the(machine.check_gpus(gpus, 0, 0)).level == "ok"
    one = the(machine.check_gpus(gpus, 2, 1))
    assert (one.level, "sees 1 of 2" in one.text) == ("warning", True)
    # Both kinds of TensorFlow can be why none is seen.
    cpu = the(machine.check_gpus(gpus, 2, 0, versions(tensorflow=None)))
    assert (cpu.level, "tensorflow-cpu is installed" in cpu.text) == ("error", True)
    full = the(machine.check_gpus(gpus, 2, 0, versions(tensorflow="2.21.0")))
    assert "CUDA_VISIBLE_DEVICES=" in full.remedy


@pytest.mark.processes
def test_a_driver_that_fails_is_quoted(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    said = "Failed to initialize NVML: Driver/library version mismatch"
    program.write_text(f"#!/bin/sh\necho '{said}'\nexit 18\n")
    program.chmod(0o755)
    with pytest.raises(SettingsError, match=f"nvidia-smi fails: {said}"):
        machine.list_gpus()
    program.write_text("#!/bin/sh\necho 'NVIDIA L4, 550.54, 23034, 22000'\n")
    assert machine.list_gpus() == [L4]


@pytest.mark.parametrize(
    ("size", "gpus", "level"),
    [(64 * MIB, 1, "ok"), (64 * MIB, 2, "warning"), (GIB, 2, "ok")],
)
def test_shared_memory_matters_between_gpus(size, gpus, level):
    found = the(machine.check_shared_memory(size, gpus))
    assert found.level == level
    if level == "warning":
        assert f"{machine.SHARED_MEMORY} has 64 MiB" in found.text
        assert "--shm-size=1g" in found.remedy
        assert "emptyDir" in found.remedy


@pytest.mark.parametrize(
    ("soft", "hard", "shards", "level"),
    [
        (1024, 4096, 0, "ok"),
        (200, 4096, 0, "warning"),
        (200, 4096, 1000, "ok"),  # the process raises its limit itself
        (1024, 1024, 1024, "error"),
    ],
)
def test_open_files_against_shards(soft, hard, shards, level):
    assert the(machine.check_open_files(soft, hard, shards)).level == level


def make_host(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n"


def test_memory_is_that_of_the_host_without_a_limit(tmp_path):
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/a/b\n"}
    make_host(tmp_path, files | {"sys/fs/cgroup/a/memory.max": "max"})
    assert machine.host_memory(tmp_path) == (8_000_000 * 1024, "free on this host")


@pytest.mark.parametrize("path", ["/", "/a/b", "/not/there"])
def test_memory_is_what_a_container_has_left_without_its_file_cache(tmp_path, path):
    folder = "sys/fs/cgroup/a/" if path == "/a/b" else "sys/fs/cgroup/"
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": f"0::{path}\n",
        f"{folder}memory.max": f"{2 * GIB}\n",
        f"{folder}memory.current": f"{GIB}\n",
        f"{folder}memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
    }
    make_host(tmp_path, files)
    assert machine.host_memory(tmp_path) == (3 * GIB // 2, "left of the container's 2.0 GiB")


def test_memory_under_the_first_kind_of_control_group(tmp_path):
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "4:cpu:/x\n9:memory:/x\n",
        "sys/fs/cgroup/memory/x/memory.limit_in_bytes": str(GIB),
        "sys/fs/cgroup/memory/x/memory.usage_in_bytes": str(GIB // 4),
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "0",
    }
    make_host(tmp_path, files)
    assert machine.host_memory(tmp_path).available_bytes == 3 * GIB // 4


def test_clock_differences_are_reported_by_host():
    times = [("a", 1000.0), ("a", 1000.2), ("b", 1007.5), ("c", 999.4)]
    wrong = the(machine.check_clocks(times, round_trip_s=0.1))
    assert (wrong.level, "b is 7.5 s ahead of a" in wrong.text) == ("warning", True)
    assert "on b (chrony" in wrong.remedy
    assert "c is 8.1 s behind b" in the(machine.check_clocks([times[2], times[3]], 0.1)).text
    assert the(machine.check_clocks([times[0], times[3]], 0.1)).level == "ok"
    # What the exchange itself takes is no difference of clocks.
    assert the(machine.check_clocks(times[:3], round_trip_s=8.0)).level == "ok"
    assert "one host" in the(machine.check_clocks(times[:2], 0.1)).text


def source_of(labels, classes=("cat", "dog", "eel"), value=128):
    images = np.full((len(labels), 4, 4, 3), value, np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels))  # all different
    splits = {"train": Split(np.array(labels, np.int32), images, title="it")}
    return DataSource(classes, splits, (4, 4, 3))


def test_classes_without_and_with_few_images():
    found = list(data.check_classes(source_of([0] * 30 + [1] * 4)))
    assert [f.level for f in found] == ["warning", "warning"]
    assert "1 of 3 classes have no training image: eel" in found[0].text
    assert "fewer than 10 training images: dog (4)" in found[1].text
    even = the(data.check_classes(source_of([0, 1, 2] * 12)))
    assert (even.level, even.text) == ("ok", "12 to 12 training images each")


@pytest.mark.parametrize(
    ("value", "normalize", "level"),
    [(128, "half", "warning"), (250, "half", "warning"), (128, "dataset", "ok")],
)
def test_mean_and_deviation_against_the_settings(value, normalize, level):
    # Nearly one color: after (x - 0.5) / 0.5 hardly any deviation is left.
    source = source_of([0, 1, 2] * 12, value=value)
    config = Config.model_validate({"data": {"normalize": normalize}}).data
    sample = data.take_sample(source, config)
    assert sample.seen == 36
    assert the(data.check_normalization(sample, source, config)).level == level


def test_an_unfinished_search_for_duplicates_is_reported(monkeypatch):
    pixels = np.arange(2 * 12, dtype=np.uint8).reshape(2, 2, 2, 3)
    train, test = (Split(np.zeros(1, np.int32), pixels[i : i + 1]) for i in (0, 1))
    source = DataSource(("a",), {"train": train, "test": test})
    found = the(data.check_duplicates(source))
    assert found.text == "no image is in two splits or has two labels"
    monkeypatch.setattr(data, "SAMPLE_S", -1.0)
    found = the(data.check_duplicates(source))
    assert found.level == "ok"
    assert found.text.startswith("the first 0 of 2 images were compared")
    monkeypatch.setattr(
        data,
        "find_duplicates",
        lambda *_: Duplicates([(Place("train", 0, "x"), Place("test", 0, "y"))], [], 5, 9),
    )
    found = the(data.check_duplicates(source))
    assert found.level == "warning"
    assert "1 images are in more than one split" in found.text
    assert "the first 5 of 9 images were compared" in found.text


def test_a_sample_stops_at_its_time_limit():
    config = Config().data
    paths = [f"nowhere/{i}.png" for i in range(100)]
    split = Split(np.zeros(100, np.int32), paths=paths)
    sample = data.take_sample(DataSource(("a", "b"), {"train": split}), config, limit_s=-1)
    assert (sample.seen, sample.complete) == (0, False)
    found = the(data.check_sample(sample, config, encoded=True))
    assert "storage is slow" in found.text


DIGITS = ROOT / "jobs/configs/digits.yaml"


def digits(*settings):
    return load_config(DIGITS, settings)


def schedule_of(config, steps):
    return build_schedule(config.optim, global_batch_size=config.data.global_batch_size,
                          total_steps=steps, steps_per_epoch=Fraction(27, 2))  # fmt: skip


def test_pairs_parts_and_replicas_share_the_batch_together():
    config = digits("data.global_batch_size=99", "data.mixup_alpha=0.2")
    with pytest.raises(
        SettingsError, match=r"of complete pairs, which mixup and CutMix need. Use 96 or 102"
    ):
        check_batch(config, 3)
    check_batch(digits("data.global_batch_size=99"), 3)
    parts = digits("data.global_batch_size=96", "optim.accumulate_steps=4", "data.cutmix_alpha=1")
    check_batch(parts, 3)
    with pytest.raises(
        SettingsError, match=r"over 5 replica\(s\) with 4 part\(s\).* Use 80 or 100"
    ):
        check_batch(parts, 5)


def test_microbatches_need_no_equal_share_but_one_for_each_worker():
    settings = "train.deterministic=true", "data.global_batch_size=96"
    check_batch(digits(*settings), 5)
    with pytest.raises(SettingsError, match=r"9 workers .* 8 microbatches.*at most 8 workers"):
        check_batch(digits(*settings), 9)
    check_batch(digits(*settings, "train.microbatches=16"), 9)
    odd = digits("train.deterministic=true", "data.global_batch_size=97", "data.mixup_alpha=0.2")
    with pytest.raises(SettingsError, match=r"complete pairs.* Use 96 or 98"):
        check_batch(odd, 1)


def test_memory_is_shared_by_the_replicas_of_a_host():
    config = digits("data.global_batch_size=9600")

    def check(job, free):
        return the(training.check_memory(config, 10, job, (free, "free"), on_gpu=False))

    one, two = (check(JobProcesses(2, processes_here=here), 64 * GIB) for here in (1, 2))
    needs = [float(f.text.split()[1]) for f in (one, two)]
    assert needs[1] == pytest.approx(2 * needs[0], abs=0.15)  # each is rounded
    # Between 85 % and all of it there is hope.
    tight = check(JobProcesses(2), int(needs[0] * 1.1 * GIB))
    assert (tight.level, "optim.accumulate_steps=" in tight.remedy) == ("warning", True)


@pytest.mark.parametrize(
    ("named", "slow", "level", "text"),
    [
        ("auto", [None], "ok", "train.precision=auto is mixed_bfloat16 here"),
        ("auto", [None, "a T4 is slow"], "ok", "auto is float32 here: a T4 is slow (rank 1)"),
        ("float32", ["a T4 is slow"], "ok", "float32"),
        ("mixed_bfloat16", [None], "ok", "mixed_bfloat16"),
        ("mixed_bfloat16", ["a T4 is slow"], "warning", "is slow on the devices: a T4 is slow"),
    ],
)
def test_bfloat16_on_a_device_without_it_is_warned_of(named, slow, level, text):
    precision = resolve_precision(digits(f"train.precision={named}"), slow)
    found = the(training.check_precision(precision))
    assert (found.level, text in found.text) == (level, True)
    assert ("train.precision=auto" in found.remedy) == (level == "warning")


@pytest.mark.parametrize(
    "settings", [(), ("optim.linear_probe=true",), ('optim.freeze=["*bias"]',)]
)
def test_the_doctor_and_a_dry_run_estimate_the_same_memory(tmp_path, settings):
    config = digits("data.global_batch_size=960", *settings)
    experiment = build(config, SingleRuntime("CPU:0"))
    experiment.runtime.parallel_parts = 2
    need = sum(memory_of(experiment).values()) / GIB
    job = JobProcesses(1, parallel_parts=2)
    found = the(training.check_memory(config, 10, job, (64 * GIB, "free"), on_gpu=False))
    assert found.text == f"about {need:,.1f} GiB needed, 64.0 GiB free"


def test_a_stop_must_have_time_to_save():
    slow = the(training.check_saving(CheckpointConfig(), 4_000_000_000, 100))
    assert slow.level == "warning"
    assert "takes 80 s at 50 MB/s, but checkpoint.grace_s=45" in slow.text
    assert "checkpoint.grace_s=240" in slow.remedy
    assert the(training.check_saving(CheckpointConfig(), 4_000_000, 100)).level == "ok"
    never = CheckpointConfig(every_epochs=None)
    assert "a crash loses all" in the(training.check_saving(never, 4_000_000, 100)).text


def test_a_batch_larger_than_the_data_is_reported():
    config = digits("data.global_batch_size=960")
    found = list(training.check_length(schedule_of(config, 100), config, 500))
    assert [f.level for f in found] == ["ok", "warning"]
    assert "larger than the training set: each step sees its 500 images" in found[1].text


def test_a_check_that_fails_is_an_error_and_the_next_one_runs():
    shown = []
    findings = Findings(shown.append)

    def fail():
        yield machine.ok("a", "well")
        raise ZeroDivisionError("by zero")

    assert not findings.check("a", fail)
    assert findings.value("b", lambda: 1 / 0) is None
    assert findings.value("c", lambda: 5) == 5
    assert [f.level for f in shown] == ["ok", "error", "error"]
    assert "ZeroDivisionError: by zero" in shown[1].text
    assert exit_code(shown) == 1


def test_an_error_keeps_its_exit_code_and_has_a_separate_remedy():
    found = from_error("data", DataError("x.jpg is damaged: a.b. Copy it again. Or not"))
    assert (found.text, found.remedy) == ("x.jpg is damaged: a.b", "Copy it again. Or not")
    first = from_error("batch", SettingsError("no"))
    assert exit_code([first, found]) == 2
    assert exit_code([found, first]) == 3


def test_python_that_runs_is_within_the_range():
    assert the(installation.check_python()).text.endswith(sys.prefix)
    assert version("packaging")
