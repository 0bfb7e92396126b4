"""Band files of the scenes that own pixels: headers, levels, sampling rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bestpixel_gpu.catalog.scene import AssetRef, Scene
from bestpixel_gpu.cog.layout import Level, Raster
from bestpixel_gpu.compositing.files import coarsest_for, frame_of, level_for, open_raster, sample_of
from bestpixel_gpu.compositing.session import Session, together
from bestpixel_gpu.engines.contract import SampleRule, TapGeometry, TileGrid
from bestpixel_gpu.errors import FormatError, InputError, SourceError
from bestpixel_gpu.geo.pixel_map import PixelMap

ERODE_MARGIN = 2
"""Half of the 5 x 5 neighbourhood that rims of averaged overviews reach."""


@dataclass(frozen=True, slots=True, eq=False)
class BandFile:
    """One band of one scene, ready to be planned and read."""

    scene: Scene
    band: str
    asset: AssetRef
    level: Level
    plane: int
    geometry: TapGeometry
    rule: SampleRule


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

    async def _open(self, rank: int, scene: Scene, band: str) -> BandFailure | None:
        asset = scene.bands[band]
        try:
            coarsest = coarsest_for(self._session, scene)
            raster = await open_raster(self._session, asset, signed=scene.signed, coarsest=coarsest)
            self._files[scene.collection, scene.id, band] = self._band_file(scene, band, raster)
        except (SourceError, FormatError, InputError) as exc:  # InputError: an address nothing reads
            return BandFailure(rank, scene, band, exc)
        return None

    def _band_file(self, scene: Scene, band: str, raster: Raster) -> BandFile:
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
        return BandFile(scene, band, asset, level, plane, geometry, rule)

    def _geometry(self, grid: TileGrid, positions: PixelMap, rule: SampleRule) -> TapGeometry:
        key = (grid, id(positions), rule.bilinear, ERODE_MARGIN if rule.erode else 0)
        if key not in self._geometries:
            self._geometries[key] = TapGeometry(
                grid=grid, positions=positions, bilinear=rule.bilinear, margin=key[3]
            )
        return self._geometries[key]
