"""A made composite: smooth reflectance, an empty corner, three scenes, one of them lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from bestpixel_gpu.geo.grid import Grid
from bestpixel_gpu.result.composite import Composite
from bestpixel_gpu.result.report import Failure, Report, SceneRecord

UTM31 = "EPSG:32631"
SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs +type=crs"
FIRST = datetime(2024, 7, 2, 10, 50, 31, tzinfo=UTC)


def make_grid(height: int = 70, width: int = 90, crs: str = UTM31, res: float = 60.0) -> Grid:
    return Grid(crs, 0.0, 0.0, 5001, -81667, res, res, width, height)


def make_report() -> Report:
    report = Report.begin({"bbox": [6.0, 44.0, 6.1, 44.1], "top_k": 3}, "cpu", 2)
    report.items_found = 4
    for rank in range(3):
        when = FIRST + timedelta(days=5 * rank)
        report.scenes.append(
            SceneRecord(
                id=f"S2A_31TGK_{when:%Y%m%d}",
                date=when.isoformat(),
                tile="31TGK",
                collection="sentinel-2-l2a",
                cloud_cover=10.0 * rank,
                offset=1000,
                offset_reason="s2:processing_baseline 05.10",
                clear_share=0.9 - rank / 10,
                selected=rank < 2,
                rank=rank,
                pixels_won=100 * rank,
            )
        )
    lost = SceneRecord("S2B_<lost>", "2024-07-30T10:00:00+00:00", "31TGK", "sentinel-2-l2a")
    lost.status, lost.reason = "failed", "mask: 404 from example.test"
    report.scenes.append(lost)
    report.failures.append(Failure("S2A_31TGK_20240702", "B04", 7, 503, 4, "503 from example.test/B04.tif"))
    report.lost_tiles, report.wanted_tiles, report.repair_rounds = 1, 40, 1
    report.bytes, report.requests, report.retries = 5 << 20, 61, 3
    report.seconds = {"search": 0.25, "paint": 1.5}
    return report


def make_composite(
    grid: Grid | None = None, bands: Sequence[str] = ("blue", "green", "red"), **changed: Any
) -> Composite:
    """Rows 0..9 x columns 0..14 are empty; a band's value is 1000 k + 7 row + 11 column."""
    grid = grid or make_grid()
    r, c = np.mgrid[: grid.height, : grid.width]
    empty = (r < 10) & (c < 15)
    layers = {
        name: np.where(empty, 65535, 1000 * k + 7 * r + 11 * c).astype(np.uint16)
        for k, name in enumerate(bands, 1)
    }
    report = make_report()
    report.empty_pixels = int(empty.sum())
    values: dict[str, Any] = {
        "grid": grid,
        "bands": layers,
        "quality": np.where(empty, 65535, (r // 8) % 3).astype(np.uint16),
        "observation_count": np.where(empty, 0, 1 + c % 3).astype(np.uint16),
        "selected_observation": np.where(empty, -1, (r + c) // 9 % 3).astype(np.int16),
        "source_ids": [s.id for s in report.scenes if s.status == "used"],
        "source_dates": [FIRST + timedelta(days=5 * k) for k in range(3)],
        "report": report,
        "endpoint": "https://example.test/stac",
        "collection": "sentinel-2-l2a",
        "partition_tiles": ["31TGK"],
        "multi_tile_chunks": 0,
        "timings": {"total": 1.75, "compose": 1.5},
    }
    return Composite(**(values | changed))
