"""Floating-point operations of a model, in closed form: two for each multiply-add of a product.

Letters as in `functions`: N patches, T tokens, D width, n heads of size d, M units of the MLP.
Norms, softmax, GELU and additions are left out: they cost memory traffic, not arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

from pipeline.model.architecture import Architecture
from pipeline.model.cost import head_places, head_units
from pipeline.model.stem import stem_channels


def flops_per_image(arch: Architecture, image_size: int, num_classes: int) -> float:
    """Operations of a forward pass on one image.

        patches    N (3 P P) D
        or a stem  (H W / 4^i) 9 C_(i-1) C_i for its convolution i = 1, 2, ..., and N C D
        a block    T (4 D n d)     query, key, value, output
                 + 2 T T n d       scores and their products with the values
                 + 2 T D M         MLP
        head       F_0 F_1 + F_1 F_2 + ... + F_k classes

    where F_0 is D, or T D with pool=flatten.
    """
    return _Count(arch, image_size, num_classes, frozenset()).flops()


def training_flops_per_image(
    arch: Architecture, image_size: int, num_classes: int, trained: Collection[str]
) -> float:
    """Operations of a training step on one image: the forward pass, and the gradients it needs.

    A product y = x W costs its forward operations once more for the gradient of W, where W is
    trained, and once more for the gradient of x, where something before it is trained. Attention's
    two products have two inputs each. So a network whose parameters are all trained takes three
    times its forward pass, less the gradient of the images; a linear probe takes the forward pass,
    and the head once more.

    What `train.recompute` computes a second time is not counted: it is no part of the model.

    Args:
      trained: Paths of the trained variables, such as `vit/head/kernel`.
    """
    return _Count(arch, image_size, num_classes, frozenset(trained)).flops()


class _Count:
    """Goes through the network as the forward pass does, and adds up both ways' operations.

    `reached` says whether a variable before this place is trained, so that a gradient must come
    back through it.
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
        for place, (inputs, outputs) in zip(head_places(arch), pairwise(units), strict=True):
            reached = self._layer(f"{place}/", inputs * outputs, reached)

    def _layer(self, place: str, multiply_adds: int, reached: bool) -> bool:
        """Adds a product with a kernel; returns whether a gradient must come back to its result."""
        times = 1 + (f"{place}kernel" in self._trained) + reached
        self._multiply_adds += times * multiply_adds
        return reached or self._is_trained(place)

    def _is_trained(self, place: str) -> bool:
        return any(path.startswith(place) for path in self._trained)
