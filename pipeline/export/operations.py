"""The operations and classes that exports use. An export with any other one is not loaded.

`tests/export/test_operations.py` compares these lists with exports of all kinds. None of the
operations reads or writes files, uses the network or calls Python.
"""

from __future__ import annotations

# fmt: off
# TensorFlow operations in the reachable functions of a SavedModel.
SAVED_MODEL = frozenset(
    (
        "Abs", "AddV2", "All", "Any", "ArgMax", "Assert", "BatchMatMulV2", "BiasAdd", "BitwiseOr",
        "BroadcastTo", "Cast", "Ceil", "ConcatV2", "Const", "Conv2D", "Cumsum", "DecodeAndCropJpeg",
        "DecodePaddedRaw", "DecodePng", "EnsureShape", "Equal", "Erf", "Exp", "Fill", "Floor",
        "FloorDiv", "GatherNd", "GatherV2", "Greater", "GreaterEqual", "Identity", "IdentityN",
        "If", "Less", "LessEqual", "LogicalAnd", "LogicalNot", "LogicalOr", "MatMul", "Maximum",
        "Mean", "Min", "Minimum", "Mul", "Neg", "NoOp", "NotEqual", "OnesLike", "Pack", "Pad",
        "PartitionedCall", "Range", "ReadVariableOp", "RealDiv", "Relu", "Reshape", "Round",
        "Rsqrt", "SelectV2", "Shape", "Sigmoid", "Size", "Slice", "Softmax", "Square",
        "StatefulPartitionedCall", "StatelessCase", "StatelessIf", "StatelessWhile", "StridedSlice",
        "StringLength", "Sub", "Substr", "Sum", "Tanh", "TensorListFromTensor", "TensorListGetItem",
        "TensorListReserve", "TensorListSetItem", "TensorListStack", "TensorScatterUpdate", "Tile",
        "Transpose", "Unpack", "Where", "ZerosLike",
    )
)

# Operations in the graph of an ONNX file, domain ai.onnx.
ONNX = frozenset(
    (
        "Add", "Cast", "Concat", "Conv", "Erf", "Expand", "MatMul", "Mul", "Reciprocal",
        "ReduceMean", "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Sqrt", "Squeeze",
        "Sub", "Tanh", "Transpose",
    )
)

# Modules and classes in the config.json of a Keras file.
_CLASSES: dict[str | None, tuple[str, ...]] = {
    None: ("__keras_tensor__", "__slice__"),
    "keras": ("DTypePolicy",),
    "keras.initializers": (
        "GlorotUniform", "Ones", "RandomUniform", "Zeros",
    ),
    "keras.layers": (
        "Conv2D", "Dense", "Embedding", "Flatten", "InputLayer", "LayerNormalization",
        "MultiHeadAttention", "Normalization", "Rescaling", "Reshape", "Softmax",
    ),
    "keras.src.models.functional": ("Functional",),
    "keras.src.ops.nn": ("Gelu", "Relu",),
    "keras.src.ops.numpy": (
        "Add", "Concatenate", "Cumsum", "GetItem", "Mean", "OnesLike", "Subtract", "ZerosLike",
    ),
}
KERAS = frozenset((module, name) for module, names in _CLASSES.items() for name in names)
# fmt: on
