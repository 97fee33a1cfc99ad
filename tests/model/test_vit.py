"""The model against the equations of the paper, published values and itself."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import VARIANT_PATTERN, ModelConfig
from pipeline.errors import SettingsError
from pipeline.model.architecture import NAMED, SIZES, architecture
from pipeline.model.cost import count_parameters
from pipeline.model.vit import VisionTransformer, build_vit

ROOT = Path(__file__).parents[2]
SEED = tf.constant([1, 2], "int32")


def small(dtype: str = "float32", seed: int = 0, **changes: Any) -> VisionTransformer:
    """A model of two blocks on 8 px images."""
    config = ModelConfig(**{"variant": "digits", "depth": 2, **changes})
    return build_vit(config, image_size=8, num_classes=10, dtype=dtype, seed=seed)


def randomize(model: VisionTransformer) -> None:
    """Fills all variables with normal numbers, so that no bias or classifier hides at zero."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        center = 1.0 if variable.path.endswith("gamma") else 0.0
        variable.assign(center + 0.2 * rng.normal(size=variable.shape))


def images(count: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, size, size, 3)).astype("float32")


# ----------------------------------------------------------------------- published parameter counts


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [("Ti/16", 5_717_416), ("S/16", 22_050_664), ("B/16", 86_567_656), ("L/16", 304_326_632)],
)
def test_published_parameter_counts(variant: str, parameters: int) -> None:
    one, two = (
        count_parameters(
            build_vit(ModelConfig(variant=variant, depth=n), image_size=224, num_classes=1000)
        )
        for n in (1, 2)
    )
    # All blocks are alike, and L/16 as a whole takes ten seconds to build.
    depth = architecture(ModelConfig(variant=variant)).depth
    assert one + (depth - 1) * (two - one) == parameters


def test_the_cifar_variant_has_2_7_million_parameters() -> None:
    model = build_vit(ModelConfig(variant="cifar"), image_size=32, num_classes=10)
    width, mlp, tokens = 192, 384, 65
    block = 4 * width + 4 * (width**2 + width) + width * mlp + mlp + mlp * width + width
    embedding = 48 * width + width + width + tokens * width
    assert count_parameters(model) == embedding + 9 * block + 2 * width + 10 * width + 10
    assert count_parameters(model) == pytest.approx(2.7e6, rel=2e-3)


# -------------------------------------------------------------------------- the paper's equations


def layer_norm(x: np.ndarray, w: dict[str, np.ndarray], path: str) -> np.ndarray:
    centered = x - x.mean(axis=-1, keepdims=True)
    scale = np.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-6)
    return centered / scale * w[f"{path}/gamma"] + w[f"{path}/beta"]


def dense(x: np.ndarray, w: dict[str, np.ndarray], path: str) -> np.ndarray:
    return x @ w[f"{path}/kernel"] + w[f"{path}/bias"]


def gelu(x: np.ndarray, form: str) -> np.ndarray:
    if form == "exact":
        return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sincos(rows: int, columns: int, width: int) -> np.ndarray:
    table = np.zeros((rows, columns, width))
    quarter = width // 4
    for k in range(quarter):
        frequency = 10_000 ** (-k / (quarter - 1))
        table[:, :, k] = np.sin(np.arange(columns) * frequency)[None, :]
        table[:, :, quarter + k] = np.cos(np.arange(columns) * frequency)[None, :]
        table[:, :, 2 * quarter + k] = np.sin(np.arange(rows) * frequency)[:, None]
        table[:, :, 3 * quarter + k] = np.cos(np.arange(rows) * frequency)[:, None]
    return table.reshape(rows * columns, width)


def paper_logits(config: ModelConfig, w: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """Equations 1 to 7 of arXiv 2010.11929 for one image, in float64."""
    p, heads, side = 2, 4, 4
    cells = [(r, c) for r in range(side) for c in range(side)]
    patches = [image[p * r : p * r + p, p * c : p * c + p].reshape(-1) for r, c in cells]
    z = dense(np.array(patches, "float64"), w, "patch_embedding")
    position = sincos(side, side, 64) if config.positions == "sincos2d" else None
    if config.pool == "token":
        z = np.vstack([w["class_token/token"][0], z])
        if position is not None:
            position = np.vstack([np.zeros((1, 64)), position])
    z = z + (w["position_embedding/positions"] if position is None else position)
    for i in range(2):
        y = layer_norm(z, w, f"block_{i}/attention_norm")
        q, k, v = (dense(y, w, f"block_{i}/attention/{part}") for part in ("query", "key", "value"))
        mixed = []
        for h in range(heads):
            part = slice(h * 16, h * 16 + 16)
            scores = np.exp(q[:, part] @ k[:, part].T / 4)  # sqrt(16) = 4
            mixed.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, part])
        z = z + dense(np.hstack(mixed), w, f"block_{i}/attention/out")
        y = layer_norm(z, w, f"block_{i}/mlp_norm")
        y = gelu(dense(y, w, f"block_{i}/mlp/hidden"), config.gelu)
        z = z + dense(y, w, f"block_{i}/mlp/out")
    z = layer_norm(z, w, "norm")
    pooled = {"token": z[0], "mean": z.mean(axis=0), "flatten": z.reshape(-1)}[config.pool or ""]
    if config.pre_logits:
        pooled = np.tanh(dense(pooled, w, "pre_logits"))
    return dense(pooled, w, "head")


