import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import OptimConfig
from pipeline.optim.optimizer import AdamW, LossScale, clip_scale, global_norm
from pipeline.optim.parameters import decays
from pipeline.runtimes.single import SingleRuntime

SHAPES = {"kernel": (3, 4), "bias": (4,)}


def make_variables():
    start = np.random.default_rng(0)
    return [
        keras.Variable(start.normal(size=shape).astype("float32"), name=name)
        for name, shape in SHAPES.items()
    ]


def gradients(steps):
    draw = np.random.default_rng(1)
    return [[draw.normal(size=s).astype("float32") for s in SHAPES.values()] for _ in range(steps)]


def update(optimizer, applied, values, rate=0.01, scale=1.0):
    optimizer.apply(
        [tf.constant(v) for v in values],
        learning_rate=tf.constant(rate),
        scale=tf.constant(scale),
        applied=tf.constant(applied),
        update=SingleRuntime("CPU:0").update,
    )


def test_ten_updates_equal_keras_s_adamw():
    ours, theirs = make_variables(), make_variables()
    optimizer = AdamW(OptimConfig(weight_decay=0.1, beta_2=0.95, epsilon=1e-7))
    optimizer.build(ours)
    reference = keras.optimizers.AdamW(0.01, weight_decay=0.1, beta_2=0.95, epsilon=1e-7)
    reference.exclude_from_weight_decay(var_list=[theirs[1]])
    for step, values in enumerate(gradients(10)):
        update(optimizer, step, values)
        reference.apply([tf.constant(v) for v in values], theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-6, atol=1e-7)


def test_one_update_equals_the_paper_s_equations():
    (kernel, bias), values = make_variables(), gradients(1)[0]
    before = kernel.numpy(), bias.numpy()
    optimizer = AdamW(OptimConfig(weight_decay=0.1))
    optimizer.build([kernel, bias])
    update(optimizer, 0, values, rate=0.01, scale=0.5)
    for variable, start, g, decay in zip((kernel, bias), before, values, (0.1, 0.0), strict=True):
        g = 0.5 * g  # clipped
        m_hat, v_hat = 0.1 * g / (1 - 0.9), 0.001 * g**2 / (1 - 0.999)
        expected = start - 0.01 * decay * start - 0.01 * m_hat / (np.sqrt(v_hat) + 1e-8)
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5)


def test_a_gradient_that_is_not_finite_changes_nothing():
    variables = make_variables()
    optimizer = AdamW(OptimConfig(ema_momentum=0.9, weight_decay=0.1))
    optimizer.build(variables)
    update(optimizer, 0, gradients(1)[0])
    state = [v.numpy() for v in (*variables, *optimizer.variables.values())]
    averages = [v.numpy() for v in optimizer.averages.values()]
    bad = [np.full(shape, np.nan, "float32") for shape in SHAPES.values()]
    scale = clip_scale(tf.linalg.global_norm([tf.constant(b) for b in bad]), 1.0)
    update(optimizer, 1, bad, scale=float(scale))
    for before, after in zip(state, (*variables, *optimizer.variables.values()), strict=True):
        np.testing.assert_array_equal(before, after.numpy())
    for before, after in zip(averages, optimizer.averages.values(), strict=True):
        np.testing.assert_array_equal(before, after.numpy())


@pytest.mark.parametrize(
    ("norm", "limit", "scale"),
    [
        (4.0, 1.0, 0.25),
        (0.5, 1.0, 1.0),
        (0.0, 1.0, 1.0),
        (7.0, None, 1.0),
        (np.nan, 1.0, 0.0),
        (np.inf, 1.0, 0.0),
        (np.inf, None, 0.0),
    ],
)
def test_the_clipping_factor(norm, limit, scale):
    assert float(clip_scale(tf.constant(norm, tf.float32), limit)) == pytest.approx(scale)


def test_averaged_weights_follow_their_recurrence_and_swap_back():
    (kernel,) = make_variables()[:1]
    optimizer = AdamW(OptimConfig(ema_momentum=0.5))
    optimizer.build([kernel])
    average = kernel.numpy()
    for step, values in enumerate(gradients(6)):
        update(optimizer, step, values[:1])
        momentum = min(0.5, (1 + step) / (10 + step))
        average = momentum * average + (1 - momentum) * kernel.numpy()
    held = next(iter(optimizer.averages.values()))
    np.testing.assert_allclose(held.numpy(), average, rtol=1e-5)
    weights = kernel.numpy()
    optimizer.swap_averages()
    np.testing.assert_allclose(kernel.numpy(), average, rtol=1e-5)
    optimizer.swap_averages()
    np.testing.assert_array_equal(kernel.numpy(), weights)


def test_matrices_decay_and_what_is_added_to_tokens_does_not():
    from pipeline.config import ModelConfig
    from pipeline.model.vit import build_vit

    model = build_vit(ModelConfig(variant="Ti/8", depth=1), image_size=16, num_classes=3)
    decaying = {v.path.split("vit/")[1] for v in model.trainable_variables if decays(v)}
    block = {f"block_0/attention/{n}/kernel" for n in ("query", "key", "value", "out")}
    block |= {"block_0/mlp/hidden/kernel", "block_0/mlp/out/kernel"}
    assert decaying == block | {"patch_embedding/kernel", "head/kernel"}


def test_the_loss_scale_halves_on_overflow_and_doubles_after_2000_good_steps():
    scale = LossScale(initial=8.0)
    scale.adjust(tf.constant(False))
    assert float(scale.value) == 4.0
    for _ in range(LossScale.GROW_EVERY_STEPS):
        scale.adjust(tf.constant(True))
    assert float(scale.value) == 8.0


@pytest.mark.parametrize("size", [0.0, 1e-34, 1e-25, 1e-19, 1e-12, 1e-3, 1e19, 1e25, 3e38])
def test_the_norm_of_large_and_small_gradients_is_exact(size):
    values = [np.clip(size * v.astype(np.float64), -3e38, 3e38) for v in gradients(1)[0]]
    values = [v.astype(np.float32) for v in values]
    expected = np.sqrt(sum(np.sum(np.square(v, dtype=np.float64)) for v in values))
    norm = global_norm([tf.constant(v) for v in values])
    assert float(norm) == pytest.approx(expected, rel=1e-6, abs=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_norm_of_a_gradient_that_is_not_finite_is_not_finite(bad):
    values = gradients(1)[0]
    values[0][1, 2] = bad
    values[1][3] = 1e30
    assert not np.isfinite(float(global_norm([tf.constant(v) for v in values])))


def test_large_gradients_are_clipped_and_train():
    values = [1e25 * v for v in gradients(1)[0]]
    expected, variables = make_variables(), make_variables()
    norm = np.sqrt(sum(np.sum(np.square(v, dtype=np.float64)) for v in values))
    for ours, given in ((expected, [v / norm for v in values]), (variables, values)):
        optimizer = AdamW(OptimConfig())
        optimizer.build(ours)
        given = [np.asarray(v, np.float32) for v in given]
        scale = clip_scale(global_norm([tf.constant(v) for v in given]), 1.0)
        update(optimizer, 0, given, scale=float(scale))
    for a, b in zip(variables, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5)


def test_an_update_whose_second_moment_would_be_infinite_is_skipped():
    norm = tf.constant(1e25, tf.float64)
    assert float(clip_scale(norm, None)) == 0.0
    assert float(clip_scale(norm, 1.0)) == pytest.approx(1e-25)
