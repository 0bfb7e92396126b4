"""The composite: its layers, where they lie, where they came from, and the ways out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from bestpixel_gpu.geo.grid import Grid
from bestpixel_gpu.result.period import Period
from bestpixel_gpu.result.report import Report

Stretch = Literal["percentile"] | tuple[float, float]
REFLECTANCE = (0.0, 0.3)
"""Reflectances of black and white in a picture, unless asked otherwise."""

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import xarray as xr
    from PIL.Image import Image

NODATA = 65535
"""No value, in bands and quality."""
NO_SOURCE = -1
"""No scene, in ``selected_observation``."""
NO_DATE = -2147483648
"""No observation, in ``date``."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STRIP = 512
"""Rows of the date layer made at once: its 64-bit index never exists as a whole."""

_KEYS = (
    "bands",
    "boa_unc",
    "quality",
    "observation_count",
    "selected_observation",
    "date",
    "source_ids",
    "band_names",
    "grid",
    "endpoint",
    "collection",
    "partition_tiles",
    "multi_tile_chunks",
    "timings",
    "report",
    "period",
    "year",
    "month",
)
_OF_A_SERIES = ("period", "year", "month")


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class Composite(Mapping[str, Any]):
    """For every pixel of a grid the best observation found.

    A mapping with the keys of the attributes below (``["grid"]`` is a dict, ``["boa_unc"]`` is
    there only if it was asked for), and the same as attributes.

    Attributes
    ----------
    bands : dict of name -> uint16, (H, W)
        DN; reflectance = DN / 10000. No value: 65535.
    quality : uint16, (H, W)
        Score of the winner: 0 clear, 1 marginal, 2 dark; 65535 none.
    observation_count : uint16, (H, W)
        Competing scenes with a usable score.
    selected_observation : int16 or int32, (H, W)
        The winner's index in `source_ids`; -1 none.
    date : int32, (H, W)
        The winner's sensing day, days since 1970-01-01 (UTC); -2147483648 none.
    source_ids : list of str
        Item ids of the competing scenes, in rank order.
    source_dates : list of datetime
        Their sensing times.
    grid : Grid
    report : Report
    endpoint, collection : str
    partition_tiles : list of str
        MGRS codes of all footprints.
    multi_tile_chunks : int
        Chunks that need more than one MGRS tile.
    timings : dict
        Seconds by stage, as the ancestor names them.
    boa_unc : dict of name -> float32, (H, W), or None
        Uncertainty in DN.
    period : Period, or None
        Of a composite in a series; then there are the keys ``period``, ``year`` and ``month``.
    scene_items : list of dict
        The candidate scenes as STAC items without tokens: ``build_composite(..., items=scene_items)``
        makes the same composite again, whatever the catalogue then finds.
    """

    grid: Grid
    bands: dict[str, Any]
    quality: Any
    observation_count: Any
    selected_observation: Any
    source_ids: list[str]
    source_dates: Sequence[datetime]
    report: Report
    endpoint: str
    collection: str
    partition_tiles: list[str]
    multi_tile_chunks: int
    timings: dict[str, float]
    boa_unc: dict[str, Any] | None = None
    scene_items: list[dict[str, Any]] = field(default_factory=list)
    period: Period | None = None
    error: ClassVar[None] = None
    """What :class:`~bestpixel_gpu.FailedPeriod` tells in its place."""
    _date: Any = field(default=None, init=False)

    @property
    def band_names(self) -> list[str]:
        """Names of the bands, in output order."""
        return list(self.bands)

    @property
    def date(self) -> Any:
        """Sensing day of the winner: int32 (H, W), days since 1970-01-01, -2147483648 none."""
        if self._date is None:
            winners = self.selected_observation
            days = [_day(when) for when in self.source_dates]
            there = winners.device if hasattr(winners, "get") else nullcontext()
            with there:  # CuPy's current device may be another
                table = np.array([*days, NO_DATE], np.int32, like=winners)  # index -1 meets the last entry
                dates = np.empty_like(winners, np.int32)
                for row in range(0, winners.shape[0], _STRIP):
                    dates[row : row + _STRIP] = table[winners[row : row + _STRIP]]
            self._date = dates
        return self._date

    def __getitem__(self, key: str) -> Any:
        if key == "grid":
            return self.grid.as_dict()
        if key not in set(self):
            raise KeyError(key)
        return getattr(self.period if key in ("year", "month") else self, key)

    def __iter__(self) -> Iterator[str]:
        absent = (*("boa_unc",) * (self.boa_unc is None), *_OF_A_SERIES * (self.period is None))
        return (key for key in _KEYS if key not in absent)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __eq__(self, other: object) -> bool:
        return self is other  # a mapping's own test would ask arrays for one truth value

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        rows, cols = self.grid.shape
        return (
            f"<Composite {cols} x {rows} px of {self.grid.res_x:g} in {self.grid.crs[:40]}, "
            f"{len(self.bands)} bands ({', '.join(self.bands)}), {len(self.source_ids)} scenes, "
            f"{self.report.empty_pixels} empty pixels>"
        )

    def _repr_html_(self) -> str:
        from bestpixel_gpu.result.picture import composite_html

        return composite_html(self)

    def to_numpy(self) -> Composite:
        """The same composite with its layers in host memory; itself where they lie there."""
        if not hasattr(self.quality, "get"):
            return self
        names = ("quality", "observation_count", "selected_observation")
        return replace(
            self,
            bands={name: to_host(a) for name, a in self.bands.items()},
            boa_unc=self.boa_unc and {name: to_host(a) for name, a in self.boa_unc.items()},
            **{name: to_host(getattr(self, name)) for name in names},
        )

    def to_xarray(self) -> xr.Dataset:
        """Dataset with one variable for each band and layer, dims (y, x); ``.odc`` and ``.rio`` work.

        The arrays are not copied. Nodata stands in ``attrs["nodata"]`` only, so files keep uint16.
        """
        from bestpixel_gpu.result.dataset import to_dataset

        return to_dataset(self)

    def to_cog(self, path: str | os.PathLike[str], *, level: int = 6) -> list[Path]:
        """Paths of the Cloud Optimized GeoTIFFs written; files of the same names are replaced.

        Parameters
        ----------
        path : path
            Ending in ``.tif`` or ``.tiff``: one file with all bands. Else a folder for ``<band>.tif``,
            ``quality.tif``, ``observation_count.tif``, ``selected_observation.tif``, ``date.tif``,
            ``report.json``, ``stac-item.json`` and ``scenes.json`` (:attr:`scene_items`).
        level : int
            DEFLATE level, 1..9.

        Raises
        ------
        InputError
            If rasterio is missing, or the level is out of range.
        """
        from bestpixel_gpu.result.files import write_cog, write_folder

        one = str(path).lower().endswith((".tif", ".tiff"))
        return write_cog(self, path, level) if one else write_folder(self, path, level)

    def to_zarr(self, path: str | os.PathLike[str]) -> Path:
        """Folder of the Zarr store written; it must not exist yet.

        ``xarray.open_zarr(path, decode_coords="all")`` reads it so that ``.rio`` finds the CRS.
        For another kind of store: ``to_xarray().to_zarr(store)``.
        """
        from bestpixel_gpu.result.files import write_zarr

        return write_zarr(self, path)

    def to_netcdf(self, path: str | os.PathLike[str], *, level: int = 4) -> Path:
        """Path of the NetCDF-4 file written, DEFLATE-compressed; a file of that name is replaced."""
        from bestpixel_gpu.result.files import write_netcdf

        return write_netcdf(self, path, level)

    def quicklook(
        self, bands: Sequence[str] | None = None, *, size: int = 800, stretch: Stretch = REFLECTANCE
    ) -> Image:
        """RGBA picture, transparent where there is nothing; ``.save(path)`` writes it.

        Parameters
        ----------
        bands : three names, or one for grey
            Default red, green, blue where they are there, else the first band.
        size : int
            Longest side at most, pixels; larger grids are averaged.
        stretch : "percentile" or (low, high)
            What is black and white: percentiles 2 and 98 of what is seen, or reflectances.
        """
        from bestpixel_gpu.result.picture import quicklook

        return quicklook(self, bands, size=size, stretch=stretch)


def _day(when: datetime) -> int:
    """Days since 1970-01-01 of a time; one without a zone is UTC."""
    aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return (aware - _EPOCH).days


def to_host(array: Any) -> Any:
    """The array as NumPy, copied from the device where it lies on one."""
    get = getattr(array, "get", None)
    return array if get is None else get()
