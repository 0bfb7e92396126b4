"""The composite as files: Cloud Optimized GeoTIFF, STAC item, Zarr, NetCDF.

Everything is written under a temporary name beside its place and renamed when it is whole, so an
error or Ctrl-C leaves no half file.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bestpixel_gpu.errors import InputError
from bestpixel_gpu.result.composite import NO_DATE, NO_SOURCE, NODATA, Composite, to_host
from bestpixel_gpu.result.dataset import to_dataset
from bestpixel_gpu.result.stac import stac_item

BLOCK = 512
"""Edge of a COG's tiles and of the chunks of Zarr and NetCDF, pixels."""

LAYER_NODATA = {"quality": NODATA, "observation_count": 0, "selected_observation": NO_SOURCE, "date": NO_DATE}

PathLike = str | os.PathLike[str]


@contextmanager
def staged() -> Iterator[Staging]:
    """Files that appear under their names together when the block ends well, or not at all."""
    staging = Staging()
    try:
        yield staging
        for temporary, final in staging.moves:
            temporary.replace(final)
    finally:
        for temporary, _ in staging.moves:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


class Staging:
    """Temporary names, and the names they will get."""

    def __init__(self) -> None:
        self.moves: list[tuple[Path, Path]] = []

    def place(self, final: Path) -> Path:
        """Temporary name for a file; the suffix stays, because writers look at it."""
        temporary = final.with_name(f".{final.stem}.{os.getpid()}.part{final.suffix}")
        self.moves.append((temporary, final))
        return temporary

    @property
    def paths(self) -> list[Path]:
        """The final names."""
        return [final for _, final in self.moves]


def write_folder(composite: Composite, folder: PathLike, level: int = 6) -> list[Path]:
    """Paths of one COG for each band and layer, ``report.json``, ``stac-item.json``, ``scenes.json``."""
    check_level(level)
    need("rasterio", "COG")
    root = Path(folder)
    layers: dict[str, tuple[Any, Any]] = {name: (a, NODATA) for name, a in composite.bands.items()}
    layers |= {f"{name}_unc": (a, float("nan")) for name, a in (composite.boa_unc or {}).items()}
    layers |= {name: (composite[name], nodata) for name, nodata in LAYER_NODATA.items()}
    root.mkdir(parents=True, exist_ok=True)
    with staged() as files:
        for name, (array, nodata) in layers.items():
            smooth = name not in LAYER_NODATA
            save_cog(files.place(root / f"{name}.tif"), composite, {name: array}, nodata, smooth, level)
        held = {name: (str(array.dtype), nodata) for name, (array, nodata) in layers.items()}
        item = stac_item(composite, held)
        for name, text in (
            ("report.json", composite.report.to_json()),
            ("stac-item.json", json.dumps(item, indent=2, ensure_ascii=False)),
            ("scenes.json", json.dumps({"type": "FeatureCollection", "features": composite.scene_items})),
        ):
            files.place(root / name).write_text(text + "\n", encoding="utf-8")
    return files.paths


def write_cog(composite: Composite, path: PathLike, level: int = 6) -> list[Path]:
    """Path of one COG with all bands; band descriptions are their names."""
    check_level(level)
    need("rasterio", "COG")
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    with staged() as files:
        save_cog(files.place(final), composite, composite.bands, NODATA, True, level)
    return files.paths


def save_cog(
    path: Path, composite: Composite, layers: Mapping[str, Any], nodata: float, smooth: bool, level: int
) -> None:
    """Write layers of one dtype: tiles of 512, DEFLATE, predictor, overviews averaged or nearest."""
    import rasterio

    grid = composite.grid
    dtype = next(iter(layers.values())).dtype
    options = {
        "blocksize": BLOCK,
        "compress": "DEFLATE",
        "level": level,
        "predictor": "YES",  # 2 for integers, 3 for floats
        "overviews": "IGNORE_EXISTING",
        "overview_resampling": "AVERAGE" if smooth else "NEAREST",
        "bigtiff": "IF_SAFER",
        "num_threads": "ALL_CPUS",
    }
    size = {"height": grid.height, "width": grid.width, "count": len(layers), "dtype": str(dtype)}
    place = {"crs": grid.crs, "transform": rasterio.Affine(*grid.transform), "nodata": nodata}
    try:
        with rasterio.open(path, "w", driver="COG", **size, **place, **options) as file:
            for number, (name, array) in enumerate(layers.items(), 1):
                file.write(to_host(array), number)
                file.set_band_description(number, name)
            file.update_tags(source_ids=json.dumps(composite.source_ids))
            if smooth and dtype.kind == "u":
                file.scales, file.offsets = [0.0001] * len(layers), [0.0] * len(layers)
    except Exception as exc:
        if type(exc).__module__.startswith("rasterio."):  # GDAL's error classes are private there
            raise OSError(f"cannot write {', '.join(layers)} into {path.parent}: {exc}") from exc
        raise


def write_zarr(composite: Composite, path: PathLike) -> Path:
    """Path of a Zarr store; an existing one is not touched.

    Raises
    ------
    InputError
        If zarr is missing, or something is there already.
    """
    need("zarr", "Zarr")
    final = Path(path)
    if final.exists():
        raise InputError(f"{final} exists: choose another path, or remove it first")
    final.parent.mkdir(parents=True, exist_ok=True)
    dataset = to_dataset(composite).as_numpy()
    for name in dataset.data_vars:
        dataset[name].encoding["chunks"] = _chunks(composite)
    with staged() as files, warnings.catch_warnings():
        # One request opens a remote store, and xarray looks for it first; zarr notes that format 3
        # does not define it.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        dataset.to_zarr(files.place(final), mode="w", consolidated=True)
    return final


def write_netcdf(composite: Composite, path: PathLike, level: int = 4) -> Path:
    """Path of a NetCDF-4 file with DEFLATE and shuffle, chunks of 512."""
    check_level(level)
    need("h5netcdf", "NetCDF")
    need("h5py", "NetCDF")
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    dataset = to_dataset(composite).as_numpy()
    packing = {"zlib": True, "complevel": level, "shuffle": True, "chunksizes": _chunks(composite)}
    for name in dataset.data_vars:
        dataset[name].encoding |= packing
    with staged() as files:
        dataset.to_netcdf(files.place(final), engine="h5netcdf")
    return final


def _chunks(composite: Composite) -> tuple[int, ...]:
    """Shape of a chunk in Zarr and NetCDF."""
    return tuple(min(n, BLOCK) for n in composite.grid.shape)


def check_level(level: int) -> None:
    """Refuse a DEFLATE level outside 1..9."""
    if level not in range(1, 10):
        raise InputError(f"level must be a whole number in 1..9, got {level!r}")


def need(module: str, purpose: str) -> None:
    """InputError with the line to type where a package of the extra ``[io]`` is missing."""
    if find_spec(module) is None:
        raise InputError(f"writing {purpose} needs {module}: pip install 'bestpixel-gpu[io]'")
