"""An ONNX file: pixels in, probabilities out. ONNX has no JPEG decoder, so bytes it cannot take.

tf2onnx 1.17 converts the graph of TensorFlow 2.21, Keras 3.15 and NumPy 2.4 but for one operation,
`Erfc`, of which Keras makes its exact GELU; `pipeline.model.elementwise` makes it of `Erf`.
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
from pipeline.export.description import ExportFacts, from_json, no_facts
from pipeline.export.exported import Exported, ExportError, Pixels, Probabilities
from pipeline.export.foreign_onnx import read_checked
from pipeline.export.packages import NEEDED, require
from pipeline.runs.checkpoints.snapshot import read_variables
from pipeline.storage.read import open_file
from pipeline.storage.write import replace_file
from pipeline.strict_json import to_json

OPSET = 18  # of December 2022: read by onnxruntime 1.14 and newer
_MODEL_PROTO = b"\x08"  # how an ONNX file begins: its field 1, the version of the format


def write(model: keras.Model, facts: ExportFacts, path: Path) -> None:
    """Writes the file: input `pixels` uint8 [batch, S, S, 3], output `probabilities` float32.

    Each of the facts is in its metadata under its name, as JSON.

    Raises:
      SettingsError: tf2onnx is not installed.
      ExportError: tf2onnx cannot convert the model.
    """
    require(*NEEDED["onnx"])
    import onnx

    proto = _convert(model, facts)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    told = facts.model_dump(mode="json")
    onnx.helper.set_model_props(proto, {name: to_json(fact) for name, fact in told.items()})
    onnx.checker.check_model(proto, full_check=True)
    replace_file(path, proto.SerializeToString())


def _convert(model: keras.Model, facts: ExportFacts) -> Any:
    """An ONNX ModelProto of the model between normalisation and softmax.

    The weights are inputs of the graph that tf2onnx sees, and are put in afterwards: with them as
    constants B/16 took 108 s and 18 GiB on two cores, so it takes 34 s and 2.7 GiB.
    """
    import onnx
    import tf2onnx

    given, size = facts.preprocessing, facts.preprocessing.image_size
    # What is trained comes first, as `stateless_call` wants them.
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

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)  # it tells of each pass it makes
    try:
        proto, _ = tf2onnx.convert.from_function(
            tf.function(probabilities, spec), spec, opset=OPSET
        )
    except Exception as error:  # its converters raise whatever goes wrong in them
        raise ExportError(f"tf2onnx cannot convert this model: {error!r}") from error
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    pixels = [value for value in proto.graph.input if value.name not in names]
    del proto.graph.input[:]
    proto.graph.input.extend(pixels)
    arrays = read_variables({v.path: v for v in variables})
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    return proto


def recognises(path: Path) -> bool:
    """Whether a path is likely an ONNX file: they have no signature of their own."""
    if not path.is_file():
        return False
    with open_file(path) as stream:
        return stream.read(1) == _MODEL_PROTO


def load(path: Path) -> Exported:
    """Reads what `write` wrote, by onnxruntime, on the CPU.

    Raises:
      SettingsError: onnx or onnxruntime is not installed; the file is no ONNX, says nothing of its
        classes and preprocessing, or has operations that no export has.
    """
    require("onnx", "onnxruntime")
    import onnxruntime

    content = read_checked(path)
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # each of onnxruntime's errors is a class of its own
        raise SettingsError(f"{path} is no ONNX file that onnxruntime reads: {error}") from None
    told = session.get_modelmeta().custom_metadata_map
    if not ExportFacts.model_fields.keys() <= told.keys():
        raise no_facts(str(path))
    facts = ",".join(f'"{name}":{told[name]}' for name in ExportFacts.model_fields)

    def answer(pixels: Pixels) -> Probabilities:
        return np.asarray(session.run(["probabilities"], {"pixels": pixels})[0])

    return Exported(from_json(f"{{{facts}}}", str(path)), answer)
