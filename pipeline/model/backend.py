"""Operations that Keras does not provide, implemented for TensorFlow and for JAX.

This is the only module of the package that depends on the backend. Where Keras can express an
operation, such as a transposed product or random bits, its version is slower: it copies the
operand, or draws float32 numbers.
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
    """Multiplies two batches of matrices, each optionally transposed first."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    a, b = (ops.swapaxes(x, -1, -2) if t else x for x, t in ((a, transpose_a), (b, transpose_b)))
    return ops.matmul(a, b)


def fused_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor | None:
    """Computes softmax(Q K^T) V, [B, n, T, d], with one fused kernel of the device.

    Only JAX has such a kernel: cuDNN's, for 16-bit floats on NVIDIA GPUs from Ampere on. A training
    step of B/16 with 256 images on an H200 ran at 3,488 images/s with it and at 2,875 images/s with
    separate products.

    Returns:
      The result, or None if no kernel supports the device, the backend, the dtype or the shape.
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
    # JAX 0.11 rejects an odd number of tokens in training, so one masked token is appended.
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
    """The dtype of seeds. JAX accepts raw keys as uint32 only; XLA in TensorFlow needs int32."""
    return "uint32" if keras.backend.backend() == "jax" else "int32"


def random_uint16(shape: Any, seed: Tensor) -> Tensor:
    """Draws uniformly distributed 16-bit integers as a uint16 tensor.

    This costs half as much as drawing float32 numbers with keras.random. Inside `fusing`, large
    tensors are drawn with SplitMix64 compiled by XLA. On a CPU, TensorFlow's own generator takes
    three to seven times as long (`python -m benchmarks kernels`).

    Args:
      shape: Integers or scalar tensors.
      seed: Shape [2], of dtype `seed_dtype()`.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.random.bits(seed, shape, "uint16")
    import tensorflow as tf

    count = tf.reduce_prod(tf.cast(tf.stack(shape), tf.int64))
    if _compiles(shape):
        from pipeline.splitmix import hash64, stream64

        # The key is hashed, because the streams of nearby keys are shifted copies of each other.
        drawn = _compiled(stream64)(hash64(seed[0], seed[1]), (count + 3) // 4)
    else:
        drawn = tf.random.stateless_uniform(
            [(count + 1) // 2], seed, minval=None, maxval=None, dtype=tf.uint32
        )
    words = tf.reshape(tf.bitcast(drawn, tf.uint16), [-1])  # [m] -> [m, 2 or 4] -> [2 m or 4 m]
    return tf.reshape(words[:count], shape)


@contextmanager
def fusing() -> Iterator[None]:
    """Enables the CPU optimizations of `fused`, `affine` and `softmax` for TensorFlow.

    Use it for training only: an exported model must depend on neither XLA nor oneDNN.
    """
    token = _FUSES.set(True)
    try:
        yield
    finally:
        _FUSES.reset(token)


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator that compiles a chain of elementwise operations with XLA.

    It takes effect for large tensors inside `fusing`. TensorFlow passes through memory once for
    each operation, and in bfloat16 converts its operands to float32 and back each time. With one
    thread per operation, compilation halves the time of GELU and dropout (`python -m benchmarks
    kernels`). JAX compiles the whole step anyway. The effect on GPUs has not been measured.
    """

    def call(*tensors: Tensor) -> Any:
        if _compiles(tensors[0].shape):
            return _compiled(function)(*tensors)
        return function(*tensors)

    return call


def affine(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Computes x [R, I] times kernel [I, O] plus bias [O].

    In bfloat16 on a CPU, TensorFlow takes longer to add a bias than to compute the product of a
    narrow layer, and longer to sum the bias's gradient than to multiply by a vector of ones.
    Therefore a column of ones is appended to x and the bias is appended to the kernel as a row. One
    product then gives the result and one gives both gradients, accumulated in float32. Forward and
    backward together are 1.4 times as fast (`python -m benchmarks kernels`). The method copies the
    kernel, so it is not used where the kernel is larger than x.
    """
    rows, _ = x.shape
    outputs = kernel.shape[1]
    if not _fuses() or x.dtype != "bfloat16" or (rows is not None and rows < outputs):
        # TensorFlow fuses ops.add with the product, but not `+`.
        return ops.add(ops.matmul(x, kernel), bias)
    # Custom gradients in TensorFlow accept tensors only, not variables.
    return _affine_one_product(x, ops.cast(kernel, x.dtype), ops.cast(bias, x.dtype))


@ops.custom_gradient
def _affine_one_product(
    x: Tensor, kernel: Tensor, bias: Tensor
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
    x_one = ops.concatenate([x, ops.ones_like(x[:, :1])], axis=1)  # [R, I + 1]

    def gradients(upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        both = product(x_one, upstream, transpose_a=True)  # [I + 1, O]
        return product(upstream, kernel, transpose_b=True), both[:-1], both[-1]

    return product(x_one, ops.concatenate([kernel, bias[None]], axis=0)), gradients


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis, computed in float32 for 16-bit inputs too.

    A sum over T in bfloat16 would lose small probabilities. With oneDNN, TensorFlow's own 16-bit
    softmax computes in float32 and takes half the time (`python -m benchmarks kernels`).
    """
    if x.dtype == "float32" or (_fuses() and _softmax_is_in_float32(x.dtype)):
        return ops.softmax(x, axis=-1)
    return ops.cast(ops.softmax(ops.cast(x, "float32"), axis=-1), x.dtype)


@cache
def _softmax_is_in_float32(dtype: Any) -> bool:
    """Whether TensorFlow's 16-bit softmax gives the same result as one computed in float32."""
    import tensorflow as tf

    with tf.init_scope():
        scores = tf.random.stateless_normal([64, 197], [1, 2], dtype=dtype)
        exact = tf.cast(tf.nn.softmax(tf.cast(scores, tf.float32)), dtype)
        return bool(tf.reduce_all(tf.nn.softmax(scores) == exact))


# Compiling takes 30 to 150 ms. Below this number of elements it saves less than 1 ms per call.
MIN_COMPILED_SIZE = 2**18
_FUSES = ContextVar("fuses", default=False)


def _compiles(shape: Any) -> bool:
    """Whether to compile: inside `fusing`, if the tensor is large or its size is unknown.

    MultiWorkerMirroredStrategy leaves the batch dimension unknown.
    """
    known = [size for size in shape if isinstance(size, int)]
    return _fuses() and (len(known) < len(shape) or math.prod(known) >= MIN_COMPILED_SIZE)


def _fuses() -> bool:
    """Whether `fusing` is active, the backend is TensorFlow, and there is no GPU."""
    if not _FUSES.get() or keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.list_logical_devices("GPU")


@cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)
