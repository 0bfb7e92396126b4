"""Real CuPy on a driver that is not there: imported before CuPy, it answers for the CUDA runtime and driver.

CuPy's memory pools, streams, events, arrays, its compiler, and NVRTC are the real ones. What they ask of CUDA
comes here: device memory is the host's, streams and events are the emulated device's, and a launch runs the
kernel as g++ compiled it, with the bytes that CuPy packed, of which it takes as many as NVRTC's kernel says
it reads. Hence ``python -m pytest -p absent_driver -m gpu`` needs no GPU; it proves nothing of one.

CuPy's modules call each other through tables of C functions (``__pyx_capi__``), read when a module is
imported. Those of the two modules that call CUDA are changed here, and their names in Python with them.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import os
import re
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from ctypes import pythonapi
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cupy_backends.cuda.api import driver, runtime

sys.path.insert(0, str(Path(__file__).resolve().parent))

from emulated_device import CUDA, DROPPED, FRESH, EmulatedDevice, _aligned
from emulator import Kernel, build

DEVICES = 2
CAPABILITY = (9, 0)
TOTAL = 1 << 34
DRIVER = 13000
KPARAM = (0x04, 0x17)
"""Format and attribute of a kernel's parameter in the section ``.nv.info.<kernel>`` of a cubin."""

Function = Callable[..., Any]
device = EmulatedDevice(seed=5)
asked: list[tuple[Any, ...]] = []
"""Every call: the function's name and what it was given."""
_numbers = itertools.count(1 << 20)
_blocks: dict[int, np.ndarray] = {}
_pinned: dict[int, np.ndarray] = {}
_streams: dict[int, Any] = dict.fromkeys((0, 1, 2), device.main)  # the default ones; the engine uses none
_events: dict[int, Any] = {}
_current = threading.local()
_device_of: dict[int, int] = {}
"""Of memory, by its address, and of streams and events."""
_modules: dict[int, dict[str, list[int]]] = {}
_functions: dict[int, tuple[str, list[int]]] = {}

assert "cupy" not in sys.modules, "CuPy has read the tables"
_KINDS = {
    "PyObject *": ctypes.py_object, "int": ctypes.c_int, "unsigned int": ctypes.c_uint,
    "float": ctypes.c_float, "intptr_t": ctypes.c_ssize_t, "size_t": ctypes.c_size_t,
}  # fmt: skip
_capsule_name = pythonapi.PyCapsule_GetName
_capsule_name.restype, _capsule_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
_capsule = pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_ended: list[bool] = []
"""Filled when Python ends: then nothing is answered any more."""
atexit.register(_ended.append, True)


def answers(module: Any) -> Callable[[Function], Function]:
    """Let a function be the module's of that name, for callers in Python and in C."""

    def put(function: Function) -> Function:
        name = function.__name__

        def answer(*given: Any) -> Any:
            try:
                with device.entered():
                    asked.append((name, *given))
                    return function(*given)
            except BaseException:  # it would be lost on its way through C
                traceback.print_exc(file=sys.__stderr__)
                os._exit(70)

        setattr(module, name, answer)
        if name in module.__pyx_capi__:  # some versions call it from Python alone
            module.__pyx_capi__[name] = _capsule_of(answer, _capsule_name(module.__pyx_capi__[name]))
        return function

    return put


def _capsule_of(answer: Function, signature: bytes) -> Any:
    """A function as Cython's modules look for it: named by its C type, its own arguments last."""
    result, listed = re.fullmatch(r"(.+?) ?\((.*)\)", signature.decode()).groups()
    kinds = [k.strip() for k in listed.split(",") if k != "void"]
    own = [_KINDS[k] for k in kinds if "__pyx_" not in k]
    more = [ctypes.c_void_p] * (len(kinds) - len(own))
    to = _KINDS.get(result, ctypes.py_object)
    last = None if to is ctypes.py_object else 0
    wrapped = ctypes.PYFUNCTYPE(to, *own, *more)(
        lambda *given, ended=_ended: last if ended else answer(*given[: len(own)])
    )
    for kept in (wrapped, signature):  # CuPy frees memory after Python has let go of all modules
        pythonapi.Py_IncRef(ctypes.py_object(kept))
    return _capsule(ctypes.cast(wrapped, ctypes.c_void_p), signature, None)


# ---- the runtime


@answers(runtime)
def malloc(size: int) -> int:
    block = _aligned(size, FRESH)
    _blocks[block.ctypes.data] = block
    _device_of[block.ctypes.data] = getDevice()
    return block.ctypes.data


