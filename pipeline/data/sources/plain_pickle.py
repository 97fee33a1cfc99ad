"""Reads pickles of plain values and integer arrays without executing any code from them.

Unpickling calls any function that a pickle names, with any arguments. Even if only NumPy's array
and dtype are allowed, a forged dtype makes NumPy interpret bytes of the file as addresses.
Therefore the opcodes, which `pickletools` separates, are interpreted here. The few functions that
pickled arrays need are replaced by constants. An array is built from its bytes after its dtype and
shape have been checked.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

# An opcode takes one byte, and the object it creates up to about 60 (an empty list). The training
# file of CIFAR-100 has 450,000 opcodes.
MOST_OPCODES = 4_000_000

_ARRAY, _DTYPE, _RECONSTRUCT = "ndarray", "dtype", "_reconstruct"
# Python 3 uses these two to write bytes in old pickle protocols.
_BYTES, _ENCODE = "bytes", "encode"
_NAMES = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): _DTYPE,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("_codecs", "encode"): _ENCODE,
    ("__builtin__", "bytes"): _BYTES,
}
_MOST_DIMENSIONS, _LONGEST = 8, 2**40
_INTEGERS = re.compile("[iu][1248]")


class PickleRefused(ValueError):
    """A pickle is damaged, or contains something other than plain values and integer arrays."""


class _Named:
    """A function or type that a pickle may use; one of the values of `_NAMES`."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Dtype:
    """The description of a dtype in a pickle."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "|"


class _Array:
    """The description of an array in a pickle; `values` is set together with its state."""

    def __init__(self) -> None:
        self.values: npt.NDArray[Any] | None = None


_MARK = object()


def read_plain_pickle(content: bytes) -> Any:
    """Returns the value of a pickle: dicts, lists, tuples, text, bytes, numbers, integer arrays.

    A `str` of Python 2 becomes bytes. Arrays are read-only.

    Raises:
      PickleRefused: The pickle is damaged or contains anything else.
    """
    machine = _Machine(len(content))
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if count >= MOST_OPCODES:
                raise PickleRefused(f"it has more than {MOST_OPCODES:,} opcodes")
            machine.step(opcode.name, argument)
        (value,) = machine.stack
        return machine.finished(value)
    except PickleRefused:
        raise
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise PickleRefused(f"it is damaged: {error!r:.200}") from None


class _Machine:
    """The stack and the memo of the pickle machine, as pickletools describes them.

    Args:
      size: Size of the pickle in bytes.
    """

    def __init__(self, size: int) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._to_encode = size

    def step(self, name: str, argument: Any) -> None:
        """Executes one opcode."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(_LITERALS[name](argument))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self._memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            words = argument.split(" ") if name == "GLOBAL" else self._pop(2)
            self.stack.append(_named(*words))
        elif name in _ACTIONS:
            _ACTIONS[name](self)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise PickleRefused(f"refused: plain values do not use its opcode {name}")

    def finished(self, value: Any) -> Any:
        """Returns the value of the pickle, with arrays instead of their descriptions in a dict."""
        if not isinstance(value, dict):
            return value
        return {k: v.values if isinstance(v, _Array) else v for k, v in value.items()}

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise PickleRefused("it is damaged: its stack is empty")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _pop_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise PickleRefused("it is damaged: a mark is missing")
        return self._pop(len(self.stack) - place)[1:]

    def extend(self, values: list[Any]) -> None:
        """Appends values to the list on the stack."""
        if not isinstance(self.stack[-1], list):
            raise PickleRefused("it is damaged: it appends to something other than a list")
        self.stack[-1].extend(values)

    def update(self, values: list[Any]) -> None:
        """Adds alternating keys and values to the dict on the stack."""
        if not isinstance(self.stack[-1], dict):
            raise PickleRefused("it is damaged: it sets an item of something other than a dict")
        self.stack[-1].update(_paired(values))

    def reduce(self) -> None:
        """Calls a function with a tuple of arguments."""
        function, arguments = self._pop(2)
        if not isinstance(function, _Named) or not isinstance(arguments, tuple):
            raise PickleRefused("it is damaged: it calls something other than a function")
        if function.name == _ENCODE and arguments and isinstance(arguments[0], str):
            # The same text can be taken from the memo any number of times.
            self._to_encode -= len(arguments[0])
            if self._to_encode < 0:
                raise PickleRefused("refused: it encodes more text than it contains")
        self.stack.append(_call(function.name, arguments))

    def build(self) -> None:
        """Sets the state of the object on the stack."""
        (state,) = self._pop(1)
        _set_state(self.stack[-1], state)


