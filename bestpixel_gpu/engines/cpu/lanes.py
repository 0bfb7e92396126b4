"""Several samples at once, said in vectors.

LLVM makes vectors of plain loops, too, but what these leave over it takes sample by sample, and most
runs of pixels are shorter than what it takes at once. Here the last vector of a run overlaps the one
before: samples are painted twice rather than one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from bestpixel_gpu.engines.contract import NODATA
from bestpixel_gpu.engines.cpu.jit import inlined, int64
from bestpixel_gpu.engines.cpu.native import intrinsic, moved
from bestpixel_gpu.engines.cpu.sample import Rule, finish, is_valid
from bestpixel_gpu.engines.fixed_point import LARGEST_VALUE

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_NODATA = np.uint16(NODATA)


@inlined
def paint_run(source: Any, rule: Rule, out: Any, size: int) -> int:
    """Paint neighbouring samples, return how many became nodata."""
    failed: int = int64(0)
    if size < 4 or not rule.narrow:
        for i in range(size):
            value = int64(source[i])
            painted = np.uint16(finish(value, rule)) if is_valid(value, rule) else _NODATA
            out[i] = painted
            failed += painted == _NODATA
    elif size < 8:
        failed += _paint_4(source, out, rule, 0)
        failed += _paint_4(moved(source, size - 4), moved(out, size - 4), rule, 8 - size)
    elif size < 16:
        failed += _paint_8(source, out, rule, 0)
        failed += _paint_8(moved(source, size - 8), moved(out, size - 8), rule, 16 - size)
    else:
        at, last = 0, size - 16
        while at < last:
            failed += _paint_16(moved(source, at), moved(out, at), rule, 0)
            at += 16
        failed += _paint_16(moved(source, last), moved(out, last), rule, at - last)
    return failed


def _painting(lanes: int) -> Any:
    """A function that paints so many samples, and counts those that became nodata.

    The first `skip` are not counted. The rule is narrow.
    """
    wide = ir.VectorType(_I32, lanes)

    def paint(typing: Any, source: Any, target: Any, rule: Any, skip: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            values = _load(builder, args[0], source.dtype, wide)
            valid = _valid(builder, values, args[2], rule)
            painted = _scaled(builder, values, args[2], rule)
            _store(builder, builder.select(valid, painted, ir.Constant(wide, [NODATA] * lanes)), args[1])
            bad = builder.bitcast(builder.not_(valid), ir.IntType(lanes))
            return builder.ctpop(builder.lshr(builder.zext(bad, _I64), args[3]))

        return types.int64(source, target, rule, types.int64), generate

    return intrinsic(paint)


def _load(builder: Any, pointer: Any, dtype: Any, wide: Any) -> Any:
    """Samples at a pointer as 32-bit integers."""
    stored = ir.VectorType(ir.IntType(dtype.bitwidth), wide.count)
    values = builder.load(builder.bitcast(pointer, stored.as_pointer()))
    values.align = dtype.bitwidth // 8
    return (builder.sext if dtype.signed else builder.zext)(values, wide) if stored != wide else values


def _store(builder: Any, values: Any, pointer: Any) -> None:
    """Write painted values."""
    narrow = builder.trunc(values, ir.VectorType(_I16, values.type.count))
    builder.store(narrow, builder.bitcast(pointer, narrow.type.as_pointer())).align = 2


def _valid(builder: Any, values: Any, rule: Any, kind: Any) -> Any:
    """:func:`~bestpixel_gpu.engines.cpu.sample.is_valid`."""
    lo, hi, nodata = (_splat(builder, rule, kind, field, values.type) for field in ("lo", "hi", "nodata"))
    inside = builder.and_(builder.icmp_signed(">=", values, lo), builder.icmp_signed("<=", values, hi))
    return builder.and_(inside, builder.icmp_signed("!=", values, nodata))


def _scaled(builder: Any, values: Any, rule: Any, kind: Any) -> Any:
    """:func:`~bestpixel_gpu.engines.cpu.sample.scale`."""
    mul, add = (_splat(builder, rule, kind, field, values.type) for field in ("mul", "add"))
    values = builder.add(builder.mul(values, mul), add)
    for sign, bound in ((">", 0), ("<", LARGEST_VALUE)):
        bounds = ir.Constant(values.type, [bound] * values.type.count)
        values = builder.select(builder.icmp_signed(sign, values, bounds), values, bounds)
    return values


def _splat(builder: Any, rule: Any, kind: Any, field: str, wide: Any) -> Any:
    """A field of a rule in every lane."""
    scalar = builder.trunc(builder.extract_value(rule, kind.fields.index(field)), wide.element)
    zeros, first = ir.Constant(wide, None), ir.Constant(ir.VectorType(_I32, wide.count), None)
    return builder.shuffle_vector(builder.insert_element(zeros, scalar, _I32(0)), zeros, first)


_paint_4, _paint_8, _paint_16 = _painting(4), _painting(8), _painting(16)
