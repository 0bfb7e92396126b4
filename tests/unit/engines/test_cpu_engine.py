"""What the CPU engine adds to the contract: threads, memory, kernels on disk."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from bestpixel_gpu.engines import create
from bestpixel_gpu.engines.cpu import jit, memory, paint, spans
from bestpixel_gpu.engines.cpu.paint import CpuPool, release_rooms
from bestpixel_gpu.errors import DeviceError, InputError


def test_devices_by_name():
    assert create("cpu").name == "cpu"
    assert not create("cpu").note
    for name in ("tpu", "cuda:", "cuda:x", "cuda:-1", "CPU"):
        with pytest.raises(InputError, match=repr(name)):
            create(name)


def test_without_cuda_auto_is_the_cpu_and_says_why(monkeypatch):
    from bestpixel_gpu.engines.cuda import environment

    monkeypatch.setattr(environment, "problem", lambda index: f"there is no device {index}: buy one")
    engine = create("auto")
    assert engine.name == "cpu"
    assert engine.note == "device='auto' chose the CPU: there is no device 0: buy one"
    with pytest.raises(DeviceError, match=r"^device='cuda:3': there is no device 3: buy one$"):
        create("cuda:3")


def test_threads_start_late_and_stop():
    engine = create("cpu", threads=3)
    assert engine.threads == 3
    executor = engine.executor
    assert executor is engine.executor
    assert executor.submit(lambda: 5).result() == 5
    engine.close()
    with pytest.raises(RuntimeError):
        executor.submit(lambda: 5)
    engine.close()


def test_a_tile_must_fit_its_slot():
    from bestpixel_gpu.cog.layout import TileLayout
    from bestpixel_gpu.engines.contract import CompressedTile

    engine = create("cpu")
    layout = TileLayout(codec="none", width=4, height=4, bits=16)
    tile = CompressedTile(0, bytes(32), layout)
    with pytest.raises(ValueError, match="slot"):
        engine.load(engine.pool(31, 1), [0], [tile])
    with pytest.raises(ValueError, match="slot"):
        engine.load(engine.pool(32, 1), [1], [tile])


@pytest.mark.parametrize("predictor", [1, 2])
def test_padding_of_a_slot_is_left_alone(predictor):
    from bestpixel_gpu.cog.layout import TileLayout
    from bestpixel_gpu.engines.contract import CompressedTile

    engine = create("cpu")
    layout = TileLayout(codec="none", width=24, height=6, bits=16, predictor=predictor)
    pool = engine.pool(layout.decoded_bytes, 1)
    pool.data[:] = 0xAB
    engine.load(pool, [0], [CompressedTile(0, np.ones(24 * 6, "<u2").tobytes(), layout, (4, 17))])
    slot = pool.data[: layout.decoded_bytes].view(np.uint16).reshape(6, 24)
    row = np.arange(1, 18) if predictor == 2 else np.ones(17)
    assert (slot[:4, :17] == row).all()
    assert (slot[4:] == 0xABAB).all()
    assert (slot[:, 17:] == 0xABAB).all()


def test_a_part_must_lie_in_its_tile():
    from bestpixel_gpu.cog.layout import TileLayout
    from bestpixel_gpu.engines.contract import CompressedTile

    engine = create("cpu")
    layout = TileLayout(codec="none", width=4, height=3, bits=8)
    for inside in ((4, 4), (3, 5), (0, 4)):
        with pytest.raises(ValueError, match="tile of 3 x 4"):
            engine.load(engine.pool(12, 1), [0], [CompressedTile(0, bytes(12), layout, inside)])


def test_budget_is_half_of_what_is_there():
    assert 0 < create("cpu").budget() <= memory.available_bytes()


def test_memory_figures(tmp_path):
    info = tmp_path / "meminfo"
    info.write_text("MemTotal: 100 kB\nMemAvailable:      40 kB\n")
    assert memory._meminfo(info) == 40 * 1024
    assert memory._meminfo(tmp_path / "none") is None
    assert memory._cgroup_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._cgroup_limit(tmp_path) is None
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text("7000\n")
    assert memory._cgroup_limit(tmp_path) == 7000
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory._cgroup_limit(tmp_path) == 5000


def test_views_become_planes():
    whole = np.arange(60, dtype=np.uint16).reshape(6, 10)
    flat, step = jit.plane(whole[1:4, 2:7])
    assert step == 10
    assert flat.flags.c_contiguous
    assert [int(flat[r * step]) for r in range(3)] == [12, 22, 32]
    assert flat.size == 25
    assert jit.plane(whole[2:3, 3:5])[0].size == 2
    assert jit.plane(whole[:0])[0].size == 0
    for wrong in (whole[:, ::2], whole.T, whole[::-1]):
        with pytest.raises(ValueError, match="memory"):
            jit.plane(wrong)


def test_spans_come_whole_whatever_the_room(monkeypatch):
    rng = np.random.default_rng(1)
    winners = np.kron(rng.integers(-1, 4, (8, 9)), np.ones((5, 40), int)).astype(np.int16)
    winners[rng.random(winners.shape) < 0.01] = 9
    for room in (1, 1 << 16):
        monkeypatch.setattr(spans, "_ROOM", room)
        seen = np.full(winners.shape, -2)
        for rank, found in spans.spans_of(winners, [3, 0, 9, 77]):
            for row, start, end in found:
                assert (seen[row, start:end] == -2).all()
                seen[row, start:end] = rank
                assert start == 0 or winners[row, start - 1] != rank
                assert end == winners.shape[1] or winners[row, end] != rank
        np.testing.assert_array_equal(seen, np.where(np.isin(winners, [0, 3, 9]), winners, -2))


@pytest.mark.parametrize("cols", [1, 2, 63, 64, 65, 66, 127, 128, 129, 200])
@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_spans_end_where_winners_change_in_rows_of_any_length(cols, dtype):
    rng = np.random.default_rng(cols)
    winners = (rng.random((40, cols)) < np.linspace(0, 1, 40)[:, None]).astype(dtype)
    ends = [[c + 1 for c in range(cols) if c + 1 == cols or row[c] != row[c + 1]] for row in winners]
    found = sorted(tuple(map(int, span)) for _, group in spans.spans_of(winners, [1, 0]) for span in group)
    assert found == [(r, a, b) for r, row in enumerate(ends) for a, b in zip([0, *row], row, strict=False)]


def test_kernels_are_kept_where_the_package_cannot_be_written(tmp_path):
    """With no place for the cache but the temporary folder, a private folder there is used."""
    script = (
        "import numba.core.caching as c\n"
        "def refuse(self):\n    raise OSError('read-only')\n"
        "for name in dir(c):\n"
        "    if 'InTreeCacheLocator' in name or 'UserWideCacheLocator' in name:\n"
        "        getattr(c, name).ensure_cache_path = refuse\n"
        "from bestpixel_gpu.engines.cpu import spans\n"
        "import numpy as np\n"
        "print(list(spans.spans_of(np.zeros((1, 3), np.int16), [0])))\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | {"TMPDIR": str(tmp_path)}
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = next(tmp_path.glob("bestpixel-gpu-kernels-*"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.rglob("*.nbc"))


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="folders of other users are told apart by their id")
def test_nobody_else_may_plant_kernels(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"bestpixel-gpu-kernels-{os.getuid()}"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    assert jit._private_folder() is None
    folder.chmod(0o700)
    assert jit._private_folder() == str(folder)
    folder.rmdir()
    folder.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    assert jit._private_folder() is None


def test_small_pools_use_memory_of_those_before_them():
    release_rooms()
    first = CpuPool(1 << 20, 4)
    address = first.data.ctypes.data
    del first
    again = CpuPool(3 << 20, 2)
    assert again.data.ctypes.data == address
    assert again.data.size == 2 * again.step
    assert CpuPool(1 << 20, 4).data.ctypes.data != address, "two at a time have a room each"
    del again
    assert paint._ROOMS.held == paint.SMALL_POOL
    large = CpuPool(1 << 20, 33)
    assert paint._ROOMS.held == 0, "which needs it more"
    del large
    assert paint._ROOMS.held == 0
