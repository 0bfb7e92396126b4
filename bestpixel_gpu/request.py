"""A checked request: what the caller asked, validated before anything is sent anywhere."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from numbers import Real
from typing import Any, Literal

from bestpixel_gpu.errors import InputError, without_query

BBox = tuple[float, float, float, float]
Order = str | Callable[[Any], Any]
Offset = int | Mapping[str, int] | Callable[[Any], int | None] | None
Progress = Callable[[str, int, int], None]

ORDERS = ("clearest", "cloud_cover", "newest", "oldest", "nearest:<date>", "ancestor")
RULES = ("clearest", "latest", "first", "ndvi")
INDEX_BANDS = ("red", "nir")
"""What the rule "ndvi" reads of every competing scene."""
MAX_CLOUD_BUFFER = 5000.0
"""Metres; more would keep away from every cloud of a mask, and read whole masks for small boxes."""
MAX_PIXELS = 1 << 34
"""Outputs beyond this are taken for a slip of the pen (a resolution in degrees, say)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Arguments of :func:`bestpixel_gpu.build_composite`, checked and in one form."""

    bbox: BBox | None
    datetime: str
    resolution: float | Literal["native"]
    top_k: int | None
    max_cloud_cover: float
    concurrency: int
    endpoint: str
    disk_cache: str | None
    bands: tuple[str, ...] | None
    output_crs: str
    """``"native"``: the archive's own projection; ``"utm"``: UTM of the hemisphere."""
    coverage_target: float
    min_k: int
    max_k: int
    device: str
    inflate: str
    errors: str
    progress: Progress | None
    items: Any
    stac_url: str | None
    geobox: Any
    crs: str | None
    resampling: str
    mask_resampling: str
    band_quality: bool
    cloud_buffer: float
    rule: str
    emit_uncertainty: bool
    windowed_fetch: bool
    fill: float | None
    """Share of a chunk below which an unselected scene is barred; ``None``: selected scenes only."""
    order: Order
    offset: Offset
    max_failed: float
    memory_limit: int | None
    threads: int | None
    timeout: float | None

    @property
    def by_time(self) -> bool:
        """Whether time decides between usable observations before their scores do."""
        return self.rule in ("latest", "first")

    @property
    def index_bands(self) -> tuple[str, ...]:
        """Bands whose values the rule looks at."""
        return INDEX_BANDS if self.rule == "ndvi" else ()

    @property
    def bilinear(self) -> bool:
        """Whether bands are interpolated."""
        return self.resampling == "bilinear"


def check_bbox(bbox: Any) -> BBox:
    """Four finite degrees: west, south, east, north.

    west > east is a crossing of 180 degrees where the box is then narrower than 180 degrees.

    Raises
    ------
    InputError
        With the value and what is accepted.
    """
    form = "bbox must be (west, south, east, north) in degrees"
    try:
        values = tuple(float(v) for v in bbox)
    except (TypeError, ValueError):
        raise InputError(f"{form}, got {bbox!r}") from None
    if len(values) != 4:
        raise InputError(f"{form}: four numbers, got {len(values)}")
    if not all(map(math.isfinite, values)):
        raise InputError(f"{form}: finite numbers, got {values}")
    west, south, east, north = values
    if not (-180 <= west <= 180 and -180 <= east <= 180):
        raise InputError(
            f"{form}: longitudes in -180..180, got {west} and {east}; write a crossing of 180 as west > east"
        )
    if not (-90 <= south <= 90 and -90 <= north <= 90):
        raise InputError(f"{form}: latitudes in -90..90, got {south} and {north}")
    if south >= north:
        raise InputError(f"{form}: south {south} is not below north {north}; swap them")
    if west == east:
        raise InputError(f"{form}: west and east are both {west}: the box is empty")
    if west > east and east - west + 360 >= 180:
        raise InputError(
            f"{form}: west {west} is not left of east {east}, and no crossing of 180 degrees; swap them"
        )
    return west, south, east, north


def number(name: str, value: Any, low: float, high: float, unit: str = "") -> float:
    """A finite real number within [low, high]; InputError else."""
    ok = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))
    if not ok or not low <= float(value) <= high:
        raise InputError(f"{name} must be a number in {low:g}..{high:g}{unit}, got {value!r}")
    return float(value)


