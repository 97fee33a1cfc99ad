"""`vit plan` as a user gives it."""

import io
import json
import math
import re
from contextlib import redirect_stdout

import pytest
from PIL import Image

from jobs.cli import main
from pipeline.config import ModelConfig
from pipeline.model.architecture import architecture
from pipeline.model.flops import flops_per_image
from pipeline.recipes import RECIPES
from tests.jobs.commands import vit


def rows(*arguments):
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert main(["plan", *arguments, "--json"]) == 0
    return [json.loads(line) for line in printed.getvalue().splitlines()]


def passes(variant, size, classes, patch_numbers):
    """Forward passes that training takes: three, less the gradient of the pixels."""
    forward = flops_per_image(architecture(ModelConfig(variant=variant)), size, classes)
    return 3 - 2 * patch_numbers / forward


def test_a_plan_for_imagenet_adds_up(tmp_path):
    one, eight, many = rows("imagenet_b16_300ep", "--gpus=1,8,64", f"--plot={tmp_path}/plan.png")
    for row in (one, eight, many):
        parts = (row[f"{name}_s"] for name in ("arithmetic", "host", "straggler", "reduction"))
        assert sum(parts) == pytest.approx(row["step_s"])
        assert row["images_per_second"] == pytest.approx(row["global_batch_size"] / row["step_s"])
        assert row["gpu_hours"] == pytest.approx(row["training_s"] * row["gpus"] / 3600)
    # JAX-Toolbox's figure for ViT-B/16 on one H100, which the efficiency was taken from.
    assert one["images_per_second"] == pytest.approx(1459, rel=5e-3)
    assert 1 == one["efficiency"] > eight["efficiency"] > many["efficiency"]
    with Image.open(tmp_path / "plan.png") as picture:
        assert picture.width > 600
    # 86,567,656 weights, two moments and averages, in float32.
    assert one["checkpoint_bytes"] == 86_567_656 * 16
    # Of 1,281,167 images a hundredth is held out; 300 epochs, each with an evaluation, which does a
    # third of a training step's arithmetic, and a checkpoint; 50,000 test images at the end and
    # again for the report; a minute to start.
    trained, held_out = 1_281_167 - 12_812, 12_812
    steps = math.ceil(300 * trained / 1024)
    seconds = 60 + steps * one["step_s"]
    of_training = passes("B/16", 224, 1000, 196 * 768 * 768)
    seconds += (300 * held_out + 2 * 50_000) / (of_training * one["images_per_second"])
    assert one["training_s"] == pytest.approx(seconds, rel=1e-6)
    epoch_s = trained / many["images_per_second"]
    assert many["checkpoint_bytes_per_s"] == pytest.approx(86_567_656 * 16 / epoch_s)
    # JPEG files of 110 kB; 400 of them a second and core, and two operations of RandAugment of 11
    # ns a pixel; eight nodes.
    core_s = 1 / 400 + 2 * 224**2 * 11e-9
    assert many["storage_bytes_per_s"] == pytest.approx(110e3 * many["images_per_second"])
    assert many["cores_per_node"] == pytest.approx(many["images_per_second"] * core_s / 8)


