"""Fitting weights of a file to a network: the result, the report and the errors."""

import re

import numpy as np
import pytest
from scipy import ndimage

from pipeline.data.sources.source import HALF, IMAGENET
from pipeline.errors import SettingsError
from pipeline.model.weights.fit import group_names, normalization_note
from pipeline.model.weights.published import read_google, read_hugging_face, read_timm
from tests.model.weights import published_files as files
from tests.model.weights.test_logits import IMAGES, assert_same, load
from tests.reference import numpy_vit

KNOWN = {"half": HALF, "imagenet": IMAGENET}
POSITIONS = "Transformer/posembed_input/pos_embedding"


@pytest.fixture
def save(tmp_path):
    return lambda arrays: files.save(tmp_path / "B_16.npz", arrays)


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_positions_of_another_image_size_are_resampled_with_and_without_a_class_token(save, pool):
    arrays = files.google(grid=2, token=pool == "token")
    model, fitted = load(save(arrays), image_size=20, pool=pool, gelu="tanh")
    first, grid = np.split(arrays[POSITIONS], [pool == "token"], axis=1)
    grid = ndimage.zoom(grid.reshape(2, 2, -1), (2.5, 2.5, 1), order=1).reshape(1, 25, -1)
    stretched = arrays | {POSITIONS: np.concatenate([first, grid], axis=1)}
    images = np.random.default_rng(2).uniform(-1, 1, size=(2, 20, 20, 3)).astype("float32")
    assert_same(model, numpy_vit.google_logits(stretched, images, files.DEPTH), images)
    assert "resampled: vit/position_embedding/positions 2x2 -> 5x5" in fitted.describe()


def test_patches_of_another_size_give_the_same_logits_on_a_larger_picture(save):
    """FlexiViT's property: patches of 4 pixels enlarged to 8 give the same tokens."""
    arrays = files.google()
    model, fitted = load(save(arrays), image_size=16, variant="Ti/8", gelu="tanh")
    large = np.zeros((len(IMAGES), 16, 16, 3), "float32")
    for i, image in enumerate(IMAGES):
        for top in (0, 4):
            for left in (0, 4):
                patch = image[top : top + 4, left : left + 4]
                for c in range(3):
                    large[i, 2 * top : 2 * top + 8, 2 * left : 2 * left + 8, c] = ndimage.zoom(
                        patch[..., c], 2, order=1, mode="nearest", grid_mode=True
                    )
    assert_same(model, numpy_vit.google_logits(arrays, IMAGES, files.DEPTH), large)
    assert "resampled: vit/patch_embedding/kernel 4x4 -> 8x8 pixels" in fitted.describe()


def test_a_head_with_other_classes_is_dropped_and_initialized(save):
    model, fitted = load(save(files.google(classes=1000)), classes=5, gelu="tanh")
    said = fitted.describe()
    assert "dropped: head/kernel, head/bias (1,000 classes in the file, 5 here)" in said
    assert "keep their initial values: vit/head/kernel, vit/head/bias" in said
    assert not np.any(np.asarray(model.head.kernel))


def test_extra_pre_logits_are_ignored_and_their_head_is_dropped(save):
    """Even if the head has the right shape: it was trained on other features."""
    _, fitted = load(save(files.google(pre_logits=files.WIDTH)), gelu="tanh")
    said = fitted.describe()
    assert "left out: pre_logits/kernel, pre_logits/bias" in said
    assert "dropped: head/kernel, head/bias (its input features differ)" in said
    assert f"model.pre_logits={files.WIDTH} would load" in said


def test_missing_pre_logits_are_initialized_and_so_is_the_head(save):
    _, fitted = load(save(files.google()), pre_logits=files.WIDTH, gelu="tanh")
    assert [name.split("/")[1] for name in fitted.initial] == 2 * ["pre_logits"] + 2 * ["head"]
    assert fitted.dropped


def test_pre_logits_are_loaded_if_only_the_classes_differ(save):
    arrays = files.google(pre_logits=7, classes=9)
    model, fitted = load(save(arrays), pre_logits=7, gelu="tanh")
    np.testing.assert_array_equal(model.pre_logits.kernel, arrays["pre_logits/kernel"])
    assert fitted.initial == ["vit/head/kernel", "vit/head/bias"]


def test_a_class_token_is_left_out_of_a_network_that_takes_the_mean(save):
    arrays = files.google()
    model, fitted = load(save(arrays), pool="mean", gelu="tanh")
    without = arrays | {POSITIONS: arrays[POSITIONS][:, 1:]}
    del without["cls"]
    assert_same(model, numpy_vit.google_logits(without, IMAGES, files.DEPTH))
    assert "left out: cls (model.pool=mean has no class token), the first row of" in (
        fitted.describe()
    )
    assert (
        "note: its head was trained on the class token, but this recipe has model.pool=mean"
        in fitted.describe()
    )


def test_loaded_names_are_one_line(save):
    _, fitted = load(save(files.google()), gelu="tanh")
    assert fitted.describe() == (
        "  loaded 40: vit/patch_embedding/*, vit/class_token/*, vit/position_embedding/*, "
        "vit/block_0..1/*, vit/norm/*, vit/head/*"
    )


def test_a_layer_that_is_partly_loaded_is_named_by_its_parameters():
    names = ["vit/a/kernel", "vit/a/bias", "vit/b/bias"]
    assert group_names(names, [*names, "vit/b/kernel"]) == ["vit/a/*", "vit/b/bias"]


