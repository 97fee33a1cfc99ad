"""The predictions of each format against those of the network."""

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from pipeline.errors import SettingsError
from pipeline.export.formats import FORMATS, load_export
from tests.data.decode.test_decoders import encoded, picture
from tests.export import architectures as cases

OF_ONE_ARCHITECTURE = [(form, "token") for form in ("saved_model", "safetensors")]
# These are built anew, or converted operation by operation.
OF_ALL = [(form, arch) for form in ("keras", "onnx") for arch in cases.ARCHITECTURES]

# By Keras alone: no module of this project is on the path.
USE_KERAS = """
import json, sys, zipfile
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
pixels = np.load(sys.argv[2])
classes = json.loads(zipfile.ZipFile(sys.argv[1]).read("export.json"))["classes"]
ours = [m for m in sys.modules if m.split(".")[0] in ("jobs", "pipeline")]
answers = [np.asarray(model.predict(p, verbose=0)).tolist() for p in (pixels, pixels * 1.0)]
print(json.dumps({"ours": ours, "classes": classes, "answers": answers}))
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("form", "arch"), OF_ONE_ARCHITECTURE + OF_ALL)
def test_an_export_predicts_like_its_network(form, arch, written):
    model, path = written(form, arch)
    pixels = cases.random_pixels()
    loaded = load_export(path)
    assert loaded.metadata == cases.metadata_of(cases.ARCHITECTURES[arch])
    for batch in (pixels, pixels[:1]):
        np.testing.assert_allclose(loaded.predict(batch), cases.expected(model, batch), atol=2e-6)
    # Else the test would say nothing: the answers must depend on the image.
    assert np.ptp(loaded.predict(pixels), axis=0).max() > 0.01


REFUSED_BY_SAVED_MODEL = {
    "CMYK JPEG": ("CMYK", "JPEG"), "GIF": ("RGB", "GIF"), "BMP": ("RGB", "BMP"),
    "WebP": ("RGB", "WEBP"), "TIFF": ("RGB", "TIFF"),
}  # fmt: skip


@pytest.fixture(scope="module")
def saved_model(written):
    import tensorflow as tf

    _, path = written("saved_model", "token")
    return tf.saved_model.load(str(path)).signatures["serving_default"]


@pytest.mark.parametrize("kind", REFUSED_BY_SAVED_MODEL)
def test_a_saved_model_rejects_images_that_tensorflow_misreads(kind, saved_model):
    import tensorflow as tf

    mode, form = REFUSED_BY_SAVED_MODEL[kind]
    image = picture(30, 40)
    good, other = encoded(image, "JPEG"), encoded(image.convert(mode), form)
    assert saved_model(images=tf.constant([good, good]))["probabilities"].shape == (2, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"must be a PNG or a JPEG.*\[1\]"):
        saved_model(images=tf.constant([good, other]))


@pytest.mark.processes
def test_keras_reads_its_file_without_this_project(tmp_path, written):
    model, path = written("keras", "token")
    pixels = cases.random_pixels()
    np.save(tmp_path / "pixels.npy", pixels)
    done = subprocess.run(
        [sys.executable, "-I", "-c", USE_KERAS, path, tmp_path / "pixels.npy"],
        cwd=tmp_path, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        text=True, capture_output=True, check=True, timeout=200,
    )  # fmt: skip
    said = json.loads(done.stdout)
    assert (said["ours"], said["classes"]) == ([], list(cases.CLASSES))
    for answer in said["answers"]:  # of uint8 and of float pixels
        np.testing.assert_allclose(answer, cases.expected(model, pixels), atol=2e-6)


def test_an_onnx_file_states_its_opset_batch_classes_and_preprocessing(written):
    import onnx

    _, path = written("onnx", "token")
    proto = onnx.load(path)
    assert [o.version for o in proto.opset_import if not o.domain] == [18]
    (given,), (said,) = proto.graph.input, proto.graph.output
    for value, name, kind, rest in (
        (given, "pixels", onnx.TensorProto.UINT8, [8, 8, 3]),
        (said, "probabilities", onnx.TensorProto.FLOAT, [3]),
    ):
        first, *others = value.type.tensor_type.shape.dim
        assert (value.name, first.dim_param) == (name, "batch")
        assert (value.type.tensor_type.elem_type, [d.dim_value for d in others]) == (kind, rest)
    told = {p.key: json.loads(p.value) for p in proto.metadata_props}
    assert told["classes"] == list(cases.CLASSES)
    assert told["preprocessing"]["mean"] == [0.1, 0.5, 0.7]


def test_safetensors_have_the_names_of_the_variables(tmp_path):
    from safetensors.numpy import load_file

    model = cases.random_model(cases.ARCHITECTURES["token"])
    FORMATS["safetensors"].write(model, cases.metadata_of(model.arch), tmp_path / "out")
    weights = load_file(tmp_path / "out/model.safetensors")
    assert weights.keys() == {v.path for v in model.variables}
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["classes"], config["architecture"]["width"]) == (list(cases.CLASSES), 16)


def _foreign_keras(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")


WRONG = {
    "nothing": ("nothing", lambda path: None, "neither a run folder nor an export"),
    "a text": ("a.txt", lambda path: path.write_text("text"), "neither a run folder nor"),
    "no metadata": ("b.keras", _foreign_keras, "does not say its classes"),
    "no onnx": ("c.onnx", lambda path: path.write_bytes(b"\x08rubbish"), "not an ONNX file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_path_that_is_not_an_export_is_rejected(case, tmp_path):
    name, make, message = WRONG[case]
    make(tmp_path / name)
    with pytest.raises(SettingsError, match=message):
        load_export(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "value"),
    [("resize", "stretch"), ("image_size", -8), ("crop_fraction", 5.0), ("max_pixels", 0)],
)
def test_damaged_metadata_is_reported(name, value, tmp_path):
    model = cases.random_model(cases.ARCHITECTURES["token"])
    FORMATS["safetensors"].write(model, cases.metadata_of(model.arch), tmp_path / "out")
    config = tmp_path / "out/config.json"
    told = json.loads(config.read_text())
    told["preprocessing"][name] = value
    config.write_text(json.dumps(told))
    with pytest.raises(SettingsError, match=rf"config.json .*{name}"):
        load_export(tmp_path / "out")
