"""Finding and reading files of weights: formats and errors."""

import json
import pickle
import zipfile

import numpy as np
import pytest

from pipeline.errors import SettingsError
from pipeline.model.weights.files import read_published
from tests.model.weights import published_files as files


def refused(path):
    with pytest.raises(SettingsError) as error:
        read_published(path)
    assert str(error.value).startswith(f"model.pretrained={path}")
    return str(error.value)


def test_a_format_is_detected_by_content_not_by_name(tmp_path):
    npz = files.save(tmp_path / "a.npz", files.google())
    tensors = files.save(tmp_path / "b.safetensors", files.timm())
    for file, origin in ((npz, "Google's ViT"), (tensors, "timm's ViT")):
        assert read_published(file.rename(tmp_path / "weights")).origin == origin


def test_a_folder_with_one_file_and_json_is_read(tmp_path):
    files.save(tmp_path / "model.safetensors", files.hugging_face(), **files.HUGGING_FACE_CONFIG)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.4] * 3})
    )
    (tmp_path / "pytorch_model.bin").write_bytes(b"not looked at")
    published = read_published(tmp_path)
    assert (published.origin, published.num_heads) == ("Hugging Face's ViT", files.HEADS)
    assert published.normalization == ((0.5,) * 3, (0.4,) * 3)


def test_the_config_of_timm_is_read(tmp_path):
    trained = {"mean": [0.1] * 3, "std": [0.2] * 3}
    files.save(
        tmp_path / "model.safetensors", files.timm(), pretrained_cfg=trained, global_pool="avg"
    )
    published = read_published(tmp_path)
    assert published.normalization == ((0.1,) * 3, (0.2,) * 3)
    assert published.pool == "mean"


def test_a_missing_path_gets_a_hint_to_the_catalog(tmp_path):
    assert "`vit pretrained list`" in refused(tmp_path / "B_16.npz")


def test_a_folder_without_weights_or_with_several(tmp_path):
    assert "neither a run folder" in refused(tmp_path)
    for name in ("a.npz", "b.npz"):
        files.save(tmp_path / name, files.google())
    assert "a.npz and b.npz" in refused(tmp_path)


@pytest.mark.parametrize("name", ["B_16.npz", "model.safetensors"])
@pytest.mark.parametrize("part", [0.5, 0.99])
def test_a_truncated_file_is_reported(tmp_path, name, part):
    file = files.save(tmp_path / name, files.google() if "npz" in name else files.timm())
    content = file.read_bytes()
    file.write_bytes(content[: int(part * len(content))])
    assert "damaged or incomplete" in refused(file)


def test_an_altered_npz_is_reported_as_damaged(tmp_path):
    file = files.save(tmp_path / "B_16.npz", files.google())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert "damaged or incomplete" in refused(file)


def test_pickles_are_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    old = tmp_path / "deit.pth"
    old.write_bytes(pickle.dumps(Trap(), protocol=2))
    new = tmp_path / "new.pth"
    with zipfile.ZipFile(new, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap()))
    objects = tmp_path / "objects.npz"
    np.savez(objects, **{"embedding/kernel": np.array([Trap()], dtype=object)})
    assert "safetensors.torch.save_file" in refused(old)
    assert "safetensors.torch.save_file" in refused(new)
    assert "not numbers" in refused(objects)
    assert not (tmp_path / "sprung").exists()


def test_a_folder_with_only_a_pickle_gets_advice_to_convert_it(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(SettingsError, match=r"pytorch_model\.bin: it is a PyTorch pickle"):
        read_published(tmp_path)


def test_a_file_without_weights_is_rejected(tmp_path):
    page = tmp_path / "B_16.npz"
    page.write_text("<!doctype html><title>404</title>")
    assert "neither .npz nor .safetensors" in refused(page)
    empty = tmp_path / "empty.npz"
    empty.touch()
    assert "neither .npz nor .safetensors" in refused(empty)


def test_other_networks_and_our_own_checkpoints(tmp_path):
    other = files.save(tmp_path / "resnet.safetensors", {"conv1.weight": np.zeros(3)})
    assert "no patch embedding among its tensors (conv1.weight" in refused(other)
    ours = files.save(tmp_path / "ours.safetensors", {"vit/patch_embedding/kernel": np.zeros(3)})
    assert "Give the run folder" in refused(ours)


def test_hugging_face_files_without_config_json(tmp_path):
    file = files.save(tmp_path / "model.safetensors", files.hugging_face())
    assert "config.json in the same folder" in refused(file)


def test_a_broken_config_json(tmp_path):
    file = files.save(tmp_path / "model.safetensors", files.hugging_face())
    (tmp_path / "config.json").write_text("{")
    assert "config.json cannot be read" in refused(file)
    (tmp_path / "config.json").write_text("[]")
    assert "must contain a JSON object" in refused(file)


FORGED_FACTS = {
    "50,000 brackets": ("[" * 50_000, "nested too deeply"),
    "a number of 10,000 digits": ("9" * 10_000, "cannot be read"),
    "more than a megabyte": (" " * 2**20 + "{}", "more than 1,048,576"),
    "heads as text": ('{"num_attention_heads": "4"}', "must be an integer from 1 to 1024"),
    "no heads": ('{"num_attention_heads": 0}', "must be an integer from 1 to 1024"),
    "a list as GELU": ('{"num_attention_heads": 4, "hidden_act": []}', "hidden_act=[]"),
    "a text as mean": (
        '{"num_attention_heads": 4, "image_mean": "half", "image_std": [1]}', "lists of numbers"
    ),
    "lists as mean": (
        '{"num_attention_heads": 4, "image_mean": [[1]], "image_std": [1]}', "lists of numbers"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED_FACTS)
def test_a_forged_config_json_is_one_error(tmp_path, name):
    text, said = FORGED_FACTS[name]
    file = files.save(tmp_path / "model.safetensors", files.hugging_face())
    (tmp_path / "config.json").write_text(text)
    assert said in refused(file)


def test_weights_with_a_high_compression_ratio_are_rejected(tmp_path):
    file = tmp_path / "B_16.npz"
    np.savez_compressed(file, **files.google(), zeros=np.zeros(2**28, np.uint8))
    assert "bytes of memory" in refused(file)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4611686018427387904]}}',
        b'{"a":' + b"[" * 50_000,
    ],
)
@pytest.mark.parametrize("declared", [None, 2**62])
def test_forged_safetensors_are_one_error(tmp_path, header, declared):
    file = tmp_path / "model.safetensors"
    length = len(header) if declared is None else declared
    file.write_bytes(length.to_bytes(8, "little") + header + b"\0" * 4)
    assert "damaged or incomplete" in refused(file)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("embedding/kernel", (4, 5, 3, 12), "patches must be square. Received: 4 x 5"),
        ("embedding/kernel", (48, 12), "unexpected shape: (48, 12)"),
        ("Transformer/posembed_input/pos_embedding", (1, 7, 12), "not form a square grid"),
        ("Transformer/encoder_norm/scale", (), "unexpected shape: ()"),
        ("Transformer/posembed_input/pos_embedding", (), "unexpected shape"),
    ],
)
def test_shapes_that_no_network_has(tmp_path, name, shape, said):
    file = files.save(tmp_path / "x.npz", files.google() | {name: np.zeros(shape)})
    assert said in refused(file)


def test_a_position_for_a_class_token_that_is_missing(tmp_path):
    arrays = files.google()
    del arrays["cls"]
    assert "no class token" in refused(files.save(tmp_path / "x.npz", arrays))