@answers(runtime)
def free(address: int) -> None:
    device.synchronize()  # as cudaFree does
    _blocks.pop(address).fill(DROPPED)


@answers(runtime)
def hostAlloc(size: int, flags: int) -> int:
    block = _aligned(size, FRESH)
    _pinned[block.ctypes.data] = block
    return block.ctypes.data


@answers(runtime)
def freeHost(address: int) -> None:
    _pinned.pop(address).fill(DROPPED)


@answers(runtime)
def memcpyAsync(to: int, source: int, size: int, kind: int, stream: int) -> None:
    given, taken = _bytes(source, size), _bytes(to, size)
    if kind == runtime.memcpyHostToDevice and not _is_pinned(source):
        given = given.copy()
    _streams[stream].add(lambda: np.copyto(taken, given))
    if kind == runtime.memcpyDeviceToHost and not _is_pinned(to):
        _streams[stream].record().wait()


@answers(runtime)
def memsetAsync(to: int, value: int, size: int, stream: int) -> None:
    _streams[stream].add(lambda: _bytes(to, size).fill(value))


@answers(runtime)
def pointerGetMemoryType(address: int) -> int:
    return int(_is_pinned(address))


@answers(runtime)
def pointerGetAttributes(address: int) -> Any:
    index = next((_device_of[a] for a, b in _blocks.items() if a <= address < a + b.size), 0)
    return runtime.PointerAttributes(index, address, address, int(_is_pinned(address)))


@answers(runtime)
def memGetInfo() -> tuple[int, int]:
    return TOTAL - sum(b.size for b in _blocks.values()), TOTAL


@answers(runtime)
def getDevice() -> int:
    return getattr(_current, "index", 0)


@answers(runtime)
def setDevice(index: int) -> None:
    assert 0 <= index < DEVICES
    _current.index = index


@answers(runtime)
def getDeviceCount() -> int:
    return DEVICES


@answers(runtime)
def driverGetVersion() -> int:
    return DRIVER


@answers(runtime)
def deviceGetAttribute(attribute: int, index: int) -> int:
    return {75: CAPABILITY[0], 76: CAPABILITY[1]}.get(attribute, 0)


@answers(runtime)
def getDeviceProperties(index: int) -> dict[str, Any]:
    names = {"name": b"no GPU", "major": CAPABILITY[0], "minor": CAPABILITY[1]}
    return names | {"multiProcessorCount": 1, "l2CacheSize": 1 << 20, "totalGlobalMem": TOTAL}


@answers(runtime)
def deviceSynchronize() -> None:
    device.synchronize()


@answers(runtime)
def streamCreateWithFlags(flags: int) -> int:
    return _kept(_streams, device.stream())


@answers(runtime)
def streamCreateWithPriority(flags: int, priority: int) -> int:
    return _kept(_streams, device.stream())


@answers(runtime)
def streamDestroy(stream: int) -> None:
    del _streams[stream]  # its work still ends


@answers(runtime)
def streamSynchronize(stream: int) -> None:
    _streams[stream].record().wait()


@answers(runtime)
def streamWaitEvent(stream: int, event: int) -> None:
    if _events[event][1] is not None:
        _streams[stream].wait_for(_events[event][1])


@answers(runtime)
def streamIsCapturing(stream: int) -> int:
    return 0


@answers(runtime)
def eventCreateWithFlags(flags: int) -> int:
    return _kept(_events, [not flags & runtime.eventDisableTiming, None])


@answers(runtime)
def eventDestroy(event: int) -> None:
    del _events[event]


@answers(runtime)
def eventRecord(event: int, stream: int) -> None:
    assert _device_of[event] == _device_of.get(stream, getDevice()), "an event of another device"
    _events[event][1] = _streams[stream].record(timed=_events[event][0])


@answers(runtime)
def eventQuery(event: int) -> int:
    return 0 if _events[event][1] is None or _events[event][1].done() else 600  # cudaErrorNotReady


@answers(runtime)
def eventSynchronize(event: int) -> None:
    if _events[event][1] is not None:
        _events[event][1].wait()


@answers(runtime)
def eventElapsedTime(start: int, end: int) -> float:
    return _events[end][1].since(_events[start][1]) * 1e3


@answers(runtime)
def _ensure_context() -> None:
    pass


def _kept(table: dict[int, Any], value: Any) -> int:
    number = next(_numbers)
    table[number] = value
    _device_of[number] = getDevice()
    return number


def _is_pinned(address: int) -> bool:
    return any(start <= address < start + block.size for start, block in list(_pinned.items()))


