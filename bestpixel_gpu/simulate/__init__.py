"""An embedded archive: simulated Sentinel-2 scenes as COGs with STAC items, served on loopback.

>>> from pathlib import Path
>>> from bestpixel_gpu.simulate import ArchiveSpec, build, serve
>>> folder = build(ArchiveSpec(), Path("archive"))  # doctest: +SKIP
>>> with serve(folder, latency_ms=20) as archive:  # doctest: +SKIP
...     print(archive.stac_url("pc"), archive.bbox)
"""

from bestpixel_gpu.simulate.archive import build, day_factor, items, truth
from bestpixel_gpu.simulate.options import ServerOptions
from bestpixel_gpu.simulate.server import LocalArchive, serve
from bestpixel_gpu.simulate.spec import ArchiveSpec

__all__ = ["ArchiveSpec", "LocalArchive", "ServerOptions", "build", "day_factor", "items", "serve", "truth"]
