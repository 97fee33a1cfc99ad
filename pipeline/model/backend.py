"""What Keras has no word for, on TensorFlow and on JAX: the one file here that asks which it is.

Keras's own ways to transposed products and to random bits are detours: copies, float32 numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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
    variables. TensorFlow's generator takes three to seven times as long on a CPU as SplitMix64
    compiled by XLA (`python -m benchmarks kernels`), which many numbers come from inside `fusing`.

    Args:
      shape: Numbers or scalar tensors.
      seed: [2], of `seed_dtype`.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.random.bits(seed, shape, "uint16")
    import tensorflow as tf

    count = tf.reduce_prod(tf.cast(tf.stack(shape), tf.int64))
    if _compiles(shape):
        from pipeline.splitmix import hash64, stream64

        # Hashed: streams of keys that are near each other would be one, shifted.
        drawn = _compiled(stream64)(hash64(seed[0], seed[1]), (count + 3) // 4)
    else:
        drawn = tf.random.stateless_uniform(
            [(count + 1) // 2], seed, minval=None, maxval=None, dtype=tf.uint32
        )
    words = tf.reshape(tf.bitcast(drawn, tf.uint16), [-1])  # [m] -> [m, 2 or 4] -> [2 m or 4 m]
    return tf.reshape(words[:count], shape)


@contextmanager
def fusing() -> Iterator[None]:
    """Where TensorFlow on a CPU takes the ways that `fused`, `affine` and `softmax` tell of.

    In training alone: what is exported must need neither XLA nor oneDNN.
    """
    token = _FUSES.set(True)
    try:
        yield
    finally:
        _FUSES.reset(token)


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """A chain of operations as loops of XLA's, for large tensors inside `fusing`.

    TensorFlow's operations go through memory one by one, and in bfloat16 convert their numbers both
    ways each: with one thread an operation, GELU and dropout take about half the time (`vit
    benchmark kernels`). JAX compiles the whole step, and on GPUs nothing was measured.
    """

    def call(*tensors: Tensor) -> Any:
        if _compiles(tensors[0].shape):
            return _compiled(function)(*tensors)
        return function(*tensors)

    return call


def affine(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """x [R, I] times kernel [I, O] plus bias [O].

    In bfloat16 TensorFlow on a CPU takes longer to add a bias than for the product of a narrow
    network's layer, and longer for the bias's gradient than for a product with ones. There a column
    of ones is put beside x, and the bias below the kernel: one product gives the result, one both
    gradients, and what is added is added in float32. Forward and back that is 1.4 times as fast
    (`python -m benchmarks kernels`). It is not used where the kernel, which it copies, is larger
    than x.
    """
    rows, _ = x.shape
    outputs = kernel.shape[1]
    if not _fuses() or x.dtype != "bfloat16" or (rows is not None and rows < outputs):
        # Unlike `+`, this is what TensorFlow joins with the product.
        return ops.add(ops.matmul(x, kernel), bias)
    # TensorFlow's custom gradients take tensors, and no variables.
    return _affine_in_one(x, ops.cast(kernel, x.dtype), ops.cast(bias, x.dtype))


@ops.custom_gradient
def _affine_in_one(
    x: Tensor, kernel: Tensor, bias: Tensor
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
    x_one = ops.concatenate([x, ops.ones_like(x[:, :1])], axis=1)  # [R, I + 1]

    def gradients(upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        both = product(x_one, upstream, transpose_a=True)  # [I + 1, O]
        return product(upstream, kernel, transpose_b=True), both[:-1], both[-1]

    return product(x_one, ops.concatenate([kernel, bias[None]], axis=0)), gradients


def softmax(x: Tensor) -> Tensor:
    """Over the last axis, computed in float32 also in 16 bits.

    The sum over T in bfloat16 would lose what small probabilities add. TensorFlow's own softmax of
    16 bits computes so with oneDNN, in half the time (`python -m benchmarks kernels`).
    """
    if x.dtype == "float32" or (_fuses() and _softmax_is_in_float32(x.dtype)):
        return ops.softmax(x, axis=-1)
    return ops.cast(ops.softmax(ops.cast(x, "float32"), axis=-1), x.dtype)


@cache
def _softmax_is_in_float32(dtype: Any) -> bool:
    """Whether TensorFlow's softmax gives the same with and without a conversion to float32."""
    import tensorflow as tf

    with tf.init_scope():
        scores = tf.random.stateless_normal([64, 197], [1, 2], dtype=dtype)
        exact = tf.cast(tf.nn.softmax(tf.cast(scores, tf.float32)), dtype)
        return bool(tf.reduce_all(tf.nn.softmax(scores) == exact))


# A compilation takes 30 to 150 ms, and of this many numbers saves less than a millisecond a call.
FEW_NUMBERS = 2**18
_FUSES = ContextVar("fuses", default=False)


def _compiles(shape: Any) -> bool:
    """Inside `fusing`, of many numbers; or of who knows how many: MultiWorkerMirrored's batches."""
    known = [size for size in shape if isinstance(size, int)]
    return _fuses() and (len(known) < len(shape) or math.prod(known) >= FEW_NUMBERS)


def _fuses() -> bool:
    """Whether this is inside `fusing`, and on a CPU."""
    if not _FUSES.get() or keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.list_logical_devices("GPU")


@cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)
