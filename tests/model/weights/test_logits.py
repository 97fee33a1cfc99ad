"""A network with published weights against the equations of the papers."""

import ml_dtypes
import numpy as np
import pytest

from pipeline.config import ModelConfig
from pipeline.model.vit import build_vit
from pipeline.model.weights.files import read_published
from pipeline.model.weights.fit import fit_weights
from tests.model.weights import published_files as files
from tests.reference import numpy_vit

IMAGES = np.random.default_rng(1).uniform(-1, 1, size=(3, 8, 8, 3)).astype("float32")


def load(path, image_size=8, classes=files.CLASSES, **changes):
    """The network of the settings with the weights of the file, and the report."""
    config = ModelConfig(**files.MODEL | changes)
    model = build_vit(config, image_size=image_size, num_classes=classes)
    variables = {v.path: v for v in model.variables}
    shapes = {name: tuple(v.shape) for name, v in variables.items()}
    fitted = fit_weights(read_published(path), shapes, model.arch, image_size, "FILE")
    for name, array in fitted.weights.items():
        variables[name].assign(array)
    return model, fitted


def assert_same(model, expected, images=IMAGES):
    assert np.abs(expected).max() > 0.3  # not all of it near zero
    np.testing.assert_allclose(np.asarray(model(images)), expected, atol=1e-4)


@pytest.mark.parametrize("pre_logits", [0, 7])
@pytest.mark.parametrize("pool", ["token", "mean"])
@pytest.mark.parametrize("form", ["tanh", "exact"])
def test_google_files(tmp_path, pool, pre_logits, form):
    arrays = files.google(token=pool == "token", pre_logits=pre_logits)
    path = files.save(tmp_path / "B_16.npz", arrays)
    model, fitted = load(path, pool=pool, pre_logits=pre_logits, gelu=form)
    assert_same(model, numpy_vit.google_logits(arrays, IMAGES, files.DEPTH, form))
    assert [fitted.dropped, fitted.left_out, fitted.resampled, fitted.initial] == [[], [], {}, []]
    assert len(fitted.weights) == len(model.variables)


@pytest.mark.parametrize("prefix", ["params/", "opt/target/"])
def test_google_files_with_a_prefix_and_an_optimizer(tmp_path, prefix):
    arrays = files.google()
    stored = {prefix + name: array for name, array in arrays.items()}
    stored |= {"opt/state/step": np.int64(3), "opt/state/param_states/head/mu": np.ones(3)}
    model, fitted = load(files.save(tmp_path / "x.npz", stored), gelu="tanh")
    assert_same(model, numpy_vit.google_logits(arrays, IMAGES, files.DEPTH))
    assert "opt/state/*" in fitted.left_out


def test_current_big_vision(tmp_path):
    """The layout of current big_vision: the class token includes its position, and names differ."""
    arrays = files.google()
    positions = arrays["Transformer/posembed_input/pos_embedding"]
    stored = dict(arrays) | {"cls": arrays["cls"] + positions[:, :1]}
    del stored["Transformer/posembed_input/pos_embedding"]
    stored["pos_embedding"] = positions[:, 1:]
    for old, new in (
        ("MultiHeadDotProductAttention_1", "MultiHeadDotProductAttention_0"),
        ("LayerNorm_2", "LayerNorm_1"),
        ("MlpBlock_3", "MlpBlock_0"),
    ):
        stored = {name.replace(old, new): array for name, array in stored.items()}
    stored = {f"params/{name}": array for name, array in stored.items()}
    model, fitted = load(files.save(tmp_path / "x.npz", stored), gelu="tanh")
    assert_same(model, numpy_vit.google_logits(arrays, IMAGES, files.DEPTH))
    assert any("zeros" in note for note in fitted.notes)


@pytest.mark.parametrize("named", ["file", "folder"])
def test_hugging_face_files(tmp_path, named):
    arrays = files.hugging_face()
    file = files.save(tmp_path / "model.safetensors", arrays, **files.HUGGING_FACE_CONFIG)
    model, fitted = load(file if named == "file" else tmp_path)
    expected = numpy_vit.hugging_face_logits(arrays, IMAGES, files.DEPTH, files.HEADS)
    assert_same(model, expected)
    assert not fitted.describe().count("note")


def test_hugging_face_files_with_a_pooler_and_no_head(tmp_path):
    arrays = files.hugging_face(head=False)
    files.save(tmp_path / "model.safetensors", arrays, **files.HUGGING_FACE_CONFIG)
    model, fitted = load(tmp_path, pre_logits=files.WIDTH)
    np.testing.assert_array_equal(model.pre_logits.kernel, arrays["pooler.dense.weight"].T)
    np.testing.assert_array_equal(model.pre_logits.bias, arrays["pooler.dense.bias"])
    assert fitted.initial == ["vit/head/kernel", "vit/head/bias"]


def test_timm_files(tmp_path):
    arrays = files.timm()
    model, fitted = load(files.save(tmp_path / "any.safetensors", arrays))
    assert_same(model, numpy_vit.timm_logits(arrays, IMAGES, files.DEPTH, files.HEADS))
    assert any("number of heads" in note for note in fitted.notes)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_read_as_it_is(tmp_path, dtype):
    arrays = {name: array.astype(dtype) for name, array in files.timm().items()}
    model, fitted = load(files.save(tmp_path / "model.safetensors", arrays))
    assert {array.dtype for array in fitted.weights.values()} == {np.dtype("float32")}
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    assert_same(model, numpy_vit.timm_logits(wide, IMAGES, files.DEPTH, files.HEADS))