def test_a_different_gelu_is_reported(save):
    _, fitted = load(save(files.google()))
    assert "trained with model.gelu=tanh, but this recipe uses exact" in fitted.describe()


def test_a_norm_after_the_mean_is_reported():
    notes = read_timm(files.timm(norm_name="fc_norm"), {}).notes
    assert any("normalizes the mean" in note for note in notes)


# ------------------------------------------------------------------------------------- refusals


def refused(*arguments, **changes):
    with pytest.raises(SettingsError) as error:
        load(*arguments, **changes)
    return str(error.value)


def test_another_network_is_refused_with_sizes_parameters_and_settings(save):
    said = refused(save(files.google()), width=24, depth=3, mlp_dim=40)
    assert "width: 12 in the file, 24 here" in said
    assert "depth: 2 in the file, 3 here" in said
    assert "vit/block_0/attention/key/bias: (12,) in the file, (24,) here" in said
    assert re.search(r"and \d+ more", said)
    assert (
        "model.patch_size=4 model.width=12 model.depth=2 model.mlp_dim=20 model.num_heads=3" in said
    )


def test_the_matching_variant_is_named(save):
    arrays = {
        "embedding/kernel": np.zeros((16, 16, 3, 192)),
        "embedding/bias": np.zeros(192),
        "Transformer/encoderblock_11/LayerNorm_0/scale": np.zeros(192),
        "Transformer/encoderblock_0/MlpBlock_3/Dense_0/bias": np.zeros(768),
    }
    assert refused(save(arrays)).endswith("Settings that match the file: model.variant=Ti/16")


def test_another_number_of_heads_is_refused_though_all_shapes_agree(tmp_path):
    config = files.HUGGING_FACE_CONFIG | {"num_attention_heads": 2}
    file = files.save(tmp_path / "model.safetensors", files.hugging_face(), **config)
    assert "num_heads: 2 in the file, 3 here" in refused(file)


def test_a_network_without_a_class_token_does_not_fit_one_with_it(save):
    said = refused(save(files.google(token=False)))
    assert "Set model.pool=mean" in said


def test_fixed_positions_are_refused_for_learned_ones_and_the_other_way_round(save):
    arrays = files.google(token=False)
    assert "Set model.positions=learned" in refused(save(arrays), pool="mean", positions="sincos2d")
    del arrays[POSITIONS]
    assert "Set model.positions=sincos2d" in refused(save(arrays), pool="mean")


def test_a_file_without_one_of_the_parameters_is_refused_by_its_name(save):
    arrays = files.google()
    del arrays["Transformer/encoder_norm/bias"]
    assert "vit/norm/beta: not in the file" in refused(save(arrays))


@pytest.mark.parametrize(
    ("name", "shape", "what"),
    [
        ("reg_token", (1, 4, files.WIDTH), "register tokens"),
        ("dist_token", (1, 1, files.WIDTH), "a distillation token"),
        ("blocks.0.ls1.gamma", (files.WIDTH,), "LayerScale"),
        ("blocks.1.attn.q_norm.weight", (files.SIZE,), "norms of query and key"),
        ("never.heard.of", (1,), "Unsupported tensors: never.heard.of"),
    ],
)
def test_unsupported_parts_are_rejected_by_name(name, shape, what):
    arrays = files.timm() | {name: np.zeros(shape)}
    with pytest.raises(SettingsError, match=what) as error:
        read_timm(arrays, {})
    assert name in str(error.value)


def test_attention_pooling_and_hybrids_are_refused():
    for name, what in (("MAPHead_0/probe", "attention pooling"), ("conv_root/kernel", "a ResNet")):
        with pytest.raises(SettingsError, match=what):
            read_google(files.google() | {name: np.zeros(3)}, {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_act": "relu"}, "hidden_act=relu"),
        ({"model_type": "deit"}, "model_type=deit"),
        ({"num_attention_heads": None}, "num_attention_heads"),
    ],
)
def test_the_config_of_hugging_face_is_used(change, said):
    with pytest.raises(SettingsError, match=said):
        read_hugging_face(files.hugging_face(), files.HUGGING_FACE_CONFIG | change)


# -------------------------------------------------------------------------------- normalization


def test_a_different_pixel_normalization_is_reported():
    imagenet = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    published = read_timm(files.timm(), {"pretrained_cfg": imagenet})
    said = normalization_note(published.normalization, HALF, KNOWN)
    assert said is not None
    assert "mean 0.485 0.456 0.406" in said
    assert "this recipe uses mean 0.5 0.5 0.5 and deviation 0.5 0.5 0.5" in said
    assert "data.normalize=imagenet" in said
    assert normalization_note(published.normalization, IMAGENET, KNOWN) is None
    google = read_google(files.google(), {})
    assert "data.normalize=half" in str(normalization_note(google.normalization, IMAGENET, KNOWN))
    assert normalization_note(read_timm(files.timm(), {}).normalization, IMAGENET, KNOWN) is None


def test_a_mean_without_a_matching_setting_is_reported():
    odd = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}
    published = read_hugging_face(files.hugging_face(), files.HUGGING_FACE_CONFIG | odd)
    said = normalization_note(published.normalization, HALF, KNOWN)
    assert said is not None
    assert "no value of data.normalize matches" in said
