"""Intrinsics that Python has no word for: pointers, calling C by address, copying, swapping bytes.

Kernels turn their array arguments into pointers where they look at many small pieces: a pointer
is not counted, an array view is, and counting is atomic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numba.extending
from llvmlite import ir
from numba import types
from numba.core import cgutils

_I8 = ir.IntType(8)
_I16 = ir.IntType(16)
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_raw_memcpy: Any = cgutils.raw_memcpy
_alloca: Any = cgutils.alloca_once_value
_for_range: Any = cgutils.for_range
_pointer_to: Any = types.CPointer


def intrinsic(function: Callable[..., Any]) -> Any:
    """A function of kernels that writes its own machine code."""
    return numba.extending.intrinsic(function)


@intrinsic
def call_inflate(
    typing: Any, function: Any, state: Any, source: Any, n_in: Any, target: Any, n_out: Any
) -> Any:
    """``function(state, source, n_in, target, n_out, NULL)``, all addresses and sizes: its result."""
    signature = types.int32(types.int64, types.int64, types.int64, types.int64, types.int64, types.int64)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _I8.as_pointer()
        kind = ir.FunctionType(_I32, [pointer, pointer, _I64, pointer, _I64, pointer])
        fn, state, source, n_in, target, n_out = args
        address = builder.inttoptr(fn, kind.as_pointer())
        null = ir.Constant(pointer, None)
        as_pointer = [builder.inttoptr(a, pointer) for a in (state, source, target)]
        return builder.call(address, [as_pointer[0], as_pointer[1], n_in, as_pointer[2], n_out, null])

    return signature, generate


@intrinsic
def copy_memory(typing: Any, source: Any, target: Any, size: Any) -> Any:
    """Copy `size` bytes between two addresses."""
    signature = types.void(types.int64, types.int64, types.int64)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source, target, size = args
        pointer = _I8.as_pointer()
        _raw_memcpy(builder, builder.inttoptr(target, pointer), builder.inttoptr(source, pointer), size, 1)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def copy_two(typing: Any, source: Any, target: Any) -> Any:
    """Copy two neighbouring elements between pointers of one kind, as one word."""
    signature = types.void(source, source)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = source.dtype.bitwidth
        word = ir.IntType(2 * bits).as_pointer()
        loaded = _loaded(builder, builder.bitcast(args[0], word))
        builder.store(loaded, builder.bitcast(args[1], word)).align = bits // 8
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def swap_bytes(typing: Any, value: Any) -> Any:
    """The unsigned integer with its bytes in the other order."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if sig.args[0].bitwidth == 8 else builder.bswap(args[0])

    return value(value), generate


def _loaded(builder: Any, pointer: Any) -> Any:
    """What lies at a pointer that need not be aligned."""
    value = builder.load(pointer)
    value.align = 1
    return value


@intrinsic
def load_big_endian(typing: Any, address: Any) -> Any:
    """The 8 bytes at any address as a big-endian uint64."""
    signature = types.uint64(types.int64)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bswap(_loaded(builder, builder.inttoptr(args[0], _I64.as_pointer())))

    return signature, generate


@intrinsic
def load_word(typing: Any, address: Any) -> Any:
    """The 8 bytes at any address as a uint64 in the machine's order."""
    signature = types.uint64(types.int64)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _loaded(builder, builder.inttoptr(args[0], _I64.as_pointer()))

    return signature, generate


@intrinsic
def store_word(typing: Any, address: Any, word: Any) -> Any:
    """Write a uint64 to any address in the machine's order."""
    signature = types.void(types.int64, types.uint64)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], _I64.as_pointer())).align = 1
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def load_pair(typing: Any, pointer: Any) -> Any:
    """The 2 bytes at a pointer to bytes as a uint16 in the machine's order."""
    signature = types.uint16(pointer)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _loaded(builder, builder.bitcast(args[0], _I16.as_pointer()))

    return signature, generate


@intrinsic
def store_pair(typing: Any, pointer: Any, pair: Any) -> Any:
    """Write a uint16 to a pointer to bytes in the machine's order."""
    signature = types.void(pointer, types.uint16)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[1], builder.bitcast(args[0], _I16.as_pointer())).align = 1
        return context.get_dummy_value()

    return signature, generate


SUMMED = 32
"""Bytes that :func:`sum_blocks` takes at once."""


