"""The public entry points: arguments are checked here, then the way of the data begins."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any

from bestpixel_gpu.request import Offset, Order, Request, make_request, whole

if TYPE_CHECKING:
    from bestpixel_gpu.compositing.explain import Explanation
    from bestpixel_gpu.result.composite import Composite


def build_composite(
    bbox: Any,
    datetime: str,
    resolution: float | str = 60.0,
    top_k: int | None = 3,
    max_cloud_cover: float = 90.0,
    concurrency: int = 192,
    endpoint: str = "auto",
    disk_cache: str | os.PathLike[str] | None = None,
    scout_factor: int = 8,
    bands: list[str] | None = None,
    output_crs: str = "native",
    coverage_target: float = 0.0,
    min_k: int = 2,
    max_k: int = 8,
    windowed_fetch: bool = False,
    emit_uncertainty: bool = False,
    *,
    device: str = "auto",
    inflate: str = "auto",
    errors: str = "repair",
    progress: Any = None,
    items: Any = None,
    stac_url: str | None = None,
    like: Any = None,
    geobox: Any = None,
    crs: Any = None,
    resampling: str = "bilinear",
    mask_resampling: str = "worst",
    band_quality: bool = False,
    cloud_buffer: float = 0.0,
    rule: str = "clearest",
    fill: float | bool = 0.001,
    order: Order | None = None,
    offset: Offset = None,
    max_failed: float = 0.2,
    memory_limit: int | None = None,
    threads: int | None = None,
    timeout: float | None = None,
) -> Composite:
    """Cloud-free composite of a box: for every pixel the best observation found.

    Parameters
    ----------
    bbox : (west, south, east, north), degrees
        west > east crosses 180 degrees. ``None`` with `geobox` or `like`.
    datetime : str
        ``"2024-06-01/2024-08-31"``, one day, RFC 3339 times, ``..`` for an open end. Days are whole.
        ``"P30D/2024-07-15"``: the thirty days that end with a day (any ISO 8601 duration).
    resolution : float or ``"native"``
        Output pixel in metres (in units of `crs` where that is given). ``"native"``: the archive's
        own, aligned with its pixels in its own projection.
    top_k : int or None
        Most scenes selected for a chunk of 512 px and MGRS tile, those that add most clear and
        observed pixels; one that would add less than 0.4 % (1/256) is not selected.
        ``None`` selects all.
    max_cloud_cover : float
        Percent; scenes at or above it are not considered. 100 or more: no filter.
    concurrency : int
        Most range requests at once; fewer where a server throttles.
    endpoint : str
        Sentinel-2: ``"pc"``, ``"earth-search"``, ``"earth-search-c1"`` or ``"auto"`` (earth-search
        on AWS in the USA, by ``AWS_REGION``; else pc). Others: ``"hls"`` (Landsat and Sentinel-2
        harmonised), ``"mcd43a4"`` (MODIS), ``"landsat"`` (Collection 2, Level 2).
    disk_cache : path, optional
        Folder where searches, headers and what masks showed are kept from run to run, 1 GiB at most.
    bands : list of str, optional
        coastal, blue, green, red, rededge1..3, nir, nir08, nir09, swir16, swir22. Default all that
        every scene of the endpoint has. Scenes without a named band are no candidates.
    output_crs : ``"native"`` or ``"utm"``
        Where no other CRS is given: the archive's own projection, or UTM of the hemisphere. They
        differ for hls and landsat south of the equator (northern zone, negative northings) and
        for mcd43a4 (sinusoidal).
    coverage_target, min_k, max_k
        Above 0: pick scenes per chunk and tile until that share of what can be seen is clear,
        at least `min_k` and at most `max_k`.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``. ``"auto"`` takes the first CUDA device if it
        can be used; why it could not is told in ``report.device_note``. Layers stay on the device.
    inflate : ``"auto"``, ``"nvcomp"`` or ``"safe"``
        What inflates on a CUDA device: the package's own bounds-checked kernels (``"safe"``, and
        ``"auto"`` until nvCOMP is measured to be faster) or nvCOMP. The pixels are the same.
    errors : ``"repair"`` or ``"raise"``
        What a tile that cannot be read means: the next best observation, or an exception.
    progress : bool, callable or tqdm-like, optional
        ``callable(stage, done, total)``; ``True`` or ``tqdm`` itself shows a bar for each stage, a bar
        made before one stage after the other.
    items : pystac items, dicts or ItemCollection, optional
        Candidates instead of a search; frozen, they replay a run.
    stac_url : str, optional
        Root of another catalogue of the same dialect (also env ``BESTPIXEL_GPU_STAC_URL``).
    like, geobox, crs
        The grid of an xarray object, an odc-geo GeoBox, or another CRS for the box.
    resampling : ``"bilinear"`` or ``"nearest"``
        Of bands; classes are never interpolated.
    mask_resampling : ``"worst"`` or ``"nearest"``
        The class of an output pixel larger than the mask's: the worst it covers, or its centre's.
    band_quality : bool
        For mcd43a4: an observation is as good as the worst of the quality layers of all bands that
        are read. False: band 1's layer stands for all.
    cloud_buffer : float
        Metres. An observation whose mask pixel lies nearer than that to one of cloud, cirrus or
        their shadow in the same mask, centre to centre, is marginal at best: thin rims that were not
        flagged lose to what is clear elsewhere.
    rule : ``"clearest"``, ``"latest"``, ``"first"`` or ``"ndvi"``
        What decides between the observations of a pixel. ``"clearest"``: the score, then `order`.
        ``"latest"``: among the usable, which are the clear and the marginal ones, the newest; where
        there is none of them, the newest of the others (dark, shadow, or marginal for a cloud nearer
        than `cloud_buffer`). ``"first"``: the same with `order`, so by default the oldest. Every
        scene found competes then, whatever `top_k`, `coverage_target` and `fill` say.
        ``"ndvi"``: the score, then the greatest (nir - red) / (nir + red) of the painted values
        (0 where both are 0), then `order`; an observation without valid red and nir is none. Red and
        nir of every scene that competes are read.
    fill : float or bool
        Unselected scenes compete after all selected ones of the same score unless they would win
        less than this share of a chunk. ``True``: always, no pixel that was clear on any scene
        stays cloudy. ``False``: selected scenes only.
    order : str or callable
        Decides between observations that are equal by the rule: ``"clearest"`` (default),
        ``"cloud_cover"``, ``"newest"`` (default of ``rule="latest"``), ``"oldest"`` (of ``"first"``),
        ``"nearest:<date>"``, ``"ancestor"``, or a key on :class:`Scene`, whose own errors come through.
    offset : int, mapping id -> int, or callable(item), optional
        DN to subtract, instead of what the metadata say.
    max_failed : float
        Share of wanted tiles that may fail before the run raises.
    memory_limit : int, optional
        Bytes for arrays, tiles and buffers; default half of what the machine or its cgroup has free.
    threads : int, optional
        Compute threads; default the CPUs this process may use.
    timeout : float, optional
        Seconds for the whole call.
    scout_factor : int
        Accepted for the ancestor's callers. Masks are read once, so it changes nothing.
    windowed_fetch : bool
        With `coverage_target`: a selected scene wins only inside the box around the chunks that
        picked it, as in the ancestor. Dates may then change along chunk edges, and pixels beside the
        box that only this scene shows clear stay cloudy, or empty; ``observation_count`` counts it
        everywhere. Else it changes nothing: only winners' tiles are fetched in any case.
    emit_uncertainty : bool
        Adds ``boa_unc``: for each band ``max(sqrt(variance + (0.02 winner)^2), 10)`` in DN, float32,
        not a number where the band is nodata. The variance (0 for a single value) is that of the
        valid values of the selected scenes whose score is the winner's, and of the winner. All
        their bands are read.

    Returns
    -------
    Composite
        A mapping with ``bands`` (uint16, nodata 65535, DN / 10000 = reflectance), ``quality``,
        ``observation_count``, ``selected_observation``, ``date``, ``source_ids``, ``grid``,
        ``report``, and ways out: ``to_xarray()``, ``to_cog()``, ``quicklook()``.

    Raises
    ------
    InputError, MemoryLimitError
        Before any request.
    NoScenesError
        Nothing usable was found; the message says what was searched.
    IncompleteError
        More failed than `max_failed` or `errors` allow; holds the report.
    SourceError, CatalogError
        The catalogue could not be reached, or a wait passed its limit.
    """
    request = checked(locals())
    from bestpixel_gpu.transfer.loop import run_sync

    return run_sync(_composite(request), timeout=request.timeout)


async def build_composite_async(*args: Any, **kwargs: Any) -> Composite:
    """Await :func:`build_composite` on the running loop; the same arguments and result."""
    request = _bound(*args, **kwargs)
    from bestpixel_gpu.transfer.loop import limited

    return await limited(_composite(request), request.timeout)


def explain(*args: Any, **kwargs: Any) -> Explanation:
    """Cost of :func:`build_composite` with the same arguments; reads masks and headers, no band tile."""
    request = _bound(*args, **kwargs)
    from bestpixel_gpu.transfer.loop import run_sync

    return run_sync(_explain(request), timeout=request.timeout)


async def explain_async(*args: Any, **kwargs: Any) -> Explanation:
    """Await :func:`explain` on the running loop."""
    request = _bound(*args, **kwargs)
    from bestpixel_gpu.transfer.loop import limited

    return await limited(_explain(request), request.timeout)


_SIGNATURE = inspect.signature(build_composite)
for _twin in (build_composite_async, explain, explain_async):
    setattr(_twin, "__signature__", _SIGNATURE)  # noqa: B010  (mypy knows no such attribute)


def _bound(*args: Any, **kwargs: Any) -> Request:
    call = _SIGNATURE.bind(*args, **kwargs)
    call.apply_defaults()
    return checked(call.arguments)


def checked(arguments: dict[str, Any]) -> Request:
    """The request of a call's arguments, all of them."""
    arguments = dict(arguments)
    whole("scout_factor", arguments.pop("scout_factor"), 1)
    return make_request(**arguments)


async def _composite(request: Request) -> Composite:
    from bestpixel_gpu.compositing.run import composite
    from bestpixel_gpu.compositing.setup import open_session

    async with open_session(request) as session:
        return await composite(session)


async def _explain(request: Request) -> Explanation:
    from bestpixel_gpu.compositing.explain import explain as run
    from bestpixel_gpu.compositing.setup import open_session

    async with open_session(request) as session:
        return await run(session)
