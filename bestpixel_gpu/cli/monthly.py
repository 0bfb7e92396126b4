"""``bestpixel-gpu monthly``: one composite for every month of every year."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import bestpixel_gpu
from bestpixel_gpu.cli.console import Debug, Json, Quiet, plain_errors, progress
from bestpixel_gpu.cli.options import RequestOptions
from bestpixel_gpu.cli.series import AodMax, AodTable, NoWrite, OutDir, RejectUnknown, Writer, read_table
from bestpixel_gpu.errors import InputError


def monthly(
    request: RequestOptions,
    years: Annotated[str, typer.Option(help="2019-2023, or 2019,2021.")],
    months: Annotated[str, typer.Option(help="6-8, or 6,7,8.")] = "1-12",
    out_dir: OutDir = Path("bestpixel-monthly"),
    aod_by_day: AodTable = None,
    aod_max: AodMax = None,
    reject_unknown: RejectUnknown = False,
    no_write: NoWrite = False,
    json_line: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make one composite for every month of every year and write it as COGs."""
    with plain_errors(debug=debug):
        gate = {"aod_by_day": read_table(aod_by_day), "aod_max": aod_max, "reject_unknown": reject_unknown}
        when = {"years": parse_numbers("--years", years), "months": parse_numbers("--months", months)}
        with Writer(out_dir, no_write, json_line) as writer, progress(quiet=quiet) as show:
            arguments = replace(request, datetime="..").arguments() | gate | when
            del arguments["datetime"]
            writer.take(bestpixel_gpu.iter_monthly_composites(**arguments, progress=show))


def parse_numbers(option: str, text: str) -> list[int]:
    """Whole numbers of ``6-8,12``."""
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if ends is None:
            raise InputError(f"{option} must be whole numbers like 6-8 or 6,7,8, got {text!r}")
        first = int(ends[1])
        found += range(first, int(ends[2] or first) + 1)
    return found
