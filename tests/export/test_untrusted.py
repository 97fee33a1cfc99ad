"""Exports with untrusted programs are rejected before they run."""

import io
import json
import shutil
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf

from jobs.cli import main
from pipeline.errors import SettingsError
from pipeline.export.formats import FORMATS, load_export
from tests.export import architectures as cases

ARCH = cases.ARCHITECTURES["token"]


@pytest.fixture(scope="module")
def exports(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("exports")
    shutil.copytree(written("saved_model", "token")[1], folder / "saved_model")
    shutil.copy(written("keras", "token")[1], folder / "a.keras")
    return folder


class Thief(tf.Module):
    """A module that predicts like an export, and copies a file of the user."""

    def __init__(self, source, target):
        super().__init__()
        self.copy = lambda: tf.io.write_file(str(target), tf.io.read_file(str(source)))

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.uint8, "pixels")])
    def pixels(self, pixels):
        with tf.control_dependencies([self.copy()]):
            return {"probabilities": tf.ones([tf.shape(pixels)[0], 3]) / 3}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "images")])
    def images(self, images):
        return {"probabilities": tf.ones([tf.size(images), 3]) / 3}


def save_thief(path, source, target):
    thief = Thief(source, target)
    signatures = {"pixels": thief.pixels, "serving_default": thief.images}
    tf.saved_model.save(thief, str(path), signatures=signatures)
    (path / "assets.extra").mkdir()
    (path / "assets.extra/export.json").write_text(cases.metadata_of(ARCH).to_json())


def test_a_saved_model_that_copies_a_file_is_not_run(tmp_path, capsys):
    secret, stolen, path = tmp_path / "secret", tmp_path / "stolen", tmp_path / "export"
    secret.write_text("secret")
    save_thief(path, secret, stolen)
    # Else the test would say nothing: TensorFlow itself runs it.
    tf.saved_model.load(str(path)).signatures["pixels"](pixels=tf.zeros([1, 8, 8, 3], tf.uint8))
    assert stolen.read_text() == "secret"
    stolen.unlink()
    with pytest.raises(
        SettingsError, match=r"the operation '(Read|Write)File', which exports of this"
    ):
        load_export(path)
    assert main(["predict", str(path), str(secret)]) == 2
    assert "which exports of this version never contain" in capsys.readouterr().err
    assert not stolen.exists()


def change_graph(path, change):
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    change(model.meta_graphs[0])
    file.write_bytes(model.SerializeToString())


def _add_node(meta, op):
    names = [n for n in meta.object_graph_def.concrete_functions if "signature_wrapper" in n]
    function = next(f for f in meta.graph_def.library.function if f.signature.name == names[0])
    return function.node_def.add(name="added", op=op)


def _saving(meta):
    return next(f for f in meta.graph_def.library.function if "traced_save" in f.signature.name)


def _call_function(meta):
    call = _add_node(meta, "StatefulPartitionedCall").attr["f"].func
    call.name = _saving(meta).signature.name


def _call_through_a_function(meta):
    call = _add_node(meta, "StatefulPartitionedCall").attr["f"].func
    call.name = next(n for n in meta.object_graph_def.concrete_functions)
    call.attr["inner"].func.name = _saving(meta).signature.name


def _huge_constant(meta):
    tensor = _add_node(meta, "Const").attr["value"].tensor
    tensor.dtype = tf.float32.as_datatype_enum
    tensor.tensor_shape.dim.add(size=2**40)
    tensor.float_val.append(1.0)


def _asset(meta):
    meta.object_graph_def.nodes.add().asset.asset_file_def_index = 0


def _registered(meta):
    meta.object_graph_def.nodes[0].registered_name = "Custom>Layer"


def _resource(meta):
    meta.object_graph_def.nodes.add().resource.device = ""


def _saver(meta):
    node = meta.object_graph_def.nodes[3]
    node.saveable_objects["x"].save_function = 0


