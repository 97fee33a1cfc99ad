"""Run with KERAS_BACKEND=jax: the forward pass of weights computed elsewhere, and a compiled step.

python run_on_jax.py FILE.npz     variables by path, `images`, and what is expected: `logits`, and
                                  of the sum of their sines the gradients, as gradient/PATH
"""

from __future__ import annotations

import sys

import jax
import keras
import numpy as np

from pipeline.config import ModelConfig
from pipeline.model.vit import build_vit


def main(path: str) -> None:
    assert keras.backend.backend() == "jax"
    saved = np.load(path)
    config = ModelConfig(
        variant="digits",
        depth=2,
        pool="token",
        dropout=0.1,
        attention_dropout=0.1,
        stochastic_depth=0.1,
    )
    model = build_vit(config, image_size=8, num_classes=10)
    for variable in model.variables:
        variable.assign(saved[variable.path])
    np.testing.assert_allclose(model(saved["images"]), saved["logits"], rtol=1e-4, atol=1e-5)

    @jax.jit
    def train(variables: list[jax.Array], seed: jax.Array) -> jax.Array:
        logits, _ = model.stateless_call(
            variables, [], saved["images"], dropout_seed=seed, training=True
        )
        return logits

    values = [variable.value for variable in model.trainable_variables]
    first, again, other = (np.asarray(train(values, np.array([1, s], "uint32"))) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)

    def loss(variables: list[jax.Array]) -> jax.Array:
        logits, _ = model.stateless_call(variables, [], saved["images"])
        return jax.numpy.sin(logits).sum()

    for variable, gradient in zip(model.trainable_variables, jax.grad(loss)(values), strict=True):
        expected = saved[f"gradient/{variable.path}"]
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4, err_msg=variable.path)
    gradients = jax.grad(lambda v: train(v, np.array([1, 1], "uint32")).sum())(values)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


if __name__ == "__main__":
    main(sys.argv[1])
