"""The binding of nvCOMP: where it is looked for, what is refused, where each argument lands.

Arguments are proven on a small library built here, which writes down what it was called with;
statuses and limits on a real nvCOMP where one is installed. Neither needs a GPU.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import gzip
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from bestpixel_gpu.engines.cuda import nvcomp
from bestpixel_gpu.engines.cuda.nvcomp import Nvcomp, find_library, payload_slot, strip_zlib
from bestpixel_gpu.errors import DeviceError

# Signatures as in nvcomp/deflate.h of 5.x and 6.x; each call leaves its arguments, then its options.
FAKE = r"""
#include <cstddef>
#include <cstdint>
#include <cstring>
extern "C" {
struct Options { int backend; int sort; char reserved[56]; };
struct Alignments { size_t input, output, temp; };
struct Properties { uint32_t version, cudart; };
static_assert(sizeof(Options) == 64, "as in the header");
Properties properties; size_t alignment; int status; uint64_t seen[24];

static void see(std::initializer_list<uint64_t> values, const Options& options) {
    memset(seen, 0, sizeof seen);
    size_t i = 0;
    for (uint64_t value : values) seen[i++] = value;
    memcpy(seen + 16, &options, sizeof options);
}
int nvcompGetProperties(Properties* out) { *out = properties; return 0; }
int nvcompBatchedDeflateDecompressGetRequiredAlignments(Options options, Alignments* out) {
    see({}, options);
    *out = {alignment, 2, 8};
    return 0;
}
#if MAJOR == 5
int nvcompBatchedDeflateDecompressGetTempSizeAsync(
    size_t n, size_t max_chunk, Options options, size_t* temp, size_t max_total) {
    see({n, max_chunk, max_total}, options);
    *temp = 0x123456789a;
    return status;
}
#else
const char* nvcompGetStatusString(int code) { return code == 77 ? "something new" : "unrecognised"; }
int nvcompBatchedDeflateDecompressGetTempSize(
    size_t n, size_t max_chunk, Options options, size_t* temp, size_t max_total, void* stream) {
    see({n, max_chunk, max_total, (uint64_t)stream}, options);
    *temp = 0x123456789a;
    return status;
}
#endif
int nvcompBatchedDeflateDecompressAsync(
    const void* const* in, const size_t* in_bytes, const size_t* capacity, size_t* out_bytes, size_t n,
    void* const temp, size_t temp_bytes, void* const* out, Options options, int* statuses, void* stream) {
    see({(uint64_t)in, (uint64_t)in_bytes, (uint64_t)capacity, (uint64_t)out_bytes, n, (uint64_t)temp,
         temp_bytes, (uint64_t)out, (uint64_t)statuses, (uint64_t)stream}, options);
    return status;
}
}
"""
OPTIONS = bytes(range(1, 65))


class Fake:
    """A built library and what it says of itself."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._library = ctypes.CDLL(self.path)

    def says(self, version: int, cudart: int = 12090, alignment: int = 4, status: int = 0) -> str:
        (ctypes.c_uint32 * 2).in_dll(self._library, "properties")[:] = [version, cudart]
        ctypes.c_size_t.in_dll(self._library, "alignment").value = alignment
        ctypes.c_int.in_dll(self._library, "status").value = status
        return self.path

    def saw(self, n: int) -> tuple[list[int], bytes]:
        """The last call's first n arguments and its options."""
        seen = (ctypes.c_uint64 * 24).in_dll(self._library, "seen")
        assert not any(seen[n:16])
        return list(seen[:n]), bytes(seen)[128:]


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Fake]:
    compiler = shutil.which("g++")
    if compiler is None or sys.platform == "win32":
        pytest.skip("needs g++ to build the library that writes down its arguments")
    folder = tmp_path_factory.mktemp("nvcomp")
    source = folder / "fake.cpp"
    source.write_text("#include <initializer_list>\n" + FAKE)
    for major in (5, 6):
        target = folder / f"libnvcomp.so.{major}"
        command = [compiler, "-shared", "-fPIC", f"-DMAJOR={major}", str(source), "-o", str(target)]
        subprocess.run(command, check=True)
    return {major: Fake(folder / f"libnvcomp.so.{major}") for major in (5, 6)}


