"""`vit pretrained list`, and `vit train` from a published file, as people run them."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline.model.weights.catalog import CATALOG
from tests.jobs.commands import vit
from tests.model.weights import published_files as files

pytestmark = pytest.mark.processes

NETWORK = [f"model.{key}={value}" for key, value in files.MODEL.items()]
TINY = [
    *NETWORK, "model.gelu=tanh", "data.image_size=16", "data.resize=squash",
    "train.max_steps=1", "optim.base_lr=1e-30", "monitor.report=false", "monitor.pictures=false",
]  # fmt: skip


def test_the_list_has_size_source_licence_and_address_of_each():
    said = vit("pretrained", "list").stdout
    for entry in CATALOG:
        assert f"{entry.name} " in said
        assert f"{entry.parameters / 1e6:.1f} M parameters  {entry.licence}  {entry.source}" in said
        assert entry.page in said


def test_the_list_in_json_and_of_one():
    rows = json.loads(vit("pretrained", "list", "--json").stdout)
    assert [row["name"] for row in rows] == [entry.name for entry in CATALOG]
    (row,) = json.loads(vit("pretrained", "list", "hf-vit-b16-224", "--json").stdout)
    assert row["urls"][0].endswith("google/vit-base-patch16-224/resolve/main/model.safetensors")
    assert row["settings"]["model.variant"] == "B/16"


def test_an_unknown_name_is_told_the_known_ones():
    done = vit("pretrained", "list", "b17")
    assert done.returncode == 2
    assert "augreg-b16-384" in done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one step at a rate of nothing, from a file at another resolution."""
    folder = tmp_path_factory.mktemp("pretrained")
    file = files.save(folder / "B_16.npz", files.google(grid=2, classes=1000, pre_logits=7))
    settings = [f"model.pretrained={file}", f"run.dir={folder / 'run'}"]
    return folder, settings, vit("train", "digits", *TINY, "data.normalize=imagenet", *settings)


def test_training_starts_from_the_file_and_says_what_it_took(trained):
    folder, _, done = trained
    assert done.returncode == 0, done.stderr
    for line in (
        f"starting from {folder / 'B_16.npz'} (Google's ViT, ",
        "resampled: vit/position_embedding/positions 2x2 -> 4x4",
        "dropped: head/kernel, head/bias (1,000 classes in the file, 10 here)",
        "left out: pre_logits/kernel, pre_logits/bias",
        "normalized by mean 0.5 0.5 0.5 and deviation 0.5 0.5 0.5, but this recipe uses mean 0.485",
        "data.normalize=half would match",
    ):
        assert line in done.stdout
    weights = load_file(folder / "run/checkpoints/step-00000001/model.safetensors")
    arrays = np.load(folder / "B_16.npz")
    query = arrays["Transformer/encoderblock_1/MultiHeadDotProductAttention_1/query/kernel"]
    np.testing.assert_allclose(
        weights["vit/block_1/attention/query/kernel"].reshape(query.shape), query, rtol=1e-6
    )


def test_the_averages_start_there_too(trained):
    folder, _, _ = trained
    step = folder / "run/checkpoints/step-00000001"
    model, average = (load_file(step / f"{name}.safetensors") for name in ("model", "average"))
    for name, array in average.items():
        np.testing.assert_allclose(array, model[name], rtol=1e-6, atol=1e-9, err_msg=name)


def test_a_file_of_another_network_ends_with_2_and_one_message(trained, tmp_path):
    folder, _, _ = trained
    settings = [f"model.pretrained={folder / 'B_16.npz'}", f"run.dir={tmp_path / 'run'}"]
    done = vit("train", "digits", *TINY, "model.width=24", *settings)
    assert done.returncode == 2
    assert "width: 12 in the file, 24 here" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_doctor_sees_it_beforehand(trained, tmp_path):
    folder, _, _ = trained
    settings = [f"model.pretrained={folder / 'B_16.npz'}", f"run.dir={tmp_path / 'run'}"]
    good = vit("doctor", "digits", *TINY, *settings)
    assert "is Google's ViT and matches the recipe's network" in good.stdout
    bad = vit("doctor", "digits", *TINY, "model.width=24", *settings)
    assert bad.returncode == 2
    assert "width: 12 in the file, 24 here" in bad.stdout
