"""Exports that several tests read."""

import functools

import pytest

from pipeline.export.formats import FORMATS
from tests.export import architectures as cases

_NAMES = {"saved_model": "export", "onnx": "a.onnx", "keras": "a.keras", "safetensors": "weights"}


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Returns the model and the path of an export by format and architecture; not to be changed.

    A test process writes each once: converting one to ONNX takes seconds.
    """

    @functools.cache
    def write(form, arch):
        model = cases.random_model(cases.ARCHITECTURES[arch])
        path = tmp_path_factory.mktemp("export") / _NAMES[form]
        FORMATS[form].write(model, cases.metadata_of(model.arch), path)
        return model, path

    return write