def whole(name: str, value: Any, low: int, high: int = 1 << 31) -> int:
    """A whole number within [low, high]; InputError else."""
    try:
        ok = not isinstance(value, bool) and int(value) == value
    except (TypeError, ValueError, OverflowError):
        ok = False
    if not ok or not low <= int(value) <= high:
        raise InputError(f"{name} must be a whole number in {low}..{high}, got {value!r}")
    return int(value)


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """One of the allowed words; InputError with all of them else."""
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return str(value)


def make_request(
    *,
    bbox: Any,
    datetime: Any,
    resolution: Any,
    top_k: Any,
    max_cloud_cover: Any,
    concurrency: Any,
    endpoint: Any,
    disk_cache: Any,
    bands: Any,
    output_crs: Any,
    coverage_target: Any,
    min_k: Any,
    max_k: Any,
    device: Any,
    inflate: Any,
    errors: Any,
    progress: Any,
    items: Any,
    stac_url: Any,
    like: Any,
    geobox: Any,
    crs: Any,
    resampling: Any,
    mask_resampling: Any,
    band_quality: Any,
    cloud_buffer: Any,
    rule: Any,
    emit_uncertainty: Any,
    windowed_fetch: Any,
    fill: Any,
    order: Any,
    offset: Any,
    max_failed: Any,
    memory_limit: Any,
    threads: Any,
    timeout: Any,
) -> Request:
    """Check every argument that can be checked without a catalogue; see ``build_composite``."""
    if sum(v is not None for v in (like, geobox, crs)) > 1:
        raise InputError("give one of like=, geobox=, crs=: two would fix the grid twice")
    box = geobox if geobox is not None else like
    if bbox is None and box is None:
        raise InputError("no area: give bbox=(west, south, east, north), or like= / geobox=")
    if not isinstance(datetime, str):
        raise InputError(f"datetime must be text like '2024-06-01/2024-08-31', got {datetime!r}")
    low, high = whole("min_k", min_k, 0), whole("max_k", max_k, 1)
    if coverage_target and low > high:
        raise InputError(f"min_k {low} is above max_k {high}")
    grid_crs = _crs(crs, output_crs)
    finest = 0.01 if grid_crs is None else 1e-7  # degrees: about a centimetre too
    return Request(
        bbox=None if bbox is None else check_bbox(bbox),
        datetime=datetime,
        resolution=_resolution(resolution, finest, grid_crs),
        top_k=None if top_k is None else whole("top_k", top_k, 1),
        max_cloud_cover=number("max_cloud_cover", max_cloud_cover, 0, 1e9, " percent"),
        concurrency=whole("concurrency", concurrency, 1, 4096),
        endpoint=str(endpoint),
        disk_cache=_folder("disk_cache", disk_cache),
        bands=_bands(bands),
        output_crs="utm" if isinstance(crs, str) and crs.lower() == "utm" else str(output_crs),
        coverage_target=number("coverage_target", coverage_target, 0, 1),
        min_k=low,
        max_k=high,
        device=str(device),
        inflate=choice("inflate", inflate, ("auto", "nvcomp", "safe")),
        errors=choice("errors", errors, ("repair", "raise")),
        progress=_progress(progress),
        items=items,
        stac_url=_catalogue(stac_url or os.environ.get("BESTPIXEL_GPU_STAC_URL")),
        geobox=box,
        crs=grid_crs,
        resampling=choice("resampling", resampling, ("bilinear", "nearest")),
        mask_resampling=choice("mask_resampling", mask_resampling, ("worst", "nearest")),
        band_quality=flag("band_quality", band_quality),
        cloud_buffer=number("cloud_buffer", cloud_buffer, 0, MAX_CLOUD_BUFFER, " metres"),
        rule=choice("rule", rule, RULES),
        emit_uncertainty=flag("emit_uncertainty", emit_uncertainty),
        windowed_fetch=flag("windowed_fetch", windowed_fetch),
        fill=_fill(fill),
        order=_order_for(rule, order),
        offset=_offset(offset),
        max_failed=number("max_failed", max_failed, 0, 1),
        memory_limit=None if memory_limit is None else whole("memory_limit", memory_limit, 1 << 20, 1 << 50),
        threads=None if threads is None else whole("threads", threads, 1, 1024),
        timeout=None if timeout is None else number("timeout", timeout, 1e-3, 1e9, " seconds"),
    )


def _folder(name: str, value: Any) -> str | None:
    if value is None:
        return None
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise InputError(f"{name} must be the path of a folder, got {value!r}")
    return path