def test_what_is_frozen_is_neither_computed_nor_summed_nor_kept():
    full, half, probe, again = (
        rows("imagenet_b16_300ep", "--gpus=8", *settings)[0]
        for settings in (
            (),
            ("optim.freeze=['vit/[cp]*','vit/block_[0-5]/*']",),
            ("optim.linear_probe=true",),
            ("optim.linear_probe=true", "train.recompute=true"),
        )
    )
    # A linear probe takes the forward pass, and the classifier's product once more.
    forward, classifier = (
        flops_per_image(architecture(ModelConfig(variant="B/16")), 224, 1000),
        2 * 768 * 1000,
    )
    share = (1 + classifier / forward) / passes("B/16", 224, 1000, 196 * 768 * 768)
    assert probe["arithmetic_s"] == pytest.approx(share * full["arithmetic_s"], rel=1e-6)
    assert again["arithmetic_s"] == probe["arithmetic_s"]  # it has no activations to compute again
    # Six blocks of twelve have no backward pass, and the seventh's input has no gradient.
    assert half["arithmetic_s"] / full["arithmetic_s"] == pytest.approx(2 / 3, rel=0.02)
    # 769,000 weights are trained: they alone have a gradient, moments and averages.
    trained, all_of_them = 769 * 1000, 86_567_656
    assert probe["checkpoint_bytes"] == 4 * all_of_them + 12 * trained
    saved = 16 * (all_of_them - trained)
    assert full["memory_bytes"] - probe["memory_bytes"] == pytest.approx(saved)
    assert probe["all_reduce_s"] < 0.1 * full["all_reduce_s"]
    assert probe["training_s"] < half["training_s"] < full["training_s"]


def test_a_batch_that_does_not_fit_is_planned_in_parts_and_says_so():
    (row,) = rows("imagenet_b16_300ep", "--gpus=1", "data.global_batch_size=2048")
    parts = row["accumulate_steps"]
    assert f"optim.accumulate_steps={parts}" in row["advice"]
    assert row["memory_bytes"] < 80 * 2**30
    # Half as many would be too large: weights, gradients, moments and averages stay, images double.
    fixed = 86_567_656 * 24 + 1.5 * 2**30  # with a part's gradients beside their sum
    assert fixed + 2 * (row["memory_bytes"] - fixed) > 80 * 2**30


def test_images_in_memory_need_no_storage_and_few_cores():
    for row in rows("cifar10"):
        assert row["storage_bytes_per_s"] == 0
        node_share = row["images_per_second"] / math.ceil(row["gpus"] / 8)
        core_s = 32**2 * (9.6e-9 + 2 * 11e-9)  # read, and two operations of RandAugment
        assert row["cores_per_node"] == pytest.approx(node_share * core_s)


def test_other_images_than_the_known_sets_have_as_many_to_test_on_as_are_held_out():
    settings = ("--gpus=1", "--images=1000", "--classes=10", "data.validation_fraction=0.1")
    with_report, without = (
        rows("cifar10", *settings, f"monitor.report={on}", "train.max_steps=1")[0]
        for on in ("true", "false")
    )
    looked_at_s = 100 / (passes("cifar", 32, 10, 64 * 48 * 192) * without["images_per_second"])
    assert with_report["training_s"] - without["training_s"] == pytest.approx(looked_at_s, rel=1e-3)


def test_by_default_only_numbers_are_planned_that_training_takes():
    assert [row["gpus"] for row in rows("cifar10")] == [1, 8, 64]  # a batch of 128, in pairs
    assert [row["gpus"] for row in rows("imagenet_s16_90ep")] == [1, 8, 64, 512]


def test_own_images_are_counted_by_their_owner():
    (row,) = rows("image_folder", "data.source=records", "--images=5000", "--classes=7", "--gpus=1")
    assert row["training_s"] - 60 == pytest.approx(
        math.ceil(100 * 4500 / 32) * row["step_s"], rel=0.05
    )


def image_folder(folder):
    for split, number in (("train", 6), ("validation", 2), ("test", 1)):
        for name in ("cat", "dog"):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(number):
                Image.new("RGB", (8, 8), (i, len(split), ord(name[0]))).save(place / f"{i}.png")
    return folder


def planned_images(capsys, *arguments):
    assert main(["plan", *arguments, "--gpus=1", "data.validation_fraction=0.5"]) == 0
    return int(re.search(r" ([\d,]+) images; ", capsys.readouterr().out)[1].replace(",", ""))


def test_images_are_counted_at_data_path(tmp_path, capsys):
    arguments = ("image_folder", f"data.path={image_folder(tmp_path / 'photos')}")
    assert planned_images(capsys, *arguments) == 12
    assert planned_images(capsys, *arguments, "--images=400") == 200
    assert planned_images(capsys, *arguments, "--classes=7") == 12