@pytest.mark.parametrize(
    "changes",
    [
        {"pool": "token"},
        {"pool": "mean", "gelu": "tanh"},
        {"pool": "flatten"},
        {"pool": "token", "positions": "sincos2d", "pre_logits": 24},
        {"pool": "mean", "positions": "sincos2d"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_logits_follow_the_papers_equations(changes: dict[str, Any]) -> None:
    model = small(**changes)
    randomize(model)
    config = ModelConfig(variant="digits", depth=2, **changes)
    weights = {v.path.removeprefix("vit/"): np.asarray(v.value, "float64") for v in model.variables}
    batch = images(3)
    expected = np.array([paper_logits(config, weights, image) for image in batch])
    np.testing.assert_allclose(model(batch), expected, rtol=1e-4, atol=2e-5)


# ------------------------------------------------------------------------------------ randomness


def test_no_variable_holds_random_state() -> None:
    model = small(dropout=0.1, attention_dropout=0.1, stochastic_depth=0.1)
    assert not model.non_trainable_variables
    before = [np.asarray(v.value).copy() for v in model.variables]
    model(images(2), dropout_seed=SEED, training=True)
    assert all(np.array_equal(a, v.value) for a, v in zip(before, model.variables, strict=True))


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout", "stochastic_depth"])
def test_training_drops_by_the_seed_and_asks_for_it(rate: str) -> None:
    model, batch = small(**{rate: 0.5}), images(4)
    randomize(model)
    with pytest.raises(ValueError, match="needs dropout_seed"):
        model(batch, training=True)
    with pytest.raises(ValueError, match=r"integer tensor \[2\]"):
        model(batch, training=True, dropout_seed=tf.constant([1]))
    still = np.asarray(model(batch))
    np.testing.assert_array_equal(still, model(batch, dropout_seed=SEED))
    first = np.asarray(model(batch, dropout_seed=SEED, training=True))
    np.testing.assert_array_equal(first, model(batch, dropout_seed=SEED, training=True))
    assert np.any(first != still)
    assert np.any(first != np.asarray(model(batch, dropout_seed=SEED + 1, training=True)))


def test_without_rates_training_needs_no_seed() -> None:
    model = small()
    randomize(model)
    np.testing.assert_array_equal(model(images(2)), model(images(2), training=True))


def test_stochastic_depth_grows_linearly_to_the_last_block() -> None:
    arch = architecture(ModelConfig(variant="digits", depth=5, stochastic_depth=0.2))
    rates = [arch.block_stochastic_depth(i) for i in range(5)]
    np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.15, 0.2])
    alone = architecture(ModelConfig(variant="digits", depth=1, stochastic_depth=0.2))
    assert alone.block_stochastic_depth(0) == 0.2


# ------------------------------------------------------------------------- precision and backends


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_gives_close_logits_in_float32(dtype: str) -> None:
    full, mixed = small(), small(dtype=dtype)
    randomize(full)
    randomize(mixed)
    expected, got = full(images(16)), mixed(images(16))
    assert got.dtype == "float32"
    assert all(v.dtype == "float32" for v in mixed.variables)
    error = np.abs(got - expected).max() / np.std(expected)
    assert 0 < error < 0.1


@pytest.mark.processes
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_the_jax_backend_gives_the_same_logits_and_gradients(tmp_path: Path) -> None:
    model = small(pool="token")
    randomize(model)
    saved = {v.path: np.asarray(v.value) for v in model.variables}
    variables = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        logits = model(images(3))
        loss = tf.reduce_sum(tf.sin(logits))
    for v, gradient in zip(model.trainable_variables, tape.gradient(loss, variables), strict=True):
        saved[f"gradient/{v.path}"] = gradient.numpy()
    np.savez(tmp_path / "w.npz", images=images(3), logits=np.asarray(logits), **saved)
    _python(
        str(Path(__file__).with_name("run_on_jax.py")), str(tmp_path / "w.npz"), KERAS_BACKEND="jax"
    )


# --------------------------------------------------------------------------------- initial weights


def fingerprint(model: VisionTransformer) -> str:
    digest = hashlib.sha256()
    for variable in model.variables:
        digest.update(variable.path.encode() + np.asarray(variable.value).tobytes())
    return digest.hexdigest()


@pytest.mark.processes
def test_another_process_builds_the_same_bits() -> None:
    code = (
        "from tests.model.test_vit import fingerprint, small; import keras;"
        "keras.utils.set_random_seed(99); small(depth=1);"
        "print(fingerprint(small(seed=5, pool='token')))"
    )
    out = _python("-c", code, PYTHONHASHSEED="7")
    assert out.split()[-1] == fingerprint(small(seed=5, pool="token"))


def test_weights_depend_on_the_seed_and_the_path_alone() -> None:
    one, other, deeper = small(seed=1), small(seed=2), small(seed=1, depth=3, pool="token")
    for a, b in zip(one.variables, other.variables, strict=True):
        drawn = "kernel" in a.path and "head" not in a.path
        drawn = drawn or "positions" in a.path or ("mlp/" in a.path)
        assert np.array_equal(a.value, b.value) != drawn, a.path
    in_deeper = {v.path: np.asarray(v.value) for v in deeper.variables}
    for variable in one.variables:
        if "positions" not in variable.path:  # a token more
            np.testing.assert_array_equal(variable.value, in_deeper[variable.path])


def test_no_two_kernels_are_alike() -> None:
    model = small(depth=4)
    kernels = [block.attention.key.kernel for block in model.blocks]
    assert len({np.asarray(kernel.value).tobytes() for kernel in kernels}) == 4


def test_the_initial_loss_is_that_of_guessing() -> None:
    np.testing.assert_array_equal(small(seed=3)(images(2)), np.zeros((2, 10)))


# --------------------------------------------------------------------------- variants and settings


def test_the_settings_accept_the_variants_of_the_table() -> None:
    words = set(re.findall(r"[A-Za-z_]+", VARIANT_PATTERN.replace(r"\d", "")))
    assert words == set(SIZES) | set(NAMED)
    for name in [*NAMED, *(f"{size}/{patch}" for size in SIZES for patch in (2, 14, 32))]:
        assert re.fullmatch(VARIANT_PATTERN, name)
        arch = architecture(ModelConfig(variant=name))
        assert arch.patch_size == int(name.partition("/")[2] or arch.patch_size)


def test_a_changed_width_scales_the_mlp_and_the_heads() -> None:
    arch = architecture(ModelConfig(variant="S/16", width=192, num_heads=3, patch_size=8))
    assert (arch.patch_size, arch.mlp_dim, arch.head_size, arch.num_heads) == (8, 768, 64, 3)
    assert architecture(ModelConfig(variant="S/16", mlp_dim=100)).mlp_dim == 100
    example = architecture(ModelConfig(variant="keras_example", width=32, dropout=0.0))
    assert (example.head_size, example.mlp_dim) == (32, 64)  # heads as long as the tokens
    assert (example.dropout, example.head_dropout, example.attention_dropout) == (0.0, 0.0, 0.1)
    assert architecture(ModelConfig(variant="S/16", dropout=0.1)).head_dropout == 0.0


@pytest.mark.parametrize(
    ("changes", "image_size", "message"),
    [
        ({"variant": "S/16"}, 230, r"multiple of .*patch size 16.* 224 or 240. Received: 230"),
        ({"variant": "S/16"}, 9, r"for example 16. Received: 9"),
        ({"width": 64, "num_heads": 6}, 8, r"divide model.width=64, for example 2, 4, 8. .* 6"),
        ({"width": 66, "num_heads": 6, "positions": "sincos2d"}, 8, r"multiple of 4.*Received: 66"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    changes: dict[str, Any], image_size: int, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        build_vit(
            ModelConfig(**{"variant": "digits", **changes}), image_size=image_size, num_classes=10
        )


def test_a_model_without_classes_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least one class"):
        build_vit(ModelConfig(variant="digits"), image_size=8, num_classes=0)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[B, 8, 8, 3\].*\(2, 16, 16, 3\)"):
        small()(images(2, 16))


def test_names_are_stable_and_unique() -> None:
    paths = [v.path for v in small(pool="token", pre_logits=4).variables]
    assert len(set(paths)) == len(paths) == 2 + 1 + 1 + 2 * (4 + 8 + 4) + 2 + 2 + 2
    for path in (
        "patch_embedding/kernel",
        "class_token/token",
        "position_embedding/positions",
        "block_1/attention/query/kernel",
        "block_0/mlp/out/bias",
        "norm/gamma",
        "pre_logits/kernel",
        "head/bias",
    ):
        assert f"vit/{path}" in paths
    again = [v.path for v in small(pool="token", pre_logits=4).variables]
    assert again == paths


def test_the_summary_names_layers_shapes_and_parameters() -> None:
    lines: list[str] = []
    small().summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert "Unbuilt" not in text
    for row in (
        r"patch_embedding.*\(None, 16, 64\).*832",
        r"block_1.*\(None, 16, 64\).*33,472",
        r"norm.*128",
        r"head.*\(None, 10\).*650",
    ):
        assert re.search(row, text), row


def test_weights_survive_saving(tmp_path: Path) -> None:
    model = small()
    randomize(model)
    model.save_weights(tmp_path / "a.weights.h5")
    other = small(seed=4)
    other.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(model(images(2)), other(images(2)))


def _python(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
