"""The lists of allowed operations and classes equal those in written exports."""

import json
import zipfile

import pytest

from pipeline.export import operations
from pipeline.export.formats import FORMATS
from tests.export import architectures as cases

# With and without smoothing, cut out and whole: each has operations of its own.
RESIZES = [("squash", True), ("squash", False), ("crop", True), ("none", True)]


def metadata_of(arch, resize, antialias):
    metadata = cases.metadata_of(arch)
    changed = metadata.preprocessing.model_copy(update={"resize": resize, "antialias": antialias})
    return metadata.model_copy(update={"preprocessing": changed})


def operations_of_saved_model(path):
    """The operations of all functions except those that save and restore variables."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    functions = model.meta_graphs[0].graph_def.library.function
    return {
        node.op
        for function in functions
        if "__inference__traced_" not in function.signature.name
        for node in function.node_def
    }


def test_saved_models_have_the_operations_of_the_list(tmp_path):
    found = set()
    for number, arch in enumerate(cases.ARCHITECTURES.values()):
        model = cases.random_model(arch)
        for resize, antialias in RESIZES if number == 0 else RESIZES[:1]:
            path = tmp_path / f"{number}-{resize}-{antialias}"
            FORMATS["saved_model"].write(model, metadata_of(arch, resize, antialias), path)
            found |= operations_of_saved_model(path)
    assert found == operations.SAVED_MODEL


def test_no_operation_uses_files_or_python():
    for name in operations.SAVED_MODEL | operations.ONNX:
        assert not any(
            word in name for word in ("File", "Save", "Restore", "Py", "Dataset", "Table")
        )


def classes_in(value):
    if isinstance(value, list):
        return set().union(*map(classes_in, value))
    if not isinstance(value, dict):
        return set()
    own = {(value.get("module"), value["class_name"])} if "class_name" in value else set()
    return own.union(*map(classes_in, value.values()))


def test_keras_files_have_the_classes_of_the_list(tmp_path):
    found = set()
    for name, arch in cases.ARCHITECTURES.items():
        path = tmp_path / f"{name}.keras"
        FORMATS["keras"].write(cases.random_model(arch), cases.metadata_of(arch), path)
        with zipfile.ZipFile(path) as archive:
            found |= classes_in(json.loads(archive.read("config.json")))
    assert found == operations.KERAS


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_files_have_the_operations_of_the_list(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("tf2onnx")
    found = set()
    for name, arch in cases.ARCHITECTURES.items():
        path = tmp_path / f"{name}.onnx"
        FORMATS["onnx"].write(cases.random_model(arch), cases.metadata_of(arch), path)
        found |= {node.op_type for node in onnx.load(path).graph.node}
    assert found == operations.ONNX
