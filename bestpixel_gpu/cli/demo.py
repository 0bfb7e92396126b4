"""``bestpixel-gpu demo``: a composite from the embedded archive, without network or account."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

import bestpixel_gpu
from bestpixel_gpu.cli.console import Debug, Quiet, plain_errors, progress
from bestpixel_gpu.errors import InputError

DATES = "2024-07-01/2024-08-31"
BANDS = ("red", "green", "blue", "nir")


def demo(
    out_dir: Annotated[Path, typer.Option(help="Folder of the picture and the COGs.")] = Path(
        "bestpixel-demo"
    ),
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a composite of simulated Sentinel-2 scenes, served by this process on 127.0.0.1."""
    from bestpixel_gpu.simulate import ArchiveSpec, build, serve

    def note(text: str) -> None:
        if not quiet:
            typer.echo(text, err=True)

    with plain_errors(debug=debug), tempfile.TemporaryDirectory(prefix="bestpixel-demo-") as scratch:
        note("building six cloudy dates of a small country on the border of two UTM zones ...")
        spec = ArchiveSpec(dialects=("earth-search",), tiles=2, south=False, size=640, bands=BANDS)
        folder = build(spec, Path(scratch) / "archive")
        with serve(folder) as archive, progress(quiet=quiet) as show:
            note(f"serving them at {archive.stac_url('earth-search')}")
            result = bestpixel_gpu.build_composite(
                archive.bbox,
                DATES,
                resolution=10.0,
                bands=list(BANDS),
                endpoint="earth-search",
                stac_url=archive.stac_url("earth-search"),
                progress=show,
            )
        note(f"\n{result.report}\n")
        for line in write(result, out_dir):
            typer.echo(line)


def write(result: bestpixel_gpu.Composite, out_dir: Path) -> list[str]:
    """Lines that say where picture and COGs lie, or what to install for them."""
    from bestpixel_gpu.result.picture import save_quicklook

    def picture() -> Path:
        return save_quicklook(result, out_dir / "picture.png", size=1600)

    def files() -> Path:
        return result.to_cog(out_dir)[0].parent

    lines = []
    for name, make in {"picture": picture, "files": files}.items():
        try:
            lines.append(f"{name:<8} {make()}")
        except InputError as missing:
            lines.append(f"{name:<8} left out: {missing}")
    return lines
