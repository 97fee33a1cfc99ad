"""What Keras has no word for, on TensorFlow and on JAX: the one file here that asks which it is.

Keras's own ways to transposed products and to random bits are detours: copies, float32 numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import keras
from keras import ops

Tensor = Any  # a tensor of whichever backend Keras runs on


def product(
    a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False
) -> Tensor:
    """The product of two batches of matrices, each transposed first where that is asked for."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    a, b = (ops.swapaxes(x, -1, -2) if t else x for x, t in ((a, transpose_a), (b, transpose_b)))
    return ops.matmul(a, b)


def attention_in_one_kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor | None:
    """softmax(Q K^T) V [B, n, T, d] by the device's own kernel, or None where there is none.

    JAX has one (cuDNN's), for 16-bit numbers on NVIDIA GPUs from Ampere on: a training step of B/16
    with 256 images on an H200 ran at 3,488 images/s with it, and at 2,875 as plain products.
    TensorFlow has none.
    """
    if keras.backend.backend() != "jax":
        return None
    import jax

    batch, _, tokens, size = query.shape
    device = jax.devices()[0]
    on_nvidia = device.platform == "gpu" and "NVIDIA" in device.device_kind
    if not on_nvidia or float(device.compute_capability) < 8:
        return None
    if query.dtype.itemsize != 2 or size % 8 or size > 128:
        return None
    # JAX 0.11 refuses odd numbers of tokens when it trains: one more, that nobody looks at.
    pad = [(0, 0), (0, tokens % 2), (0, 0), (0, 0)]
    lengths = jax.numpy.full(batch, tokens, "int32") if tokens % 2 else None
    parts = (jax.numpy.pad(ops.swapaxes(x, 1, 2), pad) for x in (query, key, value))
    result = jax.nn.dot_product_attention(
        *parts,  # 3 x [B, n, T, d] -> 3 x [B, T or T + 1, n, d]
        scale=1.0,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return ops.swapaxes(result[:, :tokens], 1, 2)


def seed_dtype() -> str:
    """Of seeds: JAX takes its raw keys as uint32 alone; TensorFlow compiles int32 ones with XLA."""
    return "uint32" if keras.backend.backend() == "jax" else "int32"


def random_words(shape: Any, seed: Tensor) -> Tensor:
    """All numbers of 16 bits with equal probability, uint16 of a shape.

    Half the work of keras.random's float32 draws; and its seeds are constants of the graph, or
    variables.

    Args:
      shape: Numbers or scalar tensors.
      seed: [2], of `seed_dtype`.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.random.bits(seed, shape, "uint16")
    import tensorflow as tf

    count = tf.reduce_prod(tf.cast(tf.stack(shape), tf.int64))
    pairs = tf.random.stateless_uniform(
        [(count + 1) // 2], seed, minval=None, maxval=None, dtype=tf.uint32
    )
    words = tf.reshape(tf.bitcast(pairs, tf.uint16), [-1])  # [m] -> [m, 2] -> [2 m]
    return tf.reshape(words[:count], shape)


def fused(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A chain of elementwise operations as one loop, where TensorFlow does bfloat16 on a CPU.

    There each operation by itself converts its numbers both ways: compiled by XLA, a training step
    of the Keras example's network is 10 % faster. With float32 TensorFlow's own operations are as
    fast, JAX compiles the whole step, and on GPUs nothing was measured. For gradients alone: what
    is exported must not need XLA.
    """

    def call(*tensors: Tensor) -> Tensor:
        if keras.backend.backend() != "tensorflow":
            return function(*tensors)
        import tensorflow as tf

        on_cpu = not tf.config.list_physical_devices("GPU")
        if on_cpu and tensors[0].dtype == tf.bfloat16:
            return _compiled(function)(*tensors)
        return function(*tensors)

    return call


@cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)