def _named(module: Any, name: Any) -> _Named:
    if not isinstance(module, str) or not isinstance(name, str):
        raise PickleRefused("it is damaged: a name must be text")
    known = _NAMES.get((module, name))
    if known is None:
        raise PickleRefused(
            f"refused: it asks for {module:.100}.{name:.100}, but a data set needs only integer "
            "arrays and plain types"
        )
    return _Named(known)


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    if name == _ENCODE:
        text, *encoding = arguments
        if encoding in ([], ["latin1"], ["latin-1"]) and isinstance(text, str):
            return text.encode("latin1")
    elif name == _BYTES and not arguments:
        return b""
    elif name == _DTYPE:
        code = arguments[0]
        if isinstance(code, bytes):
            code = code.decode("latin1")
        if isinstance(code, str) and _INTEGERS.fullmatch(code):
            return _Dtype(code)
        kind = f" of the type {code[:20]!r}" if isinstance(code, str) else ""
        raise PickleRefused(f"refused: it has values{kind} that are not integers")
    elif name == _RECONSTRUCT and isinstance(arguments[0], _Named):
        return _Array()
    raise PickleRefused(f"refused: it calls {name} with arguments that are not those of an array")


def _set_state(target: Any, state: Any) -> None:
    if not isinstance(state, tuple):
        raise PickleRefused("it is damaged: a state must be a tuple")
    if isinstance(target, _Dtype):
        # Version, byte order, and fields that only structured types have.
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in ("|", "<", ">") or any(part is not None for part in state[2:5]):
            raise PickleRefused("refused: it has values of a structured type, not integers")
        target.order = order
    elif isinstance(target, _Array):
        _, shape, dtype, is_fortran, content = state
        target.values = _make_array(shape, dtype, is_fortran, content)
    else:
        raise PickleRefused("refused: it sets the state of something else than an array")


def _make_array(shape: Any, dtype: Any, is_fortran: Any, content: Any) -> npt.NDArray[Any]:
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
        raise PickleRefused("refused: it has an array of something other than integers")
    if not _is_shape(shape):
        raise PickleRefused("it is damaged: an array has no valid shape")
    kind = np.dtype(dtype.order + dtype.code)
    if math.prod(shape) * kind.itemsize != len(content):
        raise PickleRefused(
            f"it is damaged: an array of {' x '.join(map(str, shape))} {kind} cannot have "
            f"{len(content):,} bytes"
        )
    return np.frombuffer(content, kind).reshape(shape, order="F" if is_fortran else "C")


def _is_shape(shape: Any) -> bool:
    if not isinstance(shape, tuple) or len(shape) > _MOST_DIMENSIONS:
        return False
    return all(type(n) is int and 0 <= n < _LONGEST for n in shape)


def _paired(values: list[Any]) -> dict[str | bytes | int, Any]:
    # Python hashes nested tuples by recursion in C, without a limit.
    if not all(isinstance(key, (str, bytes, int)) for key in values[::2]):
        raise PickleRefused("refused: a key must be text or a number")
    return dict(zip(values[::2], values[1::2], strict=True))


def _latin1(text: str) -> bytes:
    # pickletools decodes a `str` of Python 2 as latin1.
    return text.encode("latin1")


def _same(value: Any) -> Any:
    return value


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "MARK": lambda: _MARK,
}  # fmt: skip
_LITERALS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _latin1),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _same),
    **dict.fromkeys(("FLOAT", "BINFLOAT"), _same),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _same),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _same),
}
_ACTIONS: dict[str, Callable[[_Machine], None]] = {
    "APPEND": lambda m: m.extend(m._pop(1)),
    "APPENDS": lambda m: m.extend(m._pop_mark()),
    "SETITEM": lambda m: m.update(m._pop(2)),
    "SETITEMS": lambda m: m.update(m._pop_mark()),
    "TUPLE": lambda m: m.stack.append(tuple(m._pop_mark())),
    "TUPLE1": lambda m: m.stack.append(tuple(m._pop(1))),
    "TUPLE2": lambda m: m.stack.append(tuple(m._pop(2))),
    "TUPLE3": lambda m: m.stack.append(tuple(m._pop(3))),
    "LIST": lambda m: m.stack.append(m._pop_mark()),
    "DICT": lambda m: m.stack.append(_paired(m._pop_mark())),
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