@intrinsic
def sum_blocks(typing: Any, source: Any, target: Any, blocks: Any) -> Any:
    """Write the running sums of the unsigned integers in `blocks` times :data:`SUMMED` bytes.

    Returns the last of them. The loop is in here so that what was summed before stays in a vector:
    a block waits for one addition of the block before, not for its way through a scalar.
    """
    lane = source.dtype.bitwidth
    signature = types.uint64(source, target, types.int64)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        size = 8 * SUMMED // lane
        kind = ir.VectorType(ir.IntType(lane), size)
        zeros = ir.Constant(kind, None)
        from_, to = (builder.bitcast(pointer, kind.as_pointer()) for pointer in args[:2])
        before = _alloca(builder, zeros)
        with _for_range(builder, args[2]) as loop:
            sums = builder.load(builder.gep(from_, [loop.index]))
            sums.align = lane // 8
            for moves in _sum_moves(size, 128 // lane):
                sums = builder.add(sums, builder.shuffle_vector(sums, zeros, _lanes(moves)))
            offset = builder.load(before)
            stored = builder.store(builder.add(sums, offset), builder.gep(to, [loop.index]))
            stored.align = lane // 8
            last = builder.shuffle_vector(sums, zeros, _lanes([size - 1] * size))
            builder.store(builder.add(offset, last), before)
        total = builder.extract_element(builder.load(before), _I32(0))
        return builder.zext(total, _I64) if lane < 64 else total

    return signature, generate


def _sum_moves(size: int, near: int) -> Iterator[list[int]]:
    """Which lanes to add to each lane, step by step, to get running sums; lane `size` is 0.

    Each lane gets the sum `step` lanes before it, then twice as far. Processors move lanes cheaply
    within 16 bytes, which hold `near` of them: beyond, the last sum of each part goes to all lanes
    of the part that follows.
    """
    step = 1
    while step < near:
        yield [lane - step if lane % near >= step else size for lane in range(size)]
        step *= 2
    while step < size:
        yield [lane // step * step - 1 if lane // step % 2 else size for lane in range(size)]
        step *= 2


@intrinsic
def look_up_block(typing: Any, source: Any, target: Any, table: Any) -> Any:
    """Write ``table[min(value, 15)]`` of the 16 bytes at a pointer; all three point to bytes.

    Said lane by lane; where the processor has an instruction for it, LLVM finds it.
    """
    signature = types.void(source, target, table)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.VectorType(_I8, 16)
        where = kind.as_pointer()
        values, entries = (_loaded(builder, builder.bitcast(p, where)) for p in (args[0], args[2]))
        last = ir.Constant(kind, [15] * 16)
        values = builder.select(builder.icmp_unsigned("<", values, last), values, last)
        found = ir.Constant(kind, None)
        for lane in range(16):
            at = builder.extract_element(values, _I32(lane))
            found = builder.insert_element(found, builder.extract_element(entries, at), _I32(lane))
        builder.store(found, builder.bitcast(args[1], where)).align = 1
        return context.get_dummy_value()

    return signature, generate


def _lanes(which: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_I32, len(which)), which)


@intrinsic
def changes_of_64(typing: Any, source: Any) -> Any:
    """Bit i of a uint64 is set where elements i and i + 1 at a pointer differ."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.VectorType(ir.IntType(source.dtype.bitwidth), 64).as_pointer()
        here, following = args[0], builder.gep(args[0], [_I64(1)])
        one, other = (_loaded(builder, builder.bitcast(p, kind)) for p in (here, following))
        return builder.bitcast(builder.icmp_unsigned("!=", one, other), _I64)

    return types.uint64(source), generate


@intrinsic
def lowest_bit(typing: Any, word: Any) -> Any:
    """Index of the lowest bit that is set; 64 if none is."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@intrinsic
def start_of(typing: Any, array: Any) -> Any:
    """Pointer to the first element of an array argument, which its caller keeps alive."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.make_array(sig.args[0])(context, builder, args[0]).data

    return _pointer_to(array.dtype)(array), generate


@intrinsic
def moved(typing: Any, pointer: Any, count: Any) -> Any:
    """The pointer `count` elements further on."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.int64), generate


@intrinsic
def prefetch(typing: Any, pointer: Any) -> Any:
    """Ask for the cache line at a pointer, which may point anywhere."""
    signature = types.void(pointer)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        any_pointer = _I8.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [any_pointer, _I32, _I32, _I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", (any_pointer,), kind)
        to_read, keep, data = _I32(0), _I32(3), _I32(1)
        builder.call(function, [builder.bitcast(args[0], any_pointer), to_read, keep, data])
        return context.get_dummy_value()

    return signature, generate
