"""``bestpixel-gpu series``: one composite for each slice of a span of dates; and what ``monthly`` shares."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import bestpixel_gpu
from bestpixel_gpu.cli.composite import summary
from bestpixel_gpu.cli.console import Debug, Json, Quiet, plain_errors, progress, wants_json
from bestpixel_gpu.cli.options import RequestOptions
from bestpixel_gpu.errors import InputError
from bestpixel_gpu.result.composite import Composite
from bestpixel_gpu.result.period import FailedPeriod

OutDir = Annotated[Path, typer.Option(help="Folder of one folder of COGs for each period.")]
NoWrite = Annotated[bool, typer.Option("--no-write", help="Write no files, print JSON.")]
AodTable = Annotated[
    Path | None, typer.Option(help="AOD by day: a JSON object, or CSV lines day,aod; with --aod-max.")
]
AodMax = Annotated[float | None, typer.Option(help="Leave out scenes of days above it.")]
RejectUnknown = Annotated[
    bool, typer.Option("--reject-unknown", help="Leave out scenes of days without an AOD, too.")
]


def series(
    request: RequestOptions,
    period: Annotated[
        str, typer.Option(help="ISO 8601 duration that slices --datetime: P10D, P1M, P3M, P1Y.")
    ] = "P1M",
    out_dir: OutDir = Path("bestpixel-series"),
    aod_by_day: AodTable = None,
    aod_max: AodMax = None,
    reject_unknown: RejectUnknown = False,
    no_write: NoWrite = False,
    json_line: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make one composite for each slice of a span of dates and write it as COGs."""
    with plain_errors(debug=debug):
        gate = {"aod_by_day": read_table(aod_by_day), "aod_max": aod_max, "reject_unknown": reject_unknown}
        with Writer(out_dir, no_write, json_line) as writer, progress(quiet=quiet) as show:
            arguments = request.arguments() | gate
            writer.take(bestpixel_gpu.iter_composites(**arguments, period=period, progress=show))


@dataclass(slots=True)
class Writer:
    """Writes each composite of a series when it comes, and keeps none."""

    out_dir: Path
    no_write: bool
    json_line: bool
    made: int = 0
    failed: int = 0

    def __enter__(self) -> Writer:
        if not self.no_write:
            from bestpixel_gpu.result.files import need

            need("rasterio", "COG")  # before an hour of reading, not after
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """A line for people, and a failure where there is no composite at all."""
        if kind is not None:
            return
        if not self._for_programs:
            typer.echo(f"{self.made} composites in {self.out_dir}, {self.failed} periods without one")
        if not self.made:
            raise typer.Exit(1)

    def take(self, results: Iterable[Composite | FailedPeriod]) -> None:
        """Write what comes, one line for each period."""
        for result in results:
            if isinstance(result, FailedPeriod):
                self._tell_failure(result)
            else:
                self._write(result)

    @property
    def _for_programs(self) -> bool:
        return self.no_write or wants_json(self.json_line)

    def _write(self, result: Composite) -> None:
        name = str(result.period)
        files = [] if self.no_write else result.to_cog(self.out_dir / name)
        self.made += 1
        if self._for_programs:
            typer.echo(json.dumps(_dates(result) | summary(result, files)))
        else:
            used, empty = result.report.counts["used"], result.report.empty_pixels
            typer.echo(f"{name}  {used} scenes, {empty} empty pixels, {len(files)} files")

    def _tell_failure(self, result: FailedPeriod) -> None:
        self.failed += 1
        text = " ".join(str(result.error).split())
        if self._for_programs:
            typer.echo(json.dumps(_dates(result) | {"error": text, "kind": type(result.error).__name__}))
        typer.echo(f"warning: {result.period}: {text}", err=True)


def _dates(result: Composite | FailedPeriod) -> dict[str, Any]:
    period = result.period
    assert period is not None
    return {"period": period.name, "datetime": period.dates}


def read_table(path: Path | None) -> dict[str, float] | None:
    """AOD by day of a JSON object, or of CSV lines ``day,aod`` below an optional heading."""
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
        table = _aod_json(text) if text.lstrip().startswith("{") else _aod_csv(text)
        if not table:
            raise ValueError("no day in it")
    except OSError as exc:
        raise InputError(f"--aod-by-day: cannot read {path}: {exc.strerror}") from None
    except ValueError as exc:
        raise InputError(
            f"--aod-by-day: {path} is neither a JSON object nor CSV lines day,aod: {exc}"
        ) from None
    return table


def _aod_json(text: str) -> dict[str, float]:
    return dict(json.loads(text))


def _aod_csv(text: str) -> dict[str, float]:
    rows = [line.split(",") for line in text.splitlines() if line.strip()]
    if rows and not rows[0][0].strip()[:1].isdigit():
        rows = rows[1:]
    return {day.strip(): float(aod) if aod.strip() else float("nan") for day, aod in rows}
