"""The convolutional stem against loops in NumPy, and the settings it rejects."""

import numpy as np
import pytest

from pipeline.config import ModelConfig
from pipeline.errors import SettingsError
from pipeline.model.architecture import architecture
from pipeline.model.initial import Draw
from pipeline.model.stem import ConvolutionalStem, stem_channels
from pipeline.model.vit import build_vit


def convolve(x, kernel):
    """3 x 3, stride 2: x [H, W, I], kernel [3, 3, I, O]; zeros below and on the right."""
    height, width, _ = x.shape
    x = np.pad(x, ((0, 1), (0, 1), (0, 0)))
    out = np.zeros((height // 2, width // 2, kernel.shape[-1]))
    for row in range(height // 2):
        for column in range(width // 2):
            field = x[2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            out[row, column] = np.einsum("rci,rcio->o", field, kernel)
    return out


def test_tokens_equal_loops_over_pixels():
    stem = ConvolutionalStem(4, 16, kernel=Draw("lecun", seed=3), name="stem")
    stem.build((None, 8, 12, 3))
    rng = np.random.default_rng(0)
    for variable in stem.variables:
        variable.assign(rng.normal(0.2, 0.5, variable.shape))
    weights = {v.path.removeprefix("stem/"): np.asarray(v.value, "float64") for v in stem.variables}
    images = rng.normal(size=(2, 8, 12, 3))
    for image, found in zip(images, np.asarray(stem(images.astype("float32"))), strict=True):
        x = image
        for i in range(2):
            x = convolve(x, weights[f"convolution_{i}/kernel"])
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = np.maximum(0, x * weights[f"norm_{i}/gamma"] + weights[f"norm_{i}/beta"])
        expected = x.reshape(6, 16) @ weights["out/kernel"] + weights["out/bias"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_channels_double_up_to_the_width():
    assert stem_channels(8, 128) == [32, 64, 128]
    assert stem_channels(16, 768) == [96, 192, 384, 768]
    assert stem_channels(2, 10) == [10]


def test_a_stem_gives_as_many_tokens_as_patches_and_is_trained():
    config = ModelConfig(variant="digits", depth=1, stem="convolutions")
    model = build_vit(config, image_size=8, num_classes=3)
    paths = [v.path for v in model.trainable_variables if "/patch_embedding/" in v.path]
    assert paths == [f"vit/patch_embedding/{name}" for name in (
        "convolution_0/kernel", "norm_0/gamma", "norm_0/beta", "out/kernel", "out/bias"
    )]  # fmt: skip
    assert model.position_embedding.positions.shape == (16, 64)
    assert model(np.zeros((2, 8, 8, 3), "float32")).shape == (2, 3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"variant": "keras_example"}, "must be 2, 4, 8 or a larger power of two"),
        ({"variant": "digits", "patch_size": 1}, "must be 2, 4, 8 or a larger power of two"),
        ({"variant": "digits", "patch_size": 8, "width": 6, "num_heads": 1},
         "model.width must be a multiple of 4 for model.stem=convolutions"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_halve_are_refused(settings, said):
    with pytest.raises(SettingsError, match=said.replace(".", r"\.")):
        architecture(ModelConfig(**settings, stem="convolutions"))
