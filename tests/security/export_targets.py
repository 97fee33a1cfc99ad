"""What is checked of an export before TensorFlow, Keras or onnxruntime loads it."""

import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.export.formats import FORMATS
from pipeline.export.keras_checks import checked_copy
from pipeline.export.onnx_checks import read_checked
from pipeline.export.saved_model_checks import checked_graph
from tests.export import architectures as cases
from tests.security.targets import Target, empty_folder


def saved_model(content: bytes) -> None:
    """saved_model.pb."""
    with suppress(PipelineError):
        checked_graph(content, "export")


def keras_file(content: bytes) -> None:
    """A .keras file."""
    file = empty_folder() / "export.keras"
    file.write_bytes(content)
    with suppress(PipelineError), checked_copy(file, ".keras"):
        pass


def onnx_file(content: bytes) -> None:
    """An .onnx file."""
    file = empty_folder() / "export.onnx"
    file.write_bytes(content)
    with suppress(PipelineError):
        read_checked(file)


def _export(name: str, suffix: str, member: str) -> list[bytes]:
    arch = cases.ARCHITECTURES["token"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"export{suffix}"
        FORMATS[name].write(cases.random_model(arch), cases.metadata_of(arch), path)
        return [(path / member).read_bytes()]


TARGETS = {
    "saved-model": Target(saved_model, partial(_export, "saved_model", "", "saved_model.pb")),
    "keras": Target(keras_file, partial(_export, "keras", ".keras", "")),
    "onnx": Target(onnx_file, partial(_export, "onnx", ".onnx", "")),
}
