"""``bestpixel-gpu composite``: one composite, as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import bestpixel_gpu
from bestpixel_gpu.cli.console import Debug, Json, Quiet, plain_errors, progress, wants_json
from bestpixel_gpu.cli.options import RequestOptions
from bestpixel_gpu.result.composite import Composite


def composite(
    request: RequestOptions,
    out_dir: Annotated[
        Path,
        typer.Option(help="Folder of the COGs, report and scene list; or one file ending in .tif."),
    ] = Path("bestpixel-composite"),
    no_write: Annotated[bool, typer.Option("--no-write", help="Write no files, print JSON.")] = False,
    json_line: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a composite and write it as Cloud Optimized GeoTIFFs."""
    with plain_errors(debug=debug):
        arguments = request.arguments()
        if not no_write:
            from bestpixel_gpu.result.files import need

            need("rasterio", "COG")  # before an hour of reading, not after
        with progress(quiet=quiet) as show:
            result = bestpixel_gpu.build_composite(**arguments, progress=show)
        files = [] if no_write else result.to_cog(out_dir)
        if no_write or wants_json(json_line):
            typer.echo(json.dumps(summary(result, files)))
        else:
            typer.echo(str(result.report))
            typer.echo(f"\n{len(files)} files in {out_dir}")


def summary(result: Composite, files: list[Path]) -> dict[str, Any]:
    """What the JSON line says; the first five keys are the ancestor's."""
    report, counts = result.report, result.report.counts
    return {
        "grid": result["grid"],
        "scenes": counts["found"],
        "scored": counts["used"],
        "observations": counts["selected"],
        "timing": result.timings,
        "failed_scenes": counts["failed"],
        "lost_tiles": report.lost_tiles,
        "empty_pixels": report.empty_pixels,
        "bytes": report.bytes,
        "requests": report.requests,
        "searches": report.searches,
        "masks_spared": report.masks_spared,
        "source_ids": result.source_ids,
        "files": [str(path) for path in files],
    }
