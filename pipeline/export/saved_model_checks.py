"""Checks the graph of an untrusted SavedModel before TensorFlow loads it.

A SavedModel is a program: its operations may read and write any file of the user, some of them
during loading. The graph is therefore read as data. Every reachable operation must be one that our
exports use, and everything that predictions do not need is removed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorflow.core.protobuf import saved_model_pb2

from pipeline.errors import SettingsError
from pipeline.export.exported import untrusted_error
from pipeline.export.operations import SAVED_MODEL
from pipeline.storage.read import read_file, reason

_GRAPH, _VARIABLES = "saved_model.pb", "variables"
# The graph of L/16 has 9 MB.
_MAX_GRAPH_BYTES = 256 * 2**20
# Limit of elements in a constant, such as class names or fixed positions.
_MAX_CONSTANT_SIZE = 2**24

_OBJECTS = {"captured_tensor", "constant", "user_object", "variable", "bare_concrete_function"}
_USER_OBJECTS = {"_generic_user_object", "trackable_list_wrapper", "signature_map"}
_CLASSES = {"", "tf.TrackableConstant"}
# Process-wide settings stored in the graph, which TensorFlow would apply.
_PROCESS_SETTINGS = ("config_proto", "config", "executor_type")


@contextmanager
def checked_copy(path: Path) -> Iterator[str]:
    """Creates a temporary folder with the checked graph and a link to the variables.

    Raises:
      SettingsError: The graph is damaged, or has contents that our exports do not have.
    """
    try:
        content = read_file(path / _GRAPH, limit_bytes=_MAX_GRAPH_BYTES)
        for file in (path / _VARIABLES).iterdir():
            if not file.is_file():
                raise SettingsError(f"{file} is not a regular file. Export the run again")
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {reason(error)}") from None
    graph = checked_graph(content, str(path))
    with TemporaryDirectory(prefix="vit-export-") as folder:
        (Path(folder) / _GRAPH).write_bytes(graph)
        (Path(folder) / _VARIABLES).symlink_to((path / _VARIABLES).resolve())
        yield folder


def checked_graph(content: bytes, where: str) -> bytes:
    """Checks a graph and removes what predictions do not need.

    Args:
      content: Contents of saved_model.pb.
      where: The export, for error messages.

    Raises:
      SettingsError: See `checked_copy`.
    """
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise SettingsError(f"{where} is damaged: {error}. Export the run again") from None
    if len(model.meta_graphs) != 1 or not model.meta_graphs[0].HasField("object_graph_def"):
        raise untrusted_error(where, "a graph of TensorFlow 1, or several graphs")
    meta = model.meta_graphs[0]
    for field in ("saver_def", "collection_def", "signature_def", "asset_file_def"):
        meta.ClearField(field)
    library = meta.graph_def.library
    functions = {function.signature.name: function for function in library.function}
    if len(functions) != len(library.function):
        raise untrusted_error(where, "two functions with the same name")
    used = _reachable(functions, meta.object_graph_def.concrete_functions, where)
    for name in used:
        _check_nodes(functions[name].node_def, where)
    # Functions that save and restore variables take file names. TensorFlow's loader has its own.
    kept = [functions[name] for name in sorted(used)]
    gradients = [one for one in library.registered_gradients if one.gradient_func in used]
    constants = [node for node in meta.graph_def.node if node.op == "Const"]
    _check_nodes(constants, where)
    _check_objects(meta.object_graph_def, where)
    meta.graph_def.ClearField("node")
    meta.graph_def.node.extend(constants)
    meta.graph_def.ClearField("library")
    meta.graph_def.library.function.extend(kept)
    meta.graph_def.library.registered_gradients.extend(gradients)
    return bytes(model.SerializeToString())


def _check_objects(graph: Any, where: str) -> None:
    for node in graph.nodes:
        kind = node.WhichOneof("kind")
        if kind not in _OBJECTS:
            raise untrusted_error(where, f"an object of the kind {kind}")
        if kind == "user_object" and node.user_object.identifier not in _USER_OBJECTS:
            raise untrusted_error(where, f"an object {node.user_object.identifier!r:.100}")
        if node.registered_name not in _CLASSES or node.registered_saver or node.saveable_objects:
            raise untrusted_error(where, f"an object of the class {node.registered_name!r:.100}")
        if kind == "variable" and node.variable.dtype not in _floats():
            raise untrusted_error(where, "a variable that is not floating-point")


def _floats() -> tuple[int, ...]:
    return tuple(kind.as_datatype_enum for kind in (tf.float16, tf.bfloat16, tf.float32))


def _reachable(functions: dict[str, Any], roots: Iterable[str], where: str) -> set[str]:
    """The functions that may be called by the loader or by another function."""
    waiting, found = list(roots), set[str]()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        if name not in functions:
            raise untrusted_error(where, f"a call of {name!r:.100}")
        found.add(name)
        for node in functions[name].node_def:
            waiting += [node.op] if node.op in functions else []
            waiting += [one for value in node.attr.values() for one in _called_functions(value)]
    return found


def _called_functions(value: Any) -> Iterator[str]:
    """The functions that an attribute names, including those passed on to other functions."""
    for function in (value.func, *value.list.func):
        if function.name:
            yield function.name
        for inner in function.attr.values():
            yield from _called_functions(inner)


def _check_nodes(nodes: Iterable[Any], where: str) -> None:
    for node in nodes:
        if node.op not in SAVED_MODEL:
            raise untrusted_error(where, f"the operation {node.op!r:.100}")
        for name in _PROCESS_SETTINGS:
            node.attr.pop(name, None)
        for value in node.attr.values():
            for tensor in (value.tensor, *value.list.tensor):
                sizes = [dim.size for dim in tensor.tensor_shape.dim]
                if min(sizes, default=0) < 0 or math.prod(sizes) > _MAX_CONSTANT_SIZE:
                    raise untrusted_error(where, f"a constant of shape {sizes!s:.100}")
