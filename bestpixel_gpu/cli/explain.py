"""``bestpixel-gpu explain``: what a composite would read and take."""

from __future__ import annotations

import json

import typer

import bestpixel_gpu
from bestpixel_gpu.cli.console import Debug, Json, Quiet, plain_errors, progress, wants_json
from bestpixel_gpu.cli.options import RequestOptions
from bestpixel_gpu.result.report import SceneRecord, text_table

_HEADINGS = ("item", "date", "tile", "cloud %", "offset", "status", "reason")


def explain(
    request: RequestOptions, json_line: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Show scenes, bytes for each band and memory of a composite; no band tile is read."""
    with plain_errors(debug=debug):
        arguments = request.arguments()
        with progress(quiet=quiet) as show:
            found = bestpixel_gpu.explain(**arguments, progress=show)
        if wants_json(json_line):
            typer.echo(json.dumps(found.to_dict()))
        else:
            typer.echo(str(found))
            typer.echo("")
            typer.echo(text_table([_HEADINGS, *map(_row, found.scenes)]))


def _row(scene: SceneRecord) -> tuple[str, ...]:
    cloud = "" if scene.cloud_cover is None else f"{scene.cloud_cover:.1f}"
    return (
        scene.id,
        scene.date[:10],
        scene.tile,
        cloud,
        str(scene.offset),
        scene.status,
        scene.reason,
    )