def _bytes(address: int, size: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


# ---- the driver


@answers(driver)
def moduleLoadData(image: bytes) -> int:
    return _kept(_modules, parameters(image))


@answers(driver)
def moduleGetFunction(module: int, name: str) -> int:
    return _kept(_functions, (name, _modules[module][name]))


@answers(driver)
def moduleUnload(module: int) -> None:
    del _modules[module]


@answers(driver)
def launchKernel(function: int, *rest: int) -> None:
    *sizes, shared, stream, params, extra = rest
    assert not shared
    assert not extra
    assert _device_of.get(stream, getDevice()) == getDevice(), "a stream of another device"
    name, widths = _functions[function]
    addresses = (ctypes.c_void_p * len(widths)).from_address(params) if widths else ()
    given = [ctypes.string_at(a, n) for a, n in zip(addresses, widths, strict=True)]
    work = _kernel_of_cupy(name, given) or _kernel_of_ours(name, sizes, given)
    _streams[stream].add(work)


def name_of(function: int) -> str:
    """Name of a kernel that was launched."""
    return _functions[function][0]


def parameters(image: bytes) -> dict[str, list[int]]:
    """Bytes of each parameter of each kernel in a cubin (ELF, 64 bits), as the driver reads them."""
    (table,) = struct.unpack_from("<Q", image, 40)
    count, named = struct.unpack_from("<HH", image, 60)
    sections = [struct.unpack_from("<I20xQQ", image, table + 64 * i) for i in range(count)]
    found: dict[str, list[int]] = {}
    for name_at, start, size in sections:
        begin = sections[named][1] + name_at
        name = image[begin : image.index(b"\0", begin)].decode()
        if name.startswith(".text."):
            found.setdefault(name.removeprefix(".text."), [])
        elif name.startswith(".nv.info."):
            found[name.removeprefix(".nv.info.")] = _widths(image[start : start + size])
    return found


def _widths(info: bytes) -> list[int]:
    widths, at = {}, 0
    while at < len(info):
        kind, attribute, value = struct.unpack_from("<BBH", info, at)
        if (kind, attribute) == KPARAM:
            ordinal, packed = struct.unpack_from("<4xH2xI", info, at + 4)
            widths[ordinal] = packed >> 18
        at += 4 + (value if kind == 4 else 0)
    return [widths[i] for i in range(len(widths))]


def _kernel_of_ours(name: str, sizes: list[int], given: list[bytes]) -> Callable[[], None]:
    values = [np.frombuffer(g, f"u{len(g)}")[0] for g in given]
    return lambda: _twin(name)(sizes[:3], sizes[3:], values)


@cache
def _twin(name: str) -> Kernel:
    for path in sorted(CUDA.glob("*.cu")):
        with suppress(AttributeError):  # a library without it
            return build(path).kernel(name)
    raise NotImplementedError(f"kernel {name} has no twin")


def _kernel_of_cupy(name: str, given: list[bytes]) -> Callable[[], None] | None:
    """CuPy's own, as far as it is asked for here: filling, copying to make contiguous, adding, looking up."""
    if name == "cupy_fill":
        value = np.frombuffer(given[0], f"u{len(given[0])}")[0]
        return lambda: _operand(given[1], value.dtype).fill(value)
    if found := re.fullmatch(r"cupy_(copy|add)__(\w+)", name):
        *taken, to = map(_operand, given, found[2].split("_"))
        if found[1] == "add":
            return lambda: np.add(*taken, out=to)
        return lambda: np.copyto(to, *taken)
    if name == "cupy_take":  # it does not tell types: signed, as wide as the step from one to the next
        table, where, to = (_operand(g, f"i{struct.unpack('q', g[-8:])[0]}") for g in (*given[:2], given[6]))
        return lambda: np.copyto(to, table[where])
    return None


def _operand(packed: bytes, dtype: Any) -> np.ndarray:
    """A scalar, or an array as CuPy hands it to its kernels: address, size, shape, strides."""
    if len(packed) < 16:
        return np.frombuffer(packed, f"{np.dtype(dtype).kind}{len(packed)}")[0]
    address, _, *rest = struct.unpack(f"<{len(packed) // 8}q", packed)
    shape, strides = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    low = sum(s * (n - 1) for s, n in zip(strides, shape, strict=True) if s < 0)
    room = sum(abs(s) * (n - 1) for s, n in zip(strides, shape, strict=True)) + np.dtype(dtype).itemsize
    return np.ndarray(shape, dtype, _bytes(address + low, room), -low, strides)
