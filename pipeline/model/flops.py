"""Closed-form counts of floating-point operations; each multiply-add counts as two.

Shape letters are defined in `functions`. Norms, softmax, GELU and additions are not counted: memory
traffic limits them, not arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

from pipeline.model.architecture import Architecture
from pipeline.model.cost import head_paths, head_units
from pipeline.model.stem import stem_channels


def flops_per_image(arch: Architecture, image_size: int, num_classes: int) -> float:
    """Counts the operations of a forward pass on one image.

    Multiply-adds:

        patches    N (3 P P) D
        or a stem  (H W / 4^i) 9 C_(i-1) C_i for convolution i = 1, 2, ..., and N C D
        a block    T (4 D n d)     query, key, value, output
                 + 2 T T n d       scores, and the product of probabilities and values
                 + 2 T D M         MLP
        head       F_0 F_1 + F_1 F_2 + ... + F_k classes

    where F_0 is D, or T D with pool=flatten.
    """
    return _Count(arch, image_size, num_classes, frozenset()).flops()


def training_flops_per_image(
    arch: Architecture, image_size: int, num_classes: int, trained: Collection[str]
) -> float:
    """Counts the operations of a training step on one image, forward and backward.

    A product y = x W costs as much as in the forward pass once more for the gradient of W, if W is
    trainable, and once more for the gradient of x, if any variable before it is trainable. The two
    products in attention have two inputs each. A network with all variables trainable therefore
    costs three forward passes, minus the gradient of the images. A linear probe costs the forward
    pass plus the head once more.

    Recomputation (`train.recompute`) is not counted: it is not part of the model.

    Args:
      arch: Shape of the network.
      image_size: Height and width of the images in pixels.
      num_classes: Number of logits.
      trained: Paths of the trainable variables, such as `vit/head/kernel`.
    """
    return _Count(arch, image_size, num_classes, frozenset(trained)).flops()


class _Count:
    """Walks through the network like a forward pass and sums up the operations of both passes.

    `reached` says whether a variable before this place is trainable, in which case a gradient must
    be propagated back through it.
    """

    def __init__(
        self, arch: Architecture, image_size: int, num_classes: int, trained: frozenset[str]
    ) -> None:
        self._arch, self._size, self._classes = arch, image_size, num_classes
        self._trained = trained
        self._multiply_adds = 0

    def flops(self) -> float:
        reached = self._embedding()
        for index in range(self._arch.depth):
            reached = self._block(f"vit/block_{index}", reached)
        self._head(reached or self._is_trained("vit/norm/"))
        return 2.0 * self._multiply_adds

    def _embedding(self) -> bool:
        arch, size = self._arch, self._size
        patches, place = (size // arch.patch_size) ** 2, "vit/patch_embedding/"
        reached = False
        if arch.stem == "convolutions":
            channels = stem_channels(arch.patch_size, arch.width)
            for i, (inputs, outputs) in enumerate(pairwise([3, *channels])):
                count = (size >> (i + 1)) ** 2 * 9 * inputs * outputs
                reached = self._layer(f"{place}convolution_{i}/", count, reached)
                reached |= self._is_trained(f"{place}norm_{i}/")
            self._layer(f"{place}out/", patches * channels[-1] * arch.width, reached)
        else:
            self._layer(place, patches * 3 * arch.patch_size**2 * arch.width, reached)
        return any(
            self._is_trained(f"vit/{name}/")
            for name in ("patch_embedding", "class_token", "position_embedding")
        )

    def _block(self, place: str, reached: bool) -> bool:
        arch, tokens = self._arch, self._arch.num_tokens(self._size)
        length = arch.num_heads * arch.head_size
        attention, mlp = f"{place}/attention/", f"{place}/mlp/"
        inside = reached or self._is_trained(f"{place}/attention_norm/")
        projection = tokens * arch.width * length
        query, key, value = (
            self._layer(f"{attention}{name}/", projection, inside)
            for name in ("query", "key", "value")
        )
        product = tokens * tokens * length
        self._multiply_adds += product * (1 + query + key)  # scores
        self._multiply_adds += product * (1 + (query or key) + value)  # probabilities x values
        after = self._layer(f"{attention}out/", projection, query or key or value)
        inside = after or self._is_trained(f"{place}/mlp_norm/")
        for name in ("hidden", "out"):
            inside = self._layer(f"{mlp}{name}/", tokens * arch.width * arch.mlp_dim, inside)
        return inside

    def _head(self, reached: bool) -> None:
        arch = self._arch
        units = head_units(arch, arch.num_tokens(self._size), self._classes)
        for place, (inputs, outputs) in zip(head_paths(arch), pairwise(units), strict=True):
            reached = self._layer(f"{place}/", inputs * outputs, reached)

    def _layer(self, place: str, multiply_adds: int, reached: bool) -> bool:
        """Adds one product with a kernel. Returns whether its output needs a gradient."""
        times = 1 + (f"{place}kernel" in self._trained) + reached
        self._multiply_adds += times * multiply_adds
        return reached or self._is_trained(place)

    def _is_trained(self, place: str) -> bool:
        return any(path.startswith(place) for path in self._trained)
