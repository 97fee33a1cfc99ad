"""The ONNX format: pixels in, probabilities out. It has no JPEG decoder, so it takes no file bytes.

tf2onnx 1.17 converts the graph of TensorFlow 2.21, Keras 3.15 and NumPy 2.4 except for the
operation `Erfc`, which Keras uses for the exact GELU. `pipeline.model.elementwise` uses `Erf`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.data.preprocess import normalize
from pipeline.errors import SettingsError
from pipeline.export.exported import Exported, ExportError, Pixels, Probabilities
from pipeline.export.metadata import ExportMetadata, from_json, missing_metadata
from pipeline.export.onnx_checks import read_checked
from pipeline.export.packages import NEEDED, require
from pipeline.runs.checkpoints.snapshot import read_variables
from pipeline.storage.read import open_file
from pipeline.storage.write import replace_file
from pipeline.strict_json import to_json

OPSET = 18  # December 2022; supported by onnxruntime 1.14 and later
_MODEL_PROTO = b"\x08"  # first byte of an ONNX file: the tag of field 1, ir_version


def write(model: keras.Model, metadata: ExportMetadata, path: Path) -> None:
    """Writes the file: input `pixels` uint8 [batch, S, S, 3], output `probabilities` float32.

    Each field of the metadata is stored as JSON in the metadata of the ONNX file.

    Raises:
      SettingsError: tf2onnx is not installed.
      ExportError: tf2onnx cannot convert the model.
    """
    require(*NEEDED["onnx"])
    import onnx

    proto = _convert(model, metadata)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    stored = metadata.model_dump(mode="json")
    onnx.helper.set_model_props(proto, {name: to_json(fact) for name, fact in stored.items()})
    onnx.checker.check_model(proto, full_check=True)
    replace_file(path, proto.SerializeToString())


def _convert(model: keras.Model, metadata: ExportMetadata) -> Any:
    """Converts the model, including normalization and softmax, to an ONNX ModelProto.

    In the graph that tf2onnx converts, the weights are inputs; they are added afterwards. With
    weights as constants, B/16 took 108 s and 18 GiB on two cores; this way it takes 34 s and 2.7
    GiB.
    """
    import onnx
    import tf2onnx

    given, size = metadata.preprocessing, metadata.preprocessing.image_size
    # Trainable variables come first, as `stateless_call` requires.
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    trained = len(model.trainable_variables)
    names = {f"weight_{i}": v.path for i, v in enumerate(variables)}
    spec = [tf.TensorSpec([None, size, size, 3], tf.uint8, "pixels")]
    spec += [tf.TensorSpec(v.shape, v.dtype, n) for n, v in zip(names, variables, strict=True)]

    def probabilities(pixels: tf.Tensor, *weights: tf.Tensor) -> dict[str, tf.Tensor]:
        normal = normalize(pixels, given.mean, given.std)
        logits, _ = model.stateless_call(
            list(weights[:trained]), list(weights[trained:]), normal, training=False
        )
        return {"probabilities": tf.nn.softmax(logits)}

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)  # it logs each optimization pass
    try:
        proto, _ = tf2onnx.convert.from_function(
            tf.function(probabilities, spec, autograph=False), spec, opset=OPSET
        )
    except Exception as error:  # converters may raise any exception
        raise ExportError(f"tf2onnx cannot convert this model: {error!r}") from error
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    pixels = [value for value in proto.graph.input if value.name not in names]
    del proto.graph.input[:]
    proto.graph.input.extend(pixels)
    arrays = read_variables({v.path: v for v in variables})
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    return proto


def recognizes(path: Path) -> bool:
    """Whether a path is probably an ONNX file. The format has no signature."""
    if not path.is_file():
        return False
    with open_file(path) as stream:
        return stream.read(1) == _MODEL_PROTO


def load(path: Path) -> Exported:
    """Loads a file that `write` wrote, using onnxruntime on the CPU.

    Raises:
      SettingsError: onnx or onnxruntime is not installed, the file is not ONNX, the metadata is
        missing, or it has operations that our exports do not have.
    """
    require("onnx", "onnxruntime")
    import onnxruntime

    content = read_checked(path)
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise SettingsError(f"{path} is not an ONNX file for onnxruntime: {error}") from None
    stored = session.get_modelmeta().custom_metadata_map
    if not ExportMetadata.model_fields.keys() <= stored.keys():
        raise missing_metadata(str(path))
    metadata = ",".join(f'"{name}":{stored[name]}' for name in ExportMetadata.model_fields)

    def predict(pixels: Pixels) -> Probabilities:
        return np.asarray(session.run(["probabilities"], {"pixels": pixels})[0])

    return Exported(from_json(f"{{{metadata}}}", str(path)), predict)
