"""The lists of allowed operations and classes equal those in written exports."""

import itertools
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
    # Which operations resize does not depend on the network: each network has one of the four ways.
    for arch, (resize, antialias) in zip(
        cases.ARCHITECTURES, itertools.cycle(RESIZES), strict=False
    ):
        model = cases.random_model(cases.ARCHITECTURES[arch])
        FORMATS["saved_model"].write(
            model, metadata_of(model.arch, resize, antialias), tmp_path / arch
        )
        found |= operations_of_saved_model(tmp_path / arch)
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


def test_keras_files_have_the_classes_of_the_list(written):
    found = set()
    for arch in cases.ARCHITECTURES:
        _, path = written("keras", arch)
        with zipfile.ZipFile(path) as archive:
            found |= classes_in(json.loads(archive.read("config.json")))
    assert found == operations.KERAS


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_files_have_the_operations_of_the_list(written):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("tf2onnx")
    found = set()
    for arch in cases.ARCHITECTURES:
        _, path = written("onnx", arch)
        found |= {node.op_type for node in onnx.load(path).graph.node}
    assert found == operations.ONNX
