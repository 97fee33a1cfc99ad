"""Resampling against scipy.ndimage and the definition of FlexiViT's PI-resize."""

import numpy as np
import pytest
from scipy import ndimage

from pipeline.model.weights.resample import (
    resample_patches,
    resample_positions,
    resize_matrix,
)

RNG = np.random.default_rng(0)


def resize(image, size):
    """Bilinear resizing with pixel centers half a pixel from the edge, like tf.image.resize."""
    zoom = (size / image.shape[0], size / image.shape[1])
    return ndimage.zoom(image, zoom, order=1, mode="nearest", grid_mode=True)


@pytest.mark.parametrize("old", [1, 2, 7, 14])
@pytest.mark.parametrize("new", [1, 2, 5, 14, 24])
def test_positions_are_resampled_like_googles(old, new):
    grid = RNG.normal(size=(old, old, 6)).astype("float32")
    expected = ndimage.zoom(grid.astype("float64"), (new / old, new / old, 1), order=1)
    np.testing.assert_allclose(resample_positions(grid, new, new), expected, atol=1e-6)


def test_rows_and_columns_are_not_swapped():
    grid = RNG.normal(size=(3, 5, 2))
    expected = ndimage.zoom(grid, (4 / 3, 7 / 5, 1), order=1)
    np.testing.assert_allclose(resample_positions(grid, 4, 7), expected, atol=1e-12)


@pytest.mark.parametrize(("old", "new"), [(4, 8), (8, 4), (16, 14), (3, 7)])
def test_the_matrix_resizes_as_scipy_does(old, new):
    image = RNG.normal(size=(old, old))
    matrix = resize_matrix(old, new)
    np.testing.assert_allclose(matrix @ image @ matrix.T, resize(image, new), atol=1e-12)


@pytest.mark.parametrize(("old", "new"), [(4, 8), (4, 6), (3, 7)])
def test_an_enlarged_patch_gives_the_same_token(old, new):
    kernel = RNG.normal(size=(old, old, 3, 5))
    patch = RNG.normal(size=(old, old, 3))
    enlarged = np.stack([resize(patch[..., c], new) for c in range(3)], axis=-1)
    token = np.einsum("pqc,pqcd->d", enlarged, resample_patches(kernel, new))
    np.testing.assert_allclose(token, np.einsum("pqc,pqcd->d", patch, kernel), atol=1e-9)


@pytest.mark.parametrize(("old", "new"), [(4, 6), (8, 4), (7, 5)])
def test_the_kernel_equals_that_of_the_full_pseudo_inverse(old, new):
    """The definition in the paper, without the factorization into two small matrices."""
    basis = np.eye(old**2).reshape(-1, old, old)
    matrix = np.stack([resize(image, new).ravel() for image in basis], axis=1)  # [P'^2, P^2]
    kernel = RNG.normal(size=(old, old, 3, 5))
    expected = (np.linalg.pinv(matrix.T) @ kernel.reshape(old**2, -1)).reshape(new, new, 3, 5)
    np.testing.assert_allclose(resample_patches(kernel, new), expected, atol=1e-9)


def test_the_kernel_for_smaller_patches_minimises_the_error():
    """The kernel minimises the error over patches of white noise, so no change reduces it."""
    kernel = RNG.normal(size=(6, 6, 1, 1))
    matrix = np.kron(resize_matrix(6, 4), resize_matrix(6, 4))
    best = resample_patches(kernel, 4).ravel()

    def error(small):
        return ((kernel.ravel() - matrix.T @ small) ** 2).sum()

    steps = RNG.normal(size=(20, 16)) * 1e-3
    assert all(error(best) < error(best + step) for step in steps)