@pytest.fixture(scope="module")
def real() -> Nvcomp:
    try:
        return Nvcomp.load()
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a file below the only folder ``nvidia`` that Python finds; importing anything there fails."""
    for module in [name for name in sys.modules if name.split(".")[0] == "nvidia"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delenv(nvcomp.ENVIRONMENT, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))

    def place(name: str, library: str = os.devnull) -> Path:
        path = tmp_path / "nvidia" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in ("", Path(name).parts[0]):  # a package without this file hides no other's folder
            (tmp_path / "nvidia" / folder / "__init__.py").write_text("raise RuntimeError")
        path.write_bytes(Path(library).read_bytes())
        return path

    return place


# --- where it is looked for


@pytest.mark.skipif(sys.platform == "win32", reason="the wheels' folders on Linux")
def test_wheels_before_the_loaders_names_and_newer_majors_first(wheels):
    old = [wheels(name) for name in ("nvcomp/libnvcomp.so.5", "libnvcomp/lib64/libnvcomp.so.5")]
    new = wheels("libnvcomp/lib64/libnvcomp.so.6")
    assert find_library() == [str(new), str(old[1]), str(old[0]), "libnvcomp.so.6", "libnvcomp.so.5"]
    assert not any(name.split(".")[0] == "nvidia" for name in sys.modules)


def test_windows_names(wheels, monkeypatch):
    names = ["nvcomp64_6.dll", "nvcomp64_5.dll"]
    monkeypatch.setattr(nvcomp, "_WINDOWS", True)
    monkeypatch.setattr(nvcomp, "_NAMES", names)
    old, new = wheels("nvcomp/nvcomp64_5.dll"), wheels("libnvcomp/bin/nvcomp64_6.dll")
    assert find_library() == [str(new), str(old), *names]


def test_a_namespace_in_two_folders(monkeypatch, tmp_path):
    spec = find_spec("nvidia")
    if spec is not None and spec.origin is not None:
        pytest.skip("a package nvidia that is no namespace is installed")
    monkeypatch.delenv(nvcomp.ENVIRONMENT, raising=False)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    for root, folder in (("a", "cuda_nvrtc"), ("b", "nvcomp")):
        (tmp_path / root / "nvidia" / folder).mkdir(parents=True)
        monkeypatch.syspath_prepend(str(tmp_path / root))
    library = tmp_path / "b/nvidia/nvcomp" / nvcomp._NAMES[1]
    library.touch()
    assert str(library) in find_library()


def test_the_variable_stands_alone(wheels, monkeypatch):
    wheels("libnvcomp/lib64/libnvcomp.so.6")
    monkeypatch.setenv(nvcomp.ENVIRONMENT, "/somewhere/libnvcomp.so.6")
    assert find_library() == ["/somewhere/libnvcomp.so.6"]
    with pytest.raises(DeviceError, match=r"/somewhere/libnvcomp\.so\.6.*pip install"):
        Nvcomp.load()


def test_a_module_of_that_name_without_a_spec(monkeypatch):
    monkeypatch.delenv(nvcomp.ENVIRONMENT, raising=False)
    monkeypatch.setitem(sys.modules, "nvidia", type(sys)("nvidia"))
    assert len(find_library()) == 2


def test_nothing_found(monkeypatch):
    monkeypatch.setattr(nvcomp, "find_library", lambda: nvcomp._NAMES)
    monkeypatch.setattr(ctypes, "CDLL", _no_library)
    with pytest.raises(DeviceError, match="not installed: pip install 'bestpixel-gpu"):
        Nvcomp.load()


def _no_library(path: str) -> None:
    raise OSError(f"{path}: cannot open shared object file")


# --- what is refused


def test_versions_are_read_and_unknown_ones_refused(fakes):
    loaded = Nvcomp.load(fakes[5].says(5321))
    assert (loaded.version, loaded.cudart, loaded.alignments()) == ((5, 3, 21), 12090, (4, 2, 8))
    for version, name in ((4999, "4.9.99"), (7000, "7.0.0")):
        with pytest.raises(DeviceError, match=rf"nvCOMP {name} at \S+libnvcomp\.so\.5 .* \(5 and 6\)"):
            Nvcomp.load(fakes[5].says(version))


def test_a_library_newer_than_the_driver_is_refused(fakes):
    path = fakes[6].says(6000, cudart=13040)
    assert Nvcomp.load(path, driver=13000).cudart == 13040  # a newer minor runs
    message = r"built for CUDA 13\.4, and the driver supports 12\.4: install nvidia-libnvcomp-cu12"
    with pytest.raises(DeviceError, match=message):
        Nvcomp.load(path, driver=12040)
    assert Nvcomp.load(fakes[6].says(6000, cudart=12090), driver=13000).cudart == 12090


def test_two_distributions_in_one_folder_are_named(fakes, wheels, tmp_path):
    old = wheels("libnvcomp/lib64/libnvcomp.so.5", fakes[5].path)
    new = wheels("libnvcomp/lib64/libnvcomp.so.6", fakes[6].path)
    Fake(old).says(5300, cudart=12090)
    Fake(new).says(6000, cudart=13040)
    assert Nvcomp.load(driver=12040).path == str(old)  # what the driver can run is taken
    Fake(old).says(5300, cudart=13000)
    for name in nvcomp.PACKAGES:
        info = tmp_path / f"{name.replace('-', '_')}-6.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 6.0\n")
    both = "nvidia-libnvcomp-cu12 and nvidia-libnvcomp-cu13 overwrite each other: pip uninstall"
    with pytest.raises(DeviceError, match=both):
        Nvcomp.load(driver=12040)


def test_more_alignment_than_slots_give_is_refused(fakes):
    with pytest.raises(DeviceError, match="more aligned than 16 bytes"):
        Nvcomp.load(fakes[6].says(6000, alignment=32))


def test_another_library_is_refused():
    libc = ctypes.util.find_library("c") if sys.platform != "win32" else None
    if libc is None:
        pytest.skip("needs a C library that is found by name")
    with pytest.raises(DeviceError, match="has no nvcompGetProperties"):
        Nvcomp.load(libc)


def test_the_wrong_major_in_the_name_of_the_right_one(fakes):
    with pytest.raises(DeviceError, match="has no nvcompBatchedDeflateDecompressGetTempSize,"):
        Nvcomp.load(fakes[5].says(6000)).temp_bytes(1, 1, 1)


# --- where each argument lands


@pytest.mark.parametrize(("major", "passed"), [(5, 3), (6, 4)])
def test_arguments_of_temp_bytes(fakes, monkeypatch, major, passed):
    loaded = Nvcomp.load(fakes[major].says(major * 1000))
    monkeypatch.setattr(nvcomp, "_OPTIONS", nvcomp._Options.from_buffer_copy(OPTIONS))
    values = [3 << 40, 5 << 41, 7 << 42, 9 << 43]
    assert loaded.temp_bytes(*values) == 0x123456789A
    assert fakes[major].saw(passed) == (values[:passed], OPTIONS)


@pytest.mark.parametrize("major", [5, 6])
def test_arguments_of_decompress_async(fakes, monkeypatch, major):
    loaded = Nvcomp.load(fakes[major].says(major * 1000))
    monkeypatch.setattr(nvcomp, "_OPTIONS", nvcomp._Options.from_buffer_copy(OPTIONS))
    names = "d_in_ptrs d_in_bytes d_out_capacity d_out_bytes n d_temp temp_bytes d_out_ptrs d_status stream"
    values = {name: 0x7F00_0000_0000_0001 + (i << 40) for i, name in enumerate(names.split())}
    loaded.decompress_async(**values)
    assert fakes[major].saw(10) == (list(values.values()), OPTIONS)
    loaded.alignments()
    assert fakes[major].saw(0) == ([], OPTIONS)


def test_options_are_zero_by_default(fakes):
    Nvcomp.load(fakes[6].says(6000)).decompress_async(*[1] * 10)
    assert fakes[6].saw(10)[1] == bytes(64)


def test_a_failed_call_names_its_status(fakes):
    loaded = Nvcomp.load(fakes[6].says(6000, status=17))
    with pytest.raises(DeviceError, match=r"DecompressAsync of \S+ failed, wrong alignment \(17\)"):
        loaded.decompress_async(*[1] * 10)
    fakes[6].says(6000, status=77)  # newer than the table: the library says what it is
    with pytest.raises(DeviceError, match=r"GetTempSize of \S+ failed, something new \(77\)"):
        loaded.temp_bytes(1, 1, 1)
    loaded = Nvcomp.load(fakes[5].says(5100, status=77))
    with pytest.raises(DeviceError, match=r"failed, unknown \(77\)"):
        loaded.temp_bytes(1, 1, 1)


# --- a real nvCOMP, without a GPU


def test_real_version_and_alignments(real):
    assert real.version[0] in (5, 6)
    assert real.cudart // 1000 in (12, 13)
    assert all(nvcomp.PAYLOAD_ALIGNMENT % need == 0 for need in real.alignments())
    with pytest.raises(DeviceError, match="built for CUDA"):
        Nvcomp.load(real.path, driver=(real.cudart // 1000 - 1) * 1000)


def test_real_temp_bytes(real):
    assert 0 <= real.temp_bytes(2000, 1 << 19, 2000 << 19) < 8 << 30
    if real.version < (5, 2):
        pytest.skip("chunks are limited from nvCOMP 5.2 on")
    with pytest.raises(DeviceError, match=r"chunk too large \(18\)"):
        real.temp_bytes(1, 1 << 32, 1 << 20)
    assert real.temp_bytes(1 << 32, 1 << 16, 1 << 48) >= 0  # the limit is the chunk's alone


def test_real_options_are_read_by_value(real, monkeypatch):
    monkeypatch.setattr(nvcomp, "_OPTIONS", nvcomp._Options(backend=9))
    for call in (real.alignments, lambda: real.temp_bytes(1, 1, 1)):
        with pytest.raises(DeviceError, match=r"not supported \(11\)"):
            call()


def test_real_decompress_refuses_null(real):
    with pytest.raises(DeviceError, match=r"invalid value \(10\)"):
        real.decompress_async(0, 0, 0, 0, 1, 0, 0, 0, 0, 0)


def test_real_statuses_are_all_known(real):
    if real.version < (5, 2):
        pytest.skip("statuses have texts from nvCOMP 5.2 on")
    unknown = real.status_name(9999)
    describe = real._library.nvcompGetStatusString
    known = {code for code in range(1001) if describe(code).decode() != unknown}
    known |= {10000} if describe(10000).decode() != unknown else set()
    later = {22, 23, 24} if real.version < (5, 3) else set()
    assert known == set(nvcomp._STATUS) - later


# --- zlib's frame and the slots


def test_the_payload_is_raw_deflate():
    raw = np.random.default_rng(0).integers(0, 9, 5000, dtype=np.uint8).tobytes()
    for level in range(10):
        for window in range(9, 16):
            press = zlib.compressobj(level, zlib.DEFLATED, window)
            data = press.compress(raw) + press.flush()
            offset, length = strip_zlib(memoryview(data))
            assert zlib.decompress(data[offset : offset + length], -15) == raw
            assert int.from_bytes(data[offset + length :], "big") == zlib.adler32(raw)


def test_headers_are_those_that_zlib_takes():
    body = zlib.compress(b"")[2:]
    for header in range(1 << 16):
        data = header.to_bytes(2, "big") + body
        try:
            taken = zlib.decompress(data) == b""
        except zlib.error:  # one that asks for a dictionary too
            taken = False
        assert (strip_zlib(data) is not None) == taken, hex(header)


def test_what_has_no_frame():
    data = zlib.compress(b"")
    assert strip_zlib(data) == (2, 2)
    assert [strip_zlib(data[:n]) for n in range(8)] == [None] * 8
    assert strip_zlib(gzip.compress(b"some bytes")) is None


def test_payloads_are_aligned_and_close_together():
    for position in range(100):
        slot = payload_slot(position)
        assert position <= slot < position + 16
        assert (slot + nvcomp.HEADER) % 16 == 0
