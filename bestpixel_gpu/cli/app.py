"""The typer app: one command for each file beside this one."""

from __future__ import annotations

from typing import Annotated

import typer

import bestpixel_gpu
from bestpixel_gpu.cli.composite import composite
from bestpixel_gpu.cli.demo import demo
from bestpixel_gpu.cli.explain import explain
from bestpixel_gpu.cli.monthly import monthly
from bestpixel_gpu.cli.options import RequestCommand, takes_request
from bestpixel_gpu.cli.series import series

app = typer.Typer(
    name="bestpixel-gpu",
    help="Cloud-free satellite composites: the best observation of every pixel, straight from remote COGs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(cls=RequestCommand)(takes_request(composite))
app.command(cls=RequestCommand)(takes_request(explain))
app.command(cls=RequestCommand)(takes_request(monthly, without="datetime"))
app.command(cls=RequestCommand)(takes_request(series))
app.command()(demo)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(bestpixel_gpu.__version__)
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options before the command."""