def test_the_name_of_a_recipe_does_not_say_how_many_images_there_are(tmp_path, capsys):
    recipe = tmp_path / "imagenette.yaml"
    recipe.write_text(f"base: {RECIPES / 'imagenet_s16_90ep.yaml'}\n")
    assert main(["plan", str(recipe)]) == 2
    assert "data.source=records: the number of images is not known" in capsys.readouterr().err
    folder = image_folder(tmp_path / "photos")
    settings = (str(recipe), "data.source=image_folder", f"data.path={folder}")
    assert planned_images(capsys, *settings) == 12


def test_the_plan_of_a_shipped_recipe_counts_the_data_it_is_given(tmp_path, capsys):
    shipped = ["plan", "imagenet_s16_90ep", "data.path=nowhere"]
    assert main(shipped) == 2
    assert "data.path=nowhere is not on this machine: give --images" in capsys.readouterr().err
    assert main([*shipped[:2], "data.source=tfrecord", f"data.path={tmp_path}"]) == 2
    assert "give --images and --classes" in capsys.readouterr().err


def test_a_measured_rate_replaces_the_models_and_a_batch_a_gpu_keeps_the_gpus_busy():
    fixed, grown = (
        rows("imagenet_s16_90ep", "--gpus=64", "--images-per-second=2000", *more)[0]
        for more in ((), ("--batch-per-gpu=256",))
    )
    assert fixed["global_batch_size"] == 1024
    assert grown["global_batch_size"] == 64 * 256
    assert grown["arithmetic_s"] == pytest.approx(256 / 2000)
    assert grown["efficiency"] > fixed["efficiency"]


@pytest.mark.processes
def test_the_limit_and_the_setting_that_moves_it_are_named():
    done = vit("plan", "imagenet_b16_300ep", "--gpus=64", "--network=10Gbit", "--price=2")
    assert done.returncode == 0, done.stderr
    assert (
        "limited by the reduction of gradients. To speed it up: distribute.compression=float16"
        in done.stdout
    )
    assert "costs" in done.stdout
    (half,) = rows("imagenet_b16_300ep", "distribute.compression=float16", "--gpus=64",
                   "--network=10Gbit")  # fmt: skip
    (full,) = rows("imagenet_b16_300ep", "--gpus=64", "--network=10Gbit")
    assert half["all_reduce_s"] == pytest.approx(full["all_reduce_s"] / 2, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cifar10", "--gpus=two"], "--gpus must be numbers"),
        (["cifar10", "--network=fast"], "--network must be a bandwidth"),
        (["cifar10", "--network=0Gbit"], "--network must be a bandwidth"),
        (["cifar10", "--gpus=3"], "cannot be divided over 3 replica(s)"),
        (["cifar10", "--gpus=128"], "of complete pairs"),
        (["cifar10", "--gpus-per-node=0"], "--gpus-per-node must be above 0. Received: 0"),
        (["cifar10", "--price=-1"], "--price must be 0 or more"),
        (["cifar10", "optim.freeze=[vit/blok_0/*]"], "'vit/blok_0/*' matches no parameter"),
        (["cifar10", "optim.freeze=['*']"], "leave nothing to train"),
        (["image_folder"], "--images 5000 --classes 10"),
        (["imagenet.yaml"], "imagenet.yaml"),
        (["image_folder", "data.source=records", "--images=9"], "--images 5000 --classes 10"),
        (["L/16.yaml"], "L/16.yaml"),
        (
            ["cifar10", "--gpus=1", "model.variant=L/1", "data.image_size=96", "--gpu=l4"],
            "does not fit into a l4",
        ),
    ],
)
def test_wrong_arguments_are_one_error(arguments, said, capsys):
    assert main(["plan", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
