"""Operations on 16 neighbouring numbers in memory, which numba compiles to vector instructions.

numba leaves vector instructions to LLVM, which finds some of them in loops over arrays. For short
rows, what it adds around such loops takes more time than the loops. These functions state vector
operations in LLVM's own language, for which it has instructions on every processor. They take
addresses, and do not check them.

numba's cache does not notice a change of this file. Change resample.py as well.

References:
  LLVM Language Reference, https://llvm.org/docs/LangRef.html, `shufflevector`, `llvm.umul.fix`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16

_ADDRESS, _WEIGHT = numba.types.intp, numba.uint16
_WORD, _INDEX = ir.IntType(16), ir.IntType(32)
_WORDS = ir.VectorType(_WORD, LANES)


def _vector(bits: int) -> Any:
    return ir.VectorType(ir.IntType(bits), LANES)


def _indices(places: Sequence[int]) -> Any:
    return ir.Constant(ir.VectorType(_INDEX, LANES), list(places))


def _load(builder: Any, address: Any, kind: Any) -> Any:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = 1
    return value


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 1


def _weighted_sum(bits: int, adds: bool) -> Callable[..., None]:
    """Returns a function that sums four vectors with weights.

    The function takes the addresses of four vectors of pixels with this many bits, four weights
    uint16, and the address of the sums, uint16. Each product is divided by 65,536. Pixels of 8 bits
    are multiplied by 256 before. With `adds`, the function adds to the sums.
    """

    @intrinsic
    def weighted_sum(_, a, b, c, d, weight_a, weight_b, weight_c, weight_d, sums):  # type: ignore[no-untyped-def]
        signature = numba.void(*[_ADDRESS] * 4, *[_WEIGHT] * 4, _ADDRESS)

        def generate(context, builder, _, arguments):  # type: ignore[no-untyped-def]
            kind = ir.FunctionType(_WORDS, [_WORDS, _WORDS, _INDEX])
            name = f"llvm.umul.fix.v{LANES}i16"
            product = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
            undefined = ir.Constant(_WORDS, ir.Undefined)
            total = _load(builder, arguments[8], _WORDS) if adds else None
            for address, weight in zip(arguments[:4], arguments[4:8], strict=True):
                pixels = _load(builder, address, _vector(bits))
                if bits == 8:
                    pixels = builder.zext(pixels, _WORDS)
                    pixels = builder.shl(pixels, ir.Constant(_WORDS, [8] * LANES))
                first = builder.insert_element(undefined, weight, ir.Constant(_INDEX, 0))
                weights = builder.shuffle_vector(first, undefined, _indices([0] * LANES))
                part = builder.call(product, [pixels, weights, ir.Constant(_INDEX, 16)])
                total = part if total is None else builder.add(total, part)
            _store(builder, total, arguments[8])
            return context.get_dummy_value()

        return signature, generate

    return weighted_sum


sum_bytes, add_bytes = _weighted_sum(8, False), _weighted_sum(8, True)
sum_words, add_words = _weighted_sum(16, False), _weighted_sum(16, True)


def _transpose(bits: int) -> Callable[..., None]:
    """Returns a function that transposes a matrix of 16 x 16 numbers with this many bits.

    The function takes the address of the matrix and the distance of its rows in bytes, and both of
    the result.
    """

    @intrinsic
    def transpose(_, matrix, distance, result, result_distance):  # type: ignore[no-untyped-def]
        def generate(context, builder, _, arguments):  # type: ignore[no-untyped-def]
            places = range(LANES)
            start, step, end, end_step = arguments

            def row(first: Any, distance: Any, number: int) -> Any:
                return builder.add(first, builder.mul(distance, ir.Constant(start.type, number)))

            rows = [_load(builder, row(start, step, n), _vector(bits)) for n in places]
            # Exchange the off-diagonal halves, then those of each quarter, and so on.
            for half in (8, 4, 2, 1):
                upper = _indices([LANES + n - half if n & half else n for n in places])
                lower = _indices([LANES + n if n & half else n + half for n in places])
                for n in places:
                    if not n & half:
                        pair = rows[n], rows[n + half]
                        rows[n] = builder.shuffle_vector(*pair, upper)
                        rows[n + half] = builder.shuffle_vector(*pair, lower)
            for n in places:
                _store(builder, rows[n], row(end, end_step, n))
            return context.get_dummy_value()

        return numba.void(*[_ADDRESS] * 4), generate

    return transpose


transpose_bytes, transpose_words = _transpose(8), _transpose(16)
