"""`python -m benchmarks`: it measures what it claims to measure. No test checks a speed."""

import json
import os
from importlib.util import find_spec

import pytest
import tensorflow as tf
from PIL import Image

from benchmarks.command import main
from benchmarks.reduction import Model, fit
from benchmarks.scaling_rank import different_tensors
from tests.jobs.commands import vit, vit_process


def benchmark(*arguments):
    return vit_process(*arguments, start=("-m", "benchmarks"), path="")  # as a user's shell


def refused(*arguments):
    """What is said to arguments that are refused, before anything is measured."""
    done = vit(*arguments, command=main)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.processes
@pytest.mark.skipif(find_spec("horovod") is None, reason="Horovod is not built: make horovod")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two cores")
def test_scaling_measures_every_kind_with_and_without_the_reduction():
    done = benchmark(
        "scaling", "digits", "model.depth=1", "--workers=2", "--runtimes=horovod",
        "--batch=4", "--steps=1", "--rounds=1", "--repeats=1", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["kind"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert list(rows) == [
        "one process, 1 core",
        "one process, 2 cores",
        "2 independent processes",
        "horovod, 2 workers",
    ]
    for kind, row in rows.items():
        figures = {name: value for name, value in row.items() if name != "kind"}
        assert min(figures.values()) > 0
        assert ("without_reduction" in row) == ("grouped" in row) == ("horovod" in kind)


@pytest.mark.parametrize(
    ("argument", "message"),
    [("--workers=0", "numbers of 1 to"), ("--workers=9999", "numbers of 1 to"),
     ("--runtimes=mpi", "--runtimes must be some of")],
)  # fmt: skip
def test_wrong_arguments_are_explained(argument, message):
    assert message in refused("scaling", argument)


@pytest.mark.processes
def test_checkpoint_measures_the_whole_state_and_says_how_long_training_stood(tmp_path):
    done = benchmark("checkpoint", "--variants=Ti/32", "--rounds=1", f"--dir={tmp_path}", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    # D = 192, 12 blocks of 12 D^2 + 13 D, 49 patches of 32 x 32 x 3, class token, 1,000 classes.
    blocks = 12 * (12 * 192**2 + 13 * 192)
    around = 32 * 32 * 3 * 192 + 192 + 50 * 192 + 192 + 2 * 192 + 193 * 1000
    # Weights, two moments and averages of float32, and the step in int64.
    assert row["megabytes"] * 1e6 == pytest.approx(4 * 4 * (blocks + around) + 8)
    assert 0 < row["training_stood_s"] < row["written_s"]
    assert min(value for name, value in row.items() if name.endswith("_s")) > 0
    assert list(tmp_path.iterdir()) == []


# `make contenders` installs them; tests need none of them.
LIBRARIES = ("Pillow-SIMD in threads", "torchvision v2", "NVIDIA DALI")


def input_rows(*arguments):
    done = benchmark("input", *arguments, "--seconds=0.1", "--rounds=1", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    for row in rows:
        assert row["images_per_second"] > 0
        # That of another process is not known.
        assert row["line"] in LIBRARIES or row["cpu_us_per_image"] > 0
    speed = {row["line"]: row["images_per_second"] for row in rows}
    for row in rows:
        if "ours" in row:
            ratio = speed[row["ours"]] / speed[row["line"]]
            assert row["ours_is"] == pytest.approx(ratio)
    return {row["line"]: row.get("ours") for row in rows}


@pytest.mark.processes
def test_input_in_memory_measures_each_stage_and_the_other_ways():
    stages = dict.fromkeys(["order, fetch, decode, resize, normalize", "and augment"])
    assert input_rows("digits") == stages | {
        "Keras, image by image: crop, flip": "and augment",
        "Keras, one draw a batch: crop, flip": "and augment",
        "NumPy: crop, flip": "and augment",
    }
    mixed = input_rows("digits", "data.augment.rand_augment_layers=1", "data.cutmix_alpha=1")
    assert mixed == stages | {
        "and mix": None,
        "Keras, image by image: crop, flip, RandAugment": "and augment",
        "Keras, one draw a batch: crop, flip, RandAugment": "and augment",
    }


@pytest.mark.processes
def test_input_of_photographs_stands_beside_decoding_them_and_other_libraries():
    rows = input_rows("image_folder", "--photographs=20", "data.global_batch_size=4")
    for title in LIBRARIES:
        assert rows.pop(title, "and augment") == "and augment"
    assert rows == {
        "order, fetch": None,
        "order, fetch, decode, resize, normalize": None,
        "and augment": None,
        "all of it without antialiasing": None,
        "tf.io.decode_jpeg alone": "and augment",
        "tf.io.decode_jpeg alone, again": "all of it without antialiasing",
        "Pillow: decode, resized crop, flip, normalize": "and augment",
        "Keras: decode, resize, crop, flip, normalize": "and augment",
    }


@pytest.mark.processes
def test_input_of_files_that_are_not_resized_has_no_line_about_antialiasing(tmp_path):
    for number in range(40):
        path = tmp_path / "train" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    assert input_rows("digits", f"--data={tmp_path}", "data.global_batch_size=4") == {
        "order, fetch": None,
        "order, fetch, decode, resize, normalize": None,
        "and augment": None,
        "tf.io.decode_jpeg alone": "and augment",
        "Pillow: decode, normalize": "order, fetch, decode, resize, normalize",
    }


@pytest.mark.processes
def test_records_are_measured_in_a_process_of_their_own():
    done = benchmark("input", "--records=300", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["records"] == 300
    assert found["first_batch_s"] > 0
    assert found["added_mb"] > 0


@pytest.mark.parametrize("argument", ["--seconds=0", "--rounds=0"])
def test_input_refuses_to_measure_nothing(argument):
    said = refused("input", "digits", argument)
    assert "--seconds must be above 0 and --rounds at least 1" in said


def test_input_takes_settings_behind_options_and_refuses_too_few():
    said = refused("input", "cifar10", "--photographs=3", "data.source=digits")
    assert "--photographs must be at least 20. Received: 3" in said


def json_rows(*arguments):
    done = benchmark(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.processes
def test_step_times_ours_beside_the_example_in_both_precisions():
    rows = json_rows(
        "step", "model.depth=1", "--cases=keras_example", "--batch=2", "--steps=1", "--rounds=1"
    )  # fmt: skip
    assert [(row["precision"], row["who"]) for row in rows] == [
        (precision, who) for precision in ("float32", "bfloat16")
        for who in ("ours", "ours-xla", "example")
    ]  # fmt: skip
    # 144 patches of 6 x 6 x 3; a block: four products with [64, 256], two between 144 tokens over
    # 256 numbers, two of the MLP; all tokens to 2048, 1024, 100. Forward, and twice as much back.
    block = 4 * 144 * 64 * 256 + 2 * 144 * 144 * 256 + 2 * 144 * 64 * 128
    head = 144 * 64 * 2048 + 2048 * 1024 + 1024 * 100
    operations = 3 * 2 * (144 * 108 * 64 + block + head)
    for ours, compiled, theirs in (rows[:3], rows[3:]):
        for row in (ours, compiled, theirs):
            rate = row["images_per_second"]
            assert row["least"] <= rate <= row["most"]
            assert row["flops_per_second"] == pytest.approx(operations * rate)
            assert row["peak_flops_per_second"] > 0
        ratio = ours["images_per_second"] / theirs["images_per_second"]
        assert theirs["ours_is"] == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("step", "--cases=XL/2"), "--cases must be some of keras_example"),
     (("step", "--precisions=float8"), "--precisions must be some of float32"),
     (("step", "--steps=0"), "--steps must be at least 1"),
     (("startup", "--repeats=0"), "--repeats must be at least 1"),
     (("all", "--out=nowhere/page.md"), "--out: nowhere is not writable"),
     (("kernels", "--images=0"), "--images must be at least 1"),
     (("loop", "--steps=1"), "--steps must be at least 2"),
     (("reduction", "--workers=1"), "--workers must be numbers of 2 or more"),
     (("reduction", "--kib=0"), "--kib must be numbers of 1 or more"),
     (("all", "--only=accuracy"), "--only must be some of step")],
)  # fmt: skip
def test_benchmarks_refuse_what_they_do_not_have(arguments, message):
    assert message in refused(*arguments)


@pytest.mark.processes
@pytest.mark.skipif(find_spec("horovod") is None, reason="Horovod is not built: make horovod")
def test_reduction_measures_sums_and_fits_the_plans_ring():
    *rows, model = json_rows(
        "reduction", "--workers=2", "--kib=1,32768", "--times=2", "--repeats=1"
    )
    assert [(row["workers"], row["kib"]) for row in rows] == [(2, 1), (2, 32768)]
    for row in rows:
        assert 0 < row["least"] <= row["seconds"] <= row["most"]
        expected = model["wake_s"] + 2 * (
            model["latency_s"] + 1024 * row["kib"] / 2 / model["bytes_per_s"]
        )
        assert row["fitted_s"] == pytest.approx(expected)
        assert row["off_by"] == pytest.approx(expected / row["seconds"] - 1)


def test_the_fit_finds_the_numbers_that_made_the_rows():
    made = Model(2e-3, 1e-4, 5e8)
    rows = [(n, size, made.seconds(n, size)) for n in (2, 4, 8) for size in (1e3, 1e6, 1e8)]
    assert fit(rows) == pytest.approx(made, rel=1e-6)


def test_tensors_to_reduce_are_all_different():
    tensors = different_tensors([(2, 3), (2, 3), (4,)], tf.constant(0.5))
    assert [tuple(tensor.shape) for tensor in tensors] == [(2, 3), (2, 3), (4,)]
    assert len({float(tf.reshape(tensor, [-1])[0]) for tensor in tensors}) == 3


@pytest.mark.processes
def test_kernels_are_timed_in_two_ways_in_both_precisions():
    rows = {row["what"]: row for row in json_rows("kernels", "--images=4", "--rounds=1")}
    assert len(rows) == 2 * 8
    for name in ("GELU, float32", "attention with dropout, bfloat16", "linear layer, bfloat16"):
        row = rows[name]
        assert 0 < row["least"] <= row["milliseconds"] <= row["most"]
        ratio = row["other_milliseconds"] / row["milliseconds"]
        assert row["ours_is"] == pytest.approx(ratio)


@pytest.mark.processes
def test_loop_times_the_loop_of_users_and_a_bare_one():
    (row,) = json_rows("loop", "digits", "model.depth=1", "--steps=4", "--rounds=1")
    assert row["share"] == row["least"] == row["most"]
    ratio = row["images_per_second"] / row["bare_images_per_second"]
    assert row["share"] == pytest.approx(ratio)
    # It compares where both loops have come to from the same weights, by Adam's first four steps.
    assert row["differ_by"] < 1e-3


@pytest.mark.processes
def test_memory_measures_what_each_way_adds_and_stands_beside_the_estimate():
    # Fewer blocks leave too little to tell them from what TensorFlow itself needs.
    rows = json_rows("memory", "cifar10", "--steps=1", "--rounds=1", "data.global_batch_size=64")
    sizes = {row["settings"]: row for row in rows}
    assert list(sizes) == [
        "recipe unchanged", "train.recompute=true", "optim.accumulate_steps=2",
        "optim.accumulate_steps=4", "optim.accumulate_steps=4 train.recompute=true",
        "train.precision=mixed_bfloat16",
    ]  # fmt: skip
    plain, parts, again = (
        sizes[way]
        for way in ("recipe unchanged", "optim.accumulate_steps=4", "train.recompute=true")
    )
    # 64 images of some 12 MiB, or 16, or their blocks' inputs and one block. What TensorFlow itself
    # needs differs by 100 MiB between processes, so only half of the estimated saving is required.
    for smaller in (parts, again):
        assert smaller["activations_mib"] < 0.4 * plain["activations_mib"]
        saved_mib = plain["added_mib"] - smaller["added_mib"]
        assert saved_mib > 0.5 * (plain["estimated_mib"] - smaller["estimated_mib"])
    # 2.7 million weights, two moments and gradients of four bytes; of a few cores each has the
    # gradients of its part, beside their sum.
    cores = len(os.sched_getaffinity(0))
    gradients = 1 + cores if 1 < cores <= 8 else 1
    assert plain["parameters_mib"] == pytest.approx(
        (3 + gradients) * 4 * 2_695_000 / 2**20, rel=0.01
    )
    assert plain["relative_speed"] == 1
    for row in rows:
        assert row["estimated_of_measured"] == row["estimated_mib"] / row["added_mib"]
        # The machine decides how much more; tests/model/test_memory.py has recorded measurements.
        assert 0.5 < row["estimated_of_measured"] < 2, row["settings"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of `all`, with one benchmark."""
    out = tmp_path_factory.mktemp("page") / "PAGE.md"
    done = benchmark("all", "--quick", "--only=startup", f"--out={out}")
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.processes
def test_startup_names_the_parts_of_a_new_run_and_of_a_resumed_run(page):
    (section,) = json.loads(page.with_suffix(".json").read_text())["sections"]
    rows = {row["what"]: row for row in section["rows"]}
    assert list(rows) == [
        "a new run", "a resumed run", "vit --help", "a wrong setting", "python -c pass"
    ]  # fmt: skip
    for name in ("a new run", "a resumed run"):
        row = rows[name]
        parts = [row[f"{part}_s"] for part in ("tensorflow", "tracing", "input_graph", "ours")]
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(row["seconds"])


@pytest.mark.processes
def test_all_writes_a_page_a_picture_and_the_rows(page):
    text = page.read_text()
    assert "`python -m benchmarks startup --repeats=1`" in text
    written = json.loads(page.with_suffix(".json").read_text())
    assert written["machine"]["cores"] == str(len(os.sched_getaffinity(0)))
    (section,) = written["sections"]
    assert f"| a new run | {section['rows'][0]['seconds']:.3g} |" in text
    with Image.open(page.with_suffix(".png")) as picture:
        assert picture.size[0] == 900
