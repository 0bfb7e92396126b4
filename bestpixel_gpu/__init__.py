"""Cloud-free composites from remote COGs: the best observation of every pixel.

::

    import bestpixel_gpu
    result = bestpixel_gpu.build_composite((7.0, 44.6, 7.2, 44.8), "2024-06-01/2024-08-31", resolution=10)
    result.to_cog("composite/")

Nothing heavy is loaded at import; names are bound when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "api": ("build_composite", "build_composite_async", "explain", "explain_async"),
    "series": (
        "build_monthly_composites",
        "build_monthly_composites_async",
        "iter_composites",
        "iter_composites_async",
        "iter_monthly_composites",
        "iter_monthly_composites_async",
    ),
    "result.composite": ("Composite",),
    "result.period": ("FailedPeriod", "Period"),
    "compositing.explain": ("Explanation",),
    "engines": ("release_memory",),
    "engines.toa": ("correct_toa",),
    "result.report": ("Report",),
    "catalog.scene": ("Scene",),
    "geo.grid": ("Grid",),
    "errors": (
        "AuthError",
        "BestPixelError",
        "BestPixelWarning",
        "CatalogError",
        "CorruptTileError",
        "DeviceError",
        "FormatError",
        "IncompleteError",
        "InputError",
        "MemoryLimitError",
        "MissingError",
        "NoScenesError",
        "OffsetWarning",
        "PartialResultWarning",
        "SourceError",
        "StalledError",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]  # noqa: PLE0604

if TYPE_CHECKING:
    from bestpixel_gpu.api import build_composite as build_composite
    from bestpixel_gpu.api import build_composite_async as build_composite_async
    from bestpixel_gpu.api import explain as explain
    from bestpixel_gpu.api import explain_async as explain_async
    from bestpixel_gpu.catalog.scene import Scene as Scene
    from bestpixel_gpu.compositing.explain import Explanation as Explanation
    from bestpixel_gpu.engines import release_memory as release_memory
    from bestpixel_gpu.engines.toa import correct_toa as correct_toa
    from bestpixel_gpu.errors import *  # noqa: F403
    from bestpixel_gpu.geo.grid import Grid as Grid
    from bestpixel_gpu.result.composite import Composite as Composite
    from bestpixel_gpu.result.period import FailedPeriod as FailedPeriod
    from bestpixel_gpu.result.period import Period as Period
    from bestpixel_gpu.result.report import Report as Report
    from bestpixel_gpu.series import build_monthly_composites as build_monthly_composites
    from bestpixel_gpu.series import build_monthly_composites_async as build_monthly_composites_async
    from bestpixel_gpu.series import iter_composites as iter_composites
    from bestpixel_gpu.series import iter_composites_async as iter_composites_async
    from bestpixel_gpu.series import iter_monthly_composites as iter_monthly_composites
    from bestpixel_gpu.series import iter_monthly_composites_async as iter_monthly_composites_async


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
