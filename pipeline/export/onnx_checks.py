"""Checks an untrusted ONNX file before onnxruntime loads it.

An ONNX file may refer to data in other files and to operations in libraries, which are then loaded,
and may declare constants of any size.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pipeline.errors import SettingsError
from pipeline.export.exported import untrusted_error
from pipeline.export.operations import ONNX
from pipeline.storage.read import read_file, reason

_MOST_BYTES = 2**31  # limit of a protocol buffer
_DOMAINS = ("", "ai.onnx")


def read_checked(path: Path) -> bytes:
    """Reads and checks an ONNX file, and removes unknown fields.

    Raises:
      SettingsError: The file is damaged, or has contents that our exports do not have.
    """
    import onnx

    try:
        content = read_file(path, limit_bytes=_MOST_BYTES)
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {reason(error)}") from None
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's exceptions are not typed
        raise SettingsError(f"{path} is not an ONNX file: {error!s:.300}") from None
    size = len(content)
    del content
    model.DiscardUnknownFields()
    _check(model, size, str(path))
    return bytes(model.SerializeToString())


def _check(model: Any, size: int, where: str) -> None:
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise untrusted_error(where, "functions, training or sparse weights")
    _check_nodes(graph, where)
    constants = [*graph.initializer]
    for node in graph.node:
        for attribute in node.attribute:
            constants += [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
    for tensor in constants:
        if tensor.data_location or tensor.external_data:
            raise untrusted_error(where, f"weights in another file, {tensor.name!r:.100}")
        if min(tensor.dims, default=0) < 0 or math.prod(tensor.dims) > size:
            raise untrusted_error(
                where, f"more weights than its file can hold, {tensor.name!r:.100}"
            )


def _check_nodes(graph: Any, where: str) -> None:
    for node in graph.node:
        if node.op_type not in ONNX or node.domain not in _DOMAINS:
            # Names that are not valid UTF-8 are bytes, which cannot be joined to text.
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise untrusted_error(where, f"the operation {name!r:.100}")
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs or attribute.HasField("sparse_tensor"):
                raise untrusted_error(where, "a graph within its graph")
            if attribute.sparse_tensors or attribute.ref_attr_name:
                raise untrusted_error(where, "attributes of other kinds")
