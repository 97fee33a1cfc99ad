"""A convolutional stem that replaces the patch embedding."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from pipeline.model.backend import Tensor
from pipeline.model.initial import Draw
from pipeline.model.layers import LayerNorm, Linear, Shape


class ConvolutionalStem(layers.Layer):
    """Converts images [B, H, W, 3] to tokens [B, N, D], as many as patches of P x P pixels.

    For each factor of two in P there is one 3 x 3 convolution with stride 2, followed by a norm and
    a ReLU. The first has D / (P/2) channels, and each later one twice as many as the one before. A
    final 1 x 1 convolution produces D channels.

    The stem differs from the paper in one point: it has a LayerNorm over the channels in place of a
    BatchNorm, whose training would depend on the number of workers.

    Args:
      patch_size: P, a power of two.
      width: D, a multiple of P / 2.
      kernel: Distribution of the initial kernels.

    References:
      Xiao et al. 2021, "Early Convolutions Help Transformers See Better", arXiv 2106.14881.
    """

    def __init__(
        self, patch_size: int, width: int, *, kernel: Draw, name: str, dtype: Any = None
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.patch_size, self.width = patch_size, width
        self.convolutions = [
            _Convolution(channels, kernel=kernel, name=f"convolution_{i}", dtype=dtype)
            for i, channels in enumerate(stem_channels(patch_size, width))
        ]
        self.norms = [
            LayerNorm(name=f"norm_{i}", dtype=dtype) for i in range(len(self.convolutions))
        ]
        self.out = Linear(width, kernel=kernel, name="out", dtype=dtype)

    def build(self, input_shape: Shape) -> None:
        shape = input_shape
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
            norm.build(shape)
        self.out.build(shape)

    def call(self, images: Tensor) -> Tensor:
        x = ops.cast(images, self.compute_dtype)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = ops.relu(norm(convolution(x)))  # [B, H, W, C] -> [B, H/2, W/2, C']
        _, rows, columns, channels = x.shape
        return self.out(
            ops.reshape(x, (-1, rows * columns, channels))
        )  # [B, h, w, C'] -> [B, N, D]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, _ = input_shape
        return batch, (height // self.patch_size) * (width // self.patch_size), self.width


class _Convolution(layers.Layer):
    """A 3 x 3 convolution with stride 2 and no bias: [B, H, W, I] -> [B, H/2, W/2, channels].

    The norm that follows has a bias.
    """

    def __init__(self, channels: int, *, kernel: Draw, name: str, dtype: Any) -> None:
        super().__init__(name=name, dtype=dtype)
        self.channels = channels
        self._draw = kernel

    def build(self, input_shape: Shape) -> None:
        self.kernel = self.add_weight(
            name="kernel",
            shape=(3, 3, input_shape[-1], self.channels),
            initializer=self._draw.at(f"{self.path}/kernel"),
        )

    def call(self, x: Tensor) -> Tensor:
        return ops.conv(x, self.kernel, strides=2, padding="same", data_format="channels_last")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, _ = input_shape
        return batch, height // 2, width // 2, self.channels


def stem_channels(patch_size: int, width: int) -> list[int]:
    """The channels of the 3 x 3 convolutions: D = 128 and P = 8 give 32, 64, 128."""
    count = patch_size.bit_length() - 1
    return [width >> (count - 1 - i) for i in range(count)]
