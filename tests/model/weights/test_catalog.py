"""The table of published checkpoints against the networks."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from pipeline.config import Config, parse_config
from pipeline.errors import SettingsError
from pipeline.model.architecture import architecture
from pipeline.model.cost import parameters
from pipeline.model.weights.catalog import CATALOG
from pipeline.model.weights.files import read_published

EACH = pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.name)


def config_of(entry) -> Config:
    tree = {}
    for key, value in entry.settings.items():
        section, name = key.split(".")
        tree.setdefault(section, {})[name] = yaml.safe_load(str(value))
    return parse_config(tree, entry.name)


@EACH
def test_the_catalog_has_the_parameters_of_the_networks(entry):
    config = config_of(entry)
    arch = architecture(config.model)
    # No head: nothing is added for no classes.
    assert entry.parameters == parameters(arch, config.data.image_size, entry.num_classes)


@EACH
def test_each_url_is_one_file_and_matches_its_row(entry):
    hosts = ("https://storage.googleapis.com/vit_models/", "https://huggingface.co/")
    assert all(url.startswith(hosts) for url in entry.urls)
    assert all(url.endswith((".npz", ".safetensors", ".json")) for url in entry.urls)
    size, patch = entry.variant.split("/")
    words = {"Ti": "tiny", "S": "small", "B": "base", "L": "large"}
    assert re.search(rf"({size}_{patch}|{words[size]}[-_]patch{patch})", entry.path)
    if resolution := re.search(r"res_(\d+)|patch\d+[-_](\d+)", entry.path):
        assert entry.image_size == int(resolution[1] or resolution[2])


def test_names_are_unique():
    names = [entry.name for entry in CATALOG]
    assert len(set(names)) == len(names) >= 12


@EACH
def test_a_catalog_name_as_path_shows_the_download_and_settings(entry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="is the name of a published checkpoint") as caught:
        read_published(Path(entry.name))
    _, command, settings = str(caught.value).splitlines()
    curl, *words = shlex.split(command)
    assert curl == "curl"
    assert [word for word in words if word.startswith("https://")] == list(entry.urls)
    option = "--output" if len(entry.urls) == 1 else "--output-dir"
    assert settings.split()[0] == f"model.pretrained={words[words.index(option) + 1]}"
    assert set(settings.split()[1:]) == {f"{k}={v}" for k, v in entry.settings.items()}


def test_a_similar_name_suggests_the_published_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"Did you mean .* augreg-b16-i21k"):
        read_published(Path("augreg-b16-21k"))
    with pytest.raises(SettingsError, match=r"folder\. `vit train` downloads nothing"):
        read_published(Path("weights/mine.npz"))
