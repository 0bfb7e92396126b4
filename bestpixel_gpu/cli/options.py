"""The options that describe a request, shared by all commands that make one."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from bestpixel_gpu.errors import InputError

_where = partial(typer.Option, rich_help_panel="Where and when")
_which = partial(typer.Option, rich_help_panel="Which observation")
_how = partial(typer.Option, rich_help_panel="How it runs")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """Options as typed; :meth:`arguments` makes them the arguments of ``build_composite``."""

    bbox: Annotated[
        str | None, _where(metavar="W S E N", help="Degrees: four numbers, or W,S,E,N in one word.")
    ] = None
    datetime: Annotated[str | None, _where(help="2024-06-01/2024-08-31; '..' for an open end.")] = None
    resolution: Annotated[
        str,
        _where(metavar="METRES|native", help="Output pixel in metres (units of --crs), or the archive's."),
    ] = "60.0"
    crs: Annotated[str | None, _where(help="EPSG:n; default by --output-crs.")] = None
    output_crs: Annotated[
        str, _where(help="native: the archive's projection; utm: the UTM zone of the box.")
    ] = "native"
    bands: Annotated[str | None, _where(help="Names by comma, e.g. red,green,blue; default all.")] = None
    endpoint: Annotated[
        str, _where(help="auto, pc, earth-search, earth-search-c1, hls, mcd43a4 or landsat.")
    ] = "auto"
    stac_url: Annotated[str | None, _where(help="Root of another catalogue of the endpoint's kind.")] = None
    items: Annotated[
        Path | None, _where(help="JSON file with STAC items (collection or list) instead of a search.")
    ] = None

    top_k: Annotated[str, _which(metavar="N|all", help="Most scenes selected for a chunk and tile.")] = "3"
    fill: Annotated[
        str,
        _which(metavar="SHARE|true|false", help="Least share of a chunk that an unselected scene may win."),
    ] = "0.001"
    order: Annotated[
        str | None, _which(help="clearest, cloud_cover, newest, oldest, nearest:<date> or ancestor.")
    ] = None
    rule: Annotated[
        str, _which(help="clearest, latest, first or ndvi: what decides between observations.")
    ] = "clearest"
    cloud_buffer: Annotated[
        float, _which(metavar="METRES", help="What lies nearer than that to cloud is marginal at best.")
    ] = 0.0
    max_cloud_cover: Annotated[float, _which(help="Percent; scenes at or above are left out.")] = 90.0
    coverage_target: Annotated[float, _which(help="Above 0: scenes until that share is clear.")] = 0.0
    min_k: Annotated[int, _which(help="Least scenes with --coverage-target.")] = 2
    max_k: Annotated[int, _which(help="Most scenes with --coverage-target.")] = 8
    offset: Annotated[
        str, _which(metavar="auto|DN", help="DN to subtract, instead of what the metadata say.")
    ] = "auto"
    resampling: Annotated[str, _which(help="bilinear or nearest, of bands.")] = "bilinear"
    mask_resampling: Annotated[str, _which(help="worst or nearest, of class masks.")] = "worst"
    windowed_fetch: Annotated[
        bool,
        _which("--windowed-fetch", help="With --coverage-target: scenes win where they were picked only."),
    ] = False
    emit_uncertainty: Annotated[
        bool, _which("--emit-uncertainty", help="Also <band>_unc; reads all bands of selected scenes.")
    ] = False
    band_quality: Annotated[
        bool, _which("--band-quality", help="mcd43a4: the worst quality of all bands, not that of band 1.")
    ] = False

    device: Annotated[str, _how(help="auto, cpu, cuda or cuda:N.")] = "auto"
    inflate: Annotated[str, _how(help="auto, nvcomp or safe, on a CUDA device.")] = "auto"
    threads: Annotated[int | None, _how(help="Compute threads.")] = None
    memory_limit: Annotated[str | None, _how(metavar="SIZE", help="For example 2GiB or 500MB.")] = None
    concurrency: Annotated[int, _how(help="Most range requests at once.")] = 192
    timeout: Annotated[float | None, _how(help="Seconds for the whole run.")] = None
    errors: Annotated[str, _how(help="repair or raise: what an unreadable tile means.")] = "repair"
    max_failed: Annotated[float, _how(help="Share of tiles that may fail.")] = 0.2
    disk_cache: Annotated[
        Path | None, _how(help="Folder for searches, headers and what masks showed, kept from run to run.")
    ] = None
    scout_factor: Annotated[int, _how(help="Accepted for spx-build's callers; changes nothing.")] = 8

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of :func:`bestpixel_gpu.build_composite`.

        Raises
        ------
        InputError
            With the option, what was typed and what is accepted.
        """
        if self.datetime is None and self.items is None:
            raise InputError("no dates: give --datetime 2024-06-01/2024-08-31")
        return asdict(self) | {
            "bbox": None if self.bbox is None else parse_bbox(self.bbox),
            "datetime": self.datetime or "../..",
            "resolution": parse_resolution(self.resolution),
            "bands": None if self.bands is None else [b.strip() for b in self.bands.split(",") if b.strip()],
            "items": None if self.items is None else read_items(self.items),
            "top_k": None if self.top_k == "all" else parse_whole("--top-k", self.top_k, "all"),
            "fill": parse_fill(self.fill),
            "offset": None if self.offset == "auto" else parse_whole("--offset", self.offset, "auto"),
            "memory_limit": None if self.memory_limit is None else parse_size(self.memory_limit),
        }