ATTACKS = {
    "an operation": (lambda meta: _add_node(meta, "ReadFile"), "the operation 'ReadFile'"),
    "Python": (lambda meta: _add_node(meta, "EagerPyFunc"), "the operation 'EagerPyFunc'"),
    "the function that saves": (_call_function, "the operation '"),
    "a function given to a function": (_call_through_a_function, "the operation '"),
    "an operation called as a function": (
        lambda meta: _add_node(meta, "PartitionedCall").attr["f"].func.MergeFromString(
            b"\x0a\x08ReadFile"
        ),
        "a call of 'ReadFile'",
    ),
    "a constant of a terabyte": (_huge_constant, "a constant of"),
    "an asset": (_asset, "an object of the kind asset"),
    "a class": (_registered, "an object of the class 'Custom>Layer'"),
    "a resource": (_resource, "an object of the kind resource"),
    "a saver": (_saver, "an object of the class"),
    "TensorFlow 1": (lambda meta: meta.ClearField("object_graph_def"), "a graph of TensorFlow 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_a_saved_model_with_something_else_than_an_export_has_is_refused(name, exports, tmp_path):
    change, message = ATTACKS[name]
    path = shutil.copytree(exports / "saved_model", tmp_path / "export")
    change_graph(path, change)
    with pytest.raises(SettingsError, match=message):
        load_export(path)


def test_other_files_of_a_saved_model_are_not_loaded(exports, tmp_path):
    path = shutil.copytree(exports / "saved_model", tmp_path / "export")
    # TensorFlow would prefer the first one to saved_model.pb.
    (path / "saved_model.cpb").write_bytes(b"another graph")
    (path / "fingerprint.pb").write_bytes(b"damaged")
    assert load_export(path).predict(cases.random_pixels()).shape == (5, 3)


def test_a_damaged_saved_model_is_one_error(exports, tmp_path):
    path = shutil.copytree(exports / "saved_model", tmp_path / "export")
    (path / "variables/variables.data-00000-of-00001").write_bytes(b"")
    with pytest.raises(SettingsError, match="is damaged"):
        load_export(path)
    (path / "saved_model.pb").write_bytes(b"\xff" * 100)
    with pytest.raises(SettingsError, match="is damaged"):
        load_export(path)


def rewrite(source, target, **changes):
    """Copies a Keras file with other members; None removes one."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, change in changes.items():
        members[name] = change(members.get(name))
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def with_class(**entry):
    """Replaces the class of the last layer."""

    def change(content):
        config = json.loads(content)
        config["config"]["layers"][-1] |= entry
        return json.dumps(config)

    return change


def with_activation(content):
    config = json.loads(content)
    dense = next(la for la in config["config"]["layers"] if la["class_name"] == "Dense")
    dense["config"]["activation"] = {
        "class_name": "function", "module": "builtins", "config": "exec",
        "registered_name": "function",
    }  # fmt: skip
    return json.dumps(config)


CLASSES = {
    "a Lambda": with_class(class_name="Lambda"),
    "a SavedModel as a layer": with_class(class_name="TFSMLayer"),
    "a module of PyTorch": with_class(class_name="TorchModuleWrapper"),
    "a download": with_class(module="keras.utils", class_name="get_file"),
    "a function of the system": with_class(module="os", class_name="system"),
    "a registered name": with_class(registered_name="Custom>Layer"),
    "a module that is no text": with_class(module=["keras.layers"]),
    "a function in an argument": with_activation,
    "nesting without end": lambda content: '{"a":' * 50_000,
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_keras_file_with_other_classes_than_an_export_is_refused(name, exports, tmp_path):
    path = rewrite(exports / "a.keras", tmp_path / "a.keras", **{"config.json": CLASSES[name]})
    with pytest.raises(
        SettingsError, match=r"contains the class .*, which exports|nested too deeply"
    ):
        load_export(path)


def _change_weights(change):
    def changed(content):
        stream = io.BytesIO(content)
        with h5py.File(stream, "r+") as file:
            change(file)
        return stream.getvalue()

    return changed


def _replace_weights(file, make):
    """Replaces the first weight by the result of `make`."""
    names = []
    file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    shape = file[names[0]].shape
    del file[names[0]]
    make(file, names[0], shape)


def _virtual(file, name, shape):
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource("/etc/passwd", "x", shape)
    file.create_virtual_dataset(name, layout)


WEIGHTS = {
    "an external link": lambda f, name, shape: f.__setitem__(
        name, h5py.ExternalLink("/etc/passwd", "/x")
    ),
    "a soft link": lambda f, name, shape: f.__setitem__(name, h5py.SoftLink("/layers")),
    "numbers in another file": lambda f, name, shape: f.create_dataset(
        name, shape, "f4", external=[("/etc/passwd", 0, 4 * int(np.prod(shape)))]
    ),
    "numbers of another data set": _virtual,
    "terabytes in no bytes": lambda f, name, shape: f.create_dataset(
        name, (2**20, 2**20), "f4", chunks=(2**10, 2**10), fillvalue=1.0
    ),
    "terabytes that are not written": lambda f, name, shape: f.create_dataset(
        name, (2**20, 2**20), "f4"
    ),
    "a loop": lambda f, name, shape: f.__setitem__(name, f["/"]),
    "texts": lambda f, name, shape: f.create_dataset(name, data="text"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_a_keras_file_are_in_that_file(name, exports, tmp_path):
    change = _change_weights(lambda file: _replace_weights(file, WEIGHTS[name]))
    path = rewrite(exports / "a.keras", tmp_path / "a.keras", **{"model.weights.h5": change})
    with pytest.raises(SettingsError, match=r"weights .*, which exports|weights than its file"):
        load_export(path)


def test_unknown_or_compressed_members_of_a_keras_file_are_rejected(exports, tmp_path):
    path = rewrite(
        exports / "a.keras", tmp_path / "a.keras", **{"assets/../../x": lambda content: b""}
    )
    with pytest.raises(SettingsError, match="contains the members"):
        load_export(path)
    path = tmp_path / "b.keras"
    with (
        zipfile.ZipFile(exports / "a.keras") as archive,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    with pytest.raises(SettingsError, match="compressed members"):
        load_export(path)


def test_an_untouched_keras_file_is_read(exports, tmp_path):
    path = rewrite(exports / "a.keras", tmp_path / "a.keras")
    np.testing.assert_array_equal(
        load_export(path).predict(cases.random_pixels()),
        load_export(exports / "a.keras").predict(cases.random_pixels()),
    )


def onnx_file(path, change):
    """A small ONNX file with an allowed operation, after `change`."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    kind = onnx.TensorProto.FLOAT
    value = [helper.make_tensor_value_info("pixels", kind, [1])]
    weight = numpy_helper.from_array(np.ones(1, np.float32), "w")
    node = helper.make_node("Add", ["pixels", "w"], ["probabilities"])
    output = [helper.make_tensor_value_info("probabilities", kind, [1])]
    model = helper.make_model(helper.make_graph([node], "g", value, output, [weight]))
    change(model, onnx)
    path.write_bytes(model.SerializeToString())
    return path


def _external(model, onnx):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")


def _subgraph(model, onnx):
    graph = onnx.helper.make_graph([], "inner", [], [])
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("body", graph))


ONNX = {
    "nothing else": (lambda model, onnx: None, "does not say its classes"),
    "weights in another file": (_external, "weights in another file"),
    "another operation": (
        lambda model, onnx: setattr(model.graph.node[0], "op_type", "Loop"), "the operation 'Loop'"
    ),
    "another library": (
        lambda model, onnx: setattr(model.graph.node[0], "domain", "com.evil"), "com.evil"
    ),
    "a graph within": (_subgraph, "a graph within"),
    "a function": (
        lambda model, onnx: model.functions.add(name="Add", domain=""), "functions, training"
    ),
    "terabytes": (
        lambda model, onnx: model.graph.initializer[0].dims.__setitem__(0, 2**40), "more weights"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ONNX)
def test_an_onnx_file_with_something_else_than_an_export_has_is_refused(name, tmp_path):
    pytest.importorskip("onnxruntime")
    change, message = ONNX[name]
    with pytest.raises(SettingsError, match=message):
        load_export(onnx_file(tmp_path / "a.onnx", change))


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 10**9), ("depth", 10**9), ("patch_size", 0), ("width", -16), ("mlp_dim", 25)],
)
def test_a_network_of_another_size_than_its_weights_is_not_built(field, value, tmp_path):
    FORMATS["safetensors"].write(
        cases.random_model(ARCH), cases.metadata_of(ARCH), tmp_path / "out"
    )
    config = tmp_path / "out/config.json"
    told = json.loads(config.read_text())
    told["architecture"][field] = value
    config.write_text(json.dumps(told))
    with pytest.raises(SettingsError, match=r"does not match model\.safetensors"):
        load_export(tmp_path / "out")
