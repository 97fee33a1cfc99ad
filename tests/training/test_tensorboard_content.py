"""What TensorBoard shows of a run, and the statistics in its rows, against NumPy."""

import io

import numpy as np
import pytest
import tensorflow as tf
import yaml
from PIL import Image

from pipeline.model.attention_maps import last_block_attention
from pipeline.training import tensorboard_content
from pipeline.training.description import start_facts
from pipeline.training.step import empty_train_sums
from pipeline.training.step_statistics import StepStatistics
from pipeline.training.tensorboard_content import (
    comparable_settings,
    final_pictures,
    initial_pictures,
    start_texts,
)
from tests.training.experiments import tiny


@pytest.mark.parametrize("deterministic", ["false", "true"])
def test_the_first_batch_is_what_the_model_is_given(tmp_path, deterministic):
    experiment = tiny(tmp_path, "data.mixup_alpha=0.8", f"train.deterministic={deterministic}")
    images, targets = tensorboard_content._first_batch(experiment)
    batch = next(experiment.train_iterator(0))
    given = (batch["image"].numpy() * experiment.std + experiment.mean) * 255
    np.testing.assert_allclose(images, given.reshape(12, 8, 8, 3), atol=0.51)
    np.testing.assert_array_equal(targets, batch["target"].numpy().reshape(12, 4))


@pytest.mark.parametrize(
    ("pool", "precision"),
    [("token", "float32"), ("mean", "float32"), ("mean", "mixed_bfloat16")],
)
def test_pictures_are_drawn_with_and_without_a_class_token(tmp_path, pool, precision):
    experiment = tiny(tmp_path, f"model.pool={pool}", f"train.precision={precision}")
    drawn = dict([*initial_pictures(experiment), *final_pictures(experiment)])
    assert list(drawn) == ["first batch", "patches", "positions", "attention"]
    assert all(Image.open(io.BytesIO(png)).format == "PNG" for png in drawn.values())


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_attention_of_the_last_block_is_the_softmax_of_its_own_products(tmp_path, pool):
    experiment = tiny(tmp_path, f"model.pool={pool}")
    model = experiment.model
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    shares = last_block_attention(model, tf.constant(images)).numpy()
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-6)
    # The block's own attention, its values replaced by one-hot tokens, gives the shares back.
    seen = []
    block = model.blocks[-1]
    call = type(block.attention).call
    try:
        type(block.attention).call = lambda layer, x, seed=None: (
            seen.append(x) if layer is block.attention else None,
            call(layer, x, seed),
        )[1]
        model(tf.constant(images))
    finally:
        type(block.attention).call = call
    (x,) = (value.numpy() for value in seen)

    def project(layer):
        kernel, bias = (v.numpy() for v in (layer.kernel, layer.bias))
        flat = x @ kernel + bias
        return flat.reshape(*flat.shape[:2], 2, -1).transpose(0, 2, 1, 3)  # two heads

    query, key = project(block.attention.query), project(block.attention.key)
    scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(query.shape[-1])
    expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(shares, expected, atol=1e-5)


def test_statistics_are_norms_and_flops(tmp_path):
    experiment = tiny(tmp_path)
    experiment.train(experiment.train_iterator(0), empty_train_sums(), 4)
    values = StepStatistics(experiment).read(examples_per_second=100.0)
    weights = {v.path: v.numpy().astype("float64") for v in experiment.model.trainable_variables}
    averages = {k: v.numpy().astype("float64") for k, v in experiment.optimizer.averages.items()}
    norm = np.sqrt(sum((w**2).sum() for w in weights.values()))
    distance = np.sqrt(sum(((w - averages[k]) ** 2).sum() for k, w in weights.items()))
    assert values["weight_norm"] == pytest.approx(norm, rel=1e-5)
    assert values["ema_distance"] == pytest.approx(distance / norm, rel=1e-4)
    assert distance > 0
    # monitor.peak_tflops is 1 in this recipe.
    assert values["peak_fraction"] == pytest.approx(values["model_flops_per_second"] / 1e12)
    # D = 16, 1 block, MLP 32, 4 patches and a class token, 4 classes. A step is three passes, less
    # the gradient of the images.
    d, tokens, mlp = 16, 5, 32
    block = tokens * 4 * d * d + 2 * tokens * tokens * d + 2 * tokens * d * mlp
    patches = 2 * 4 * 48 * d
    forward = patches + 2 * (block + d * 4)
    assert values["model_flops_per_second"] == pytest.approx((3 * forward - patches) * 100)
    assert 50e6 < values["host_memory_bytes"] < 50e9


def test_a_linear_probe_is_credited_with_the_arithmetic_it_does(tmp_path):
    whole, probe = (
        StepStatistics(tiny(tmp_path, f"optim.linear_probe={probe}")).read(
            examples_per_second=100.0
        )
        for probe in ("false", "true")
    )
    assert probe["model_flops_per_second"] < 0.4 * whole["model_flops_per_second"]


def test_texts_are_the_settings_and_how_the_run_was_started(tmp_path):
    experiment = tiny(tmp_path)
    start = start_facts(experiment, ["vit", "train", "tiny", "data.path=my photos"])
    texts = start_texts(experiment.config, start)
    lines = [line.removeprefix("    ") for line in texts["settings"].splitlines()]
    assert yaml.safe_load("\n".join(lines)) == experiment.config.model_dump(mode="json")
    assert "    vit train tiny 'data.path=my photos'\n" in texts["command and environment"]
    assert f"tensorflow {tf.__version__}" in texts["command and environment"]
    assert list(start_texts(experiment.config, None)) == ["settings"]


def test_settings_are_comparable_by_their_keys(tmp_path):
    values = comparable_settings(tiny(tmp_path))
    assert values["optim.base_lr"] == 0.02
    assert values["data.augment.flip"] is True
    assert values["checkpoint.every_s"] == "null"