def _catalogue(url: Any) -> str | None:
    if not url:
        return None
    if not isinstance(url, str) or not url.lower().startswith(("http://", "https://")):
        raise InputError(f"stac_url must be the web address of a STAC API, got {without_query(str(url))!r}")
    return url


def flag(name: str, value: Any) -> bool:
    """Check that a value is True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r}")
    return value


def _resolution(resolution: Any, finest: float, crs: str | None) -> float | Literal["native"]:
    if isinstance(resolution, str) and resolution == "native":
        if crs is not None:
            raise InputError("resolution='native' is the archive's pixel: leave crs= out, or give a number")
        return "native"
    return number("resolution", resolution, finest, 100_000, " metres (units of crs=), or 'native'")


def _bands(bands: Any) -> tuple[str, ...] | None:
    if bands is None:
        return None
    if not isinstance(bands, Iterable):
        raise InputError(f"bands must be a list of names, got {bands!r}")
    names = (bands,) if isinstance(bands, str) else tuple(bands)
    if not names:
        raise InputError("bands is empty: name at least one, or leave it out for all")
    return tuple(dict.fromkeys(map(str, names)))


def _crs(crs: Any, output_crs: Any) -> str | None:
    choice("output_crs", output_crs, ("native", "utm"))
    if crs is None or (isinstance(crs, str) and crs.lower() == "utm"):
        return None
    return crs if isinstance(crs, str) else str(getattr(crs, "to_wkt", lambda: f"EPSG:{crs}")())


def _fill(fill: Any) -> float | None:
    if fill is True:
        return 0.0
    if fill is False or fill is None:
        return None
    return number("fill", fill, 0, 1, " (share of a chunk), or True or False")


def _order_for(rule: Any, order: Any) -> Order:
    """The order, or what the rule asks for where none is given."""
    if order is None:
        return {"latest": "newest", "first": "oldest"}.get(str(rule), "clearest")
    if rule == "latest" and order != "newest":
        raise InputError(f"rule='latest' goes by time: leave order={order!r} out, or take rule='first'")
    if rule in ("first", "ndvi") and order == "ancestor":
        raise InputError(f"order='ancestor' goes with rule='clearest' only, got rule={rule!r}")
    return _order(order)


def _order(order: Any) -> Order:
    if callable(order):
        return order  # type: ignore[no-any-return]
    if isinstance(order, str) and order.startswith("nearest:"):
        try:
            date.fromisoformat(order.partition(":")[2][:10])
        except ValueError:
            raise InputError(f"order {order!r}: write 'nearest:YYYY-MM-DD'") from None
        return order
    if isinstance(order, str) and order in ORDERS and "<" not in order:
        return order
    raise InputError(f"order must be a callable or one of {', '.join(map(repr, ORDERS))}, got {order!r}")


def _offset(offset: Any) -> Offset:
    if offset is None or callable(offset) or isinstance(offset, Mapping):
        return offset  # type: ignore[no-any-return]
    return whole("offset", offset, -32768, 32767)


def _progress(progress: Any) -> Progress | None:
    if progress is None or progress is False:
        return None
    if progress is True:
        return _bars(_tqdm())
    makes_bars = isinstance(progress, type)
    if callable(progress) and not makes_bars:
        return progress  # type: ignore[no-any-return]
    needed = ("update", "close") if makes_bars else ("update", "reset", "set_description")
    if not all(hasattr(progress, name) for name in needed):
        raise InputError(
            "progress must be True or False, a callable (stage, done, total), "
            f"or tqdm or one of its bars, got {progress!r}"
        )
    return _bars(progress) if makes_bars else _stages_of(progress)


def _tqdm() -> Any:
    try:
        return import_module("tqdm.auto").tqdm
    except ImportError:
        raise InputError(
            "progress=True needs tqdm (pip install tqdm); or give a callable (stage, done, total)"
        ) from None


def _stages_of(bar: Any) -> Progress:
    """Progress on the caller's own bar, which shows one stage after the other and stays open."""
    shown = ""

    def show(stage: str, done: int, total: int) -> None:
        nonlocal shown
        if stage != shown:
            shown = stage
            bar.set_description(stage)
            bar.reset(total)
        bar.total = total
        bar.update(done - bar.n)

    return show


def _bars(make: Any) -> Progress:
    """Progress as tqdm-like bars, one for each stage."""
    bars: dict[str, Any] = {}

    def show(stage: str, done: int, total: int) -> None:
        bar = bars.get(stage)
        if bar is None:
            bar = bars[stage] = make(total=total, desc=stage)
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return show
