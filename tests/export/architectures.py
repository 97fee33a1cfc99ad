"""Small networks with random weights that together cover all options of an Architecture."""

import numpy as np

from pipeline.export.metadata import ExportMetadata, Preprocessing
from pipeline.model.architecture import Architecture
from pipeline.model.vit import VisionTransformer

SIZE, CLASSES = 8, ("a", "b", "ç <d>")

# fmt: off
#                              P  width depth heads size MLP
ARCHITECTURES = {
    "token":      Architecture(4, 16, 2, 2,  8, 24, pool="token"),
    "mean":       Architecture(2, 16, 1, 4,  4, 24, pool="mean", gelu="tanh"),
    "flatten":    Architecture(4, 16, 1, 2, 16, 24, pool="flatten", mlp_activates_output=True,
                               head_dims=(12, 10), dropout=0.3, head_dropout=0.5),
    "fixed":      Architecture(4, 16, 1, 2,  4, 24, positions="sincos2d", pre_logits=6),
    "fixed mean": Architecture(4, 16, 1, 2,  8, 24, positions="sincos2d", pool="mean",
                               stochastic_depth=0.2),
    "stem":       Architecture(4, 16, 1, 2,  8, 24, stem="convolutions", pool="flatten"),
}
# fmt: on


def random_model(arch):
    """A network without weights of zero or one, so that a missing weight is detected."""
    model = VisionTransformer(arch, SIZE, len(CLASSES))
    model.build((None, SIZE, SIZE, 3))
    draw = np.random.default_rng(0)
    for variable in model.variables:
        # So that the logits stay small, and the probabilities tell images apart.
        scale = variable.shape[0] ** -0.5 if variable.path.endswith("kernel") else 0.5
        variable.assign(draw.normal(0.1, scale, variable.shape))
    return model


def metadata_of(arch):
    preprocessing = Preprocessing(
        image_size=SIZE, resize="squash", crop_fraction=1.0, antialias=True, max_pixels=10**6,
        mean=(0.1, 0.5, 0.7), std=(0.2, 0.3, 0.4),
    )  # fmt: skip
    return ExportMetadata(
        classes=CLASSES, preprocessing=preprocessing, architecture=arch, weights_of_step=7
    )


def random_pixels(count=5):
    return np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def expected(model, pixels):
    """The probabilities of the network, with normalization and softmax in float64."""
    normal = (pixels / 255 - (0.1, 0.5, 0.7)) / (0.2, 0.3, 0.4)
    logits = np.asarray(model(normal.astype(np.float32), training=False), np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
