"""Band files of the scenes that own pixels: headers, levels, sampling rules."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bestpixel_gpu.catalog.scene import AssetRef, Scene
from bestpixel_gpu.cog.layout import Level, Raster
from bestpixel_gpu.compositing.files import coarsest_for, frame_of, level_for, open_raster, sample_of
from bestpixel_gpu.compositing.session import Session, together
from bestpixel_gpu.engines.contract import SampleRule, TapGeometry, TileGrid
from bestpixel_gpu.errors import FormatError, InputError, SourceError
from bestpixel_gpu.geo.pixel_map import PixelMap
from bestpixel_gpu.transfer.reader import Stamp

ERODE_MARGIN = 2
"""Half of the 5 x 5 neighbourhood that rims of averaged overviews reach."""
NOT_OPENED = (SourceError, FormatError, InputError)
"""Why a file is not to be had; InputError: an address nothing reads."""


@dataclass(slots=True, eq=False)
class BandFile:
    """One band of one scene, ready to be planned and read."""

    scene: Scene
    band: str
    asset: AssetRef
    level: Level
    plane: int
    geometry: TapGeometry
    rule: SampleRule
    stamp: Stamp | None
    """The file that `level` was read of."""
    opener: BandFiles
    was_read: bool = False
    """Some of its tiles were."""
    renewed: bool = False
    """Another was looked for in its place."""
    renewing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held meanwhile."""

    @property
    def sparse(self) -> NDArray[np.bool_]:
        """Which tiles of the plane the file does not store."""
        n = self.level.tiles_across * self.level.tiles_down
        part = slice(self.plane * n, (self.plane + 1) * n)
        missing: NDArray[np.bool_] = (self.level.offsets[part] == 0) | (self.level.byte_counts[part] == 0)
        return missing


def _alike(one: BandFile, other: BandFile) -> bool:
    """Whether the same tiles show the same pixels in the same coding."""
    coding = [(f.level.layout, f.level.strips, f.level.planes, f.level.photometric) for f in (one, other)]
    return (
        one.geometry is other.geometry
        and (one.plane, one.rule, one.level.jpeg_tables) == (other.plane, other.rule, other.level.jpeg_tables)
        and coding[0] == coding[1]
        and np.array_equal(one.sparse, other.sparse)
    )


@dataclass(frozen=True, slots=True)
class BandFailure:
    """A file that cannot be opened for good."""

    rank: int
    scene: Scene
    band: str
    error: Exception


class BandFiles:
    """The opened files of a run; files that share a geometry share its object."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._files: dict[tuple[str, str, str], BandFile] = {}
        self._geometries: dict[tuple[TileGrid, int, bool, int], TapGeometry] = {}

    def get(self, scene: Scene, band: str) -> BandFile | None:
        """The file if it is open."""
        return self._files.get((scene.collection, scene.id, band))

    async def open(
        self, scenes: Sequence[Scene], ranks: Iterable[int], bands: Sequence[str]
    ) -> list[BandFailure]:
        """Read the headers of all bands of some ranks that are not open yet, at once."""
        todo = [(r, b) for r in ranks for b in bands if self.get(scenes[r], b) is None]
        answers = await together(
            [self._open(r, scenes[r], b) for r, b in todo],
            lambda n: self._session.progress("headers", n, len(todo)),
        )
        return [a for a in answers if a is not None]

    async def renew(self, file: BandFile, stamp: Stamp | None) -> bool:
        """Whether the tiles of a file that is no more the one of `stamp` can be read of the one in its place.

        That is opened once in a run, and must be what was planned: only where the tiles lie may differ.
        """
        async with file.renewing:
            if file.stamp is stamp and not file.renewed:
                file.renewed = True
                try:
                    new = await self._read(file.scene, file.band)
                except NOT_OPENED:
                    return False
                if _alike(file, new):
                    file.level, file.stamp = new.level, new.stamp
                    if file.was_read:
                        self._session.report.warnings.append(
                            f"item {file.scene.id}, asset {file.asset.key}: replaced while it was read, "
                            "so its pixels are of two versions"
                        )
            return file.stamp is not stamp

    async def _open(self, rank: int, scene: Scene, band: str) -> BandFailure | None:
        try:
            self._files[scene.collection, scene.id, band] = await self._read(scene, band)
        except NOT_OPENED as exc:
            return BandFailure(rank, scene, band, exc)
        return None

    async def _read(self, scene: Scene, band: str) -> BandFile:
        asset, coarsest = scene.bands[band], coarsest_for(self._session, scene)
        raster, stamp = await open_raster(self._session, asset, signed=scene.signed, coarsest=coarsest)
        return self._band_file(scene, band, raster, stamp)

    def _band_file(self, scene: Scene, band: str, raster: Raster, stamp: Stamp | None) -> BandFile:
        session, profile, asset = self._session, scene.profile, scene.bands[band]
        frame = frame_of(raster, scene)
        index = level_for(raster, min(session.projector.step(frame)))
        level, plane = sample_of(raster.levels[index], asset.sample)
        if level.layout.kind == "f":
            raise FormatError(
                f"item {scene.id}, asset {asset.key}: floating point samples, expected integers"
            )
        nodata = None if profile.ignore_nodata_tag or raster.nodata is None else int(raster.nodata)
        # Averaged overviews of a file without a nodata tag mix the fill into their rims.
        erode = index > 0 and raster.nodata is None and not profile.ignore_nodata_tag
        rule = SampleRule(
            lo=profile.valid_lo,
            hi=profile.valid_hi,
            nodata=nodata,
            erode=erode,
            bilinear=session.request.bilinear,
            mul=profile.mul,
            add=profile.add - scene.offset.dn * profile.mul,
            div=profile.div,
        )
        positions = session.projector.map_to(frame, level.width, level.height)
        geometry = self._geometry(level.grid, positions, rule)
        return BandFile(scene, band, asset, level, plane, geometry, rule, stamp, self)

    def _geometry(self, grid: TileGrid, positions: PixelMap, rule: SampleRule) -> TapGeometry:
        key = (grid, id(positions), rule.bilinear, ERODE_MARGIN if rule.erode else 0)
        if key not in self._geometries:
            self._geometries[key] = TapGeometry(
                grid=grid, positions=positions, bilinear=rule.bilinear, margin=key[3]
            )
        return self._geometries[key]