class RequestCommand(TyperCommand):
    """A command whose ``--bbox`` may be followed by four numbers."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rest of the arguments, after joining the numbers of ``--bbox``."""
        return super().parse_args(ctx, join_bbox(args))


def takes_request(command: Callable[..., None], without: str = "") -> Callable[..., None]:
    """A command with the fields of :class:`RequestOptions`, but one perhaps, as options before its own.

    `command` gets the options object as its first argument, ``request``.
    """
    hints = get_type_hints(RequestOptions, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter(f.name, keyword, default=f.default, annotation=hints[f.name])
        for f in fields(RequestOptions)
        if f.name != without
    ]
    signature = inspect.signature(command, eval_str=True)
    own = [p.replace(kind=keyword) for p in signature.parameters.values() if p.name != "request"]

    def run(**values: Any) -> None:
        request = RequestOptions(**{p.name: values.pop(p.name) for p in shared})
        command(request, **values)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = signature.replace(parameters=[*shared, *own])  # type: ignore[attr-defined]
    return run


def join_bbox(args: list[str]) -> list[str]:
    """Arguments with ``--bbox 7 44.6 7.2 44.8`` written as ``--bbox 7,44.6,7.2,44.8``."""
    if "--bbox" not in args:
        return args
    at = args.index("--bbox") + 1
    box = args[at : at + 4]
    if len(box) < 4 or not all(map(_is_number, box)):
        return args
    return [*args[:at], ",".join(box), *args[at + 4 :]]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse_bbox(text: str) -> list[float]:
    """Numbers of ``W,S,E,N``."""
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise InputError(f"--bbox must be four numbers west south east north, got {text!r}") from None


def parse_resolution(text: str) -> float | str:
    """Metres, or ``native``."""
    try:
        return text if text == "native" else float(text)
    except ValueError:
        raise InputError(f"--resolution must be a number of metres or 'native', got {text!r}") from None


def parse_whole(option: str, text: str, word: str) -> int:
    """A whole number; the error names the option and the word that may stand there."""
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{option} must be a whole number or {word!r}, got {text!r}") from None


def parse_fill(text: str) -> float | bool:
    """``true``, ``false`` or a share."""
    words = {"true": True, "false": False}
    try:
        return words[text.lower()] if text.lower() in words else float(text)
    except ValueError:
        raise InputError(f"--fill must be true, false or a share of a chunk, got {text!r}") from None


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes of ``2GiB``, ``500MB``, ``1.5G`` or ``1073741824``."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    factor = (_UNITS | _BINARY).get(found[2]) if found else None
    if found is None or factor is None:
        raise InputError(f"--memory-limit must be a size like 2GiB or 500MB, got {text!r}")
    return int(float(found[1]) * factor)


def read_items(path: Path) -> list[dict[str, Any]]:
    """STAC items of a JSON file: an item collection, a list or one item."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise InputError(f"--items: cannot read {path}: {exc.strerror}") from None
    except ValueError as exc:
        raise InputError(f"--items: {path} is not JSON: {exc}") from None
    if isinstance(found, dict):
        found = found.get("features", [found])
    if not isinstance(found, list) or not all(isinstance(i, dict) and "assets" in i for i in found):
        raise InputError(f"--items: {path} holds no STAC items: give an item collection or a list of items")
    return found
