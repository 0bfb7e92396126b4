"""Build or serve an embedded archive from the command line.

::

    python -m bestpixel_gpu.simulate build DIR --dates 8 --tiles 1 --size 2048
    python -m bestpixel_gpu.simulate serve DIR --port 8123 --latency-ms 20
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import Any

from bestpixel_gpu.errors import BestPixelError
from bestpixel_gpu.simulate.archive import build
from bestpixel_gpu.simulate.server import checked_options, run_server
from bestpixel_gpu.simulate.spec import BANDS, DIALECTS, ArchiveSpec

_DIALECTS = {"both": ("pc", "earth-search"), "all": DIALECTS, "es": ("earth-search",)}
_COVER = (0.55, 0.25, 0.10, 0.70, 0.35, 0.90, 0.15, 0.45)


def _build_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("dir", type=Path)
    p.add_argument(
        "--default", action="store_true", help="the small archive of the tests; no other option counts"
    )
    p.add_argument("--dates", type=int, default=8)
    p.add_argument("--tiles", type=int, default=1)
    p.add_argument("--across", type=int, default=0, help="tiles per row (default: one row)")
    p.add_argument(
        "--seam", action="store_true", help="on the border of two UTM zones, last column in the next"
    )
    p.add_argument("--south", action="store_true", help="one more tile, in the southern hemisphere")
    p.add_argument("--size", type=int, default=2048, help="pixels at 10 m, 10980 for a real tile")
    p.add_argument("--dialect", choices=[*_DIALECTS, *DIALECTS], default="both")
    p.add_argument(
        "--bands", type=_names, default=tuple(b.name for b in BANDS), help="names, by comma; default all"
    )
    p.add_argument("--block", type=int, help="tile side; default as the real archive")
    p.add_argument("--nbits", type=int, choices=[15, 16], help="default 15 for pc, 16 for es")
    p.add_argument("--overviews", choices=["chain", "subifd"], default="chain")
    p.add_argument("--cover", type=_shares, default=_COVER, help="cloud shares by date, by comma")
    p.add_argument(
        "--full-swath", action="store_true", help="no date cut by the swath (default: every third)"
    )
    p.add_argument(
        "--baselines", type=_names, default=("05.10",), help="by date, by comma; the last one holds on"
    )
    p.add_argument("--start", default="2024-07-02")
    p.add_argument("--level", type=int, default=6, help="compression level, 1 to 12")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int)


def _serve_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("dir", type=Path)
    p.add_argument("--port", type=int, default=8123, help="0: any free one")
    p.add_argument("--latency-ms", type=float, default=0.0, help="added to every answer")
    p.add_argument("--mbit", type=float, default=0.0, help="one shared link of so many Mbit/s; 0: unlimited")
    p.add_argument("--page", type=int, help="most items per search page")
    p.add_argument("--require-sas", action="store_true", help="pc files need a valid token")
    p.add_argument("--sas-ttl", type=float, default=3600.0, help="seconds")
    p.add_argument("--fault", action="append", default=[], metavar="KIND:P", help="repeatable")
    p.add_argument("--seed", type=int, default=1, help="of the faults")
    p.add_argument("--log", action="store_true", help="/__stats lists every range")


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _shares(text: str) -> tuple[float, ...]:
    return tuple(float(v) for v in text.split(","))


def _spec(args: argparse.Namespace) -> ArchiveSpec:
    if args.default:
        return ArchiveSpec()
    same = "tiles across seam south size dates start cover baselines bands block nbits overviews level seed"
    return ArchiveSpec(
        dialects=_DIALECTS.get(args.dialect, (args.dialect,)),
        cut_dates=() if args.full_swath else tuple(range(2, args.dates, 3)),
        duplicate_date=None,
        split_date=None,
        **{name: getattr(args, name) for name in same.split()},
    )


async def _serve(folder: Path, port: int, options: Any) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C ends asyncio.run
            loop.add_signal_handler(name, stop.set)
    await run_server(folder, port, options, lambda url: print(url, flush=True), stop)  # noqa: T201


def main(argv: list[str] | None = None) -> int:
    """Exit status of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m bestpixel_gpu.simulate", description="An embedded archive."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _build_options(commands.add_parser("build", help="write files and items"))
    _serve_options(commands.add_parser("serve", help="serve them on 127.0.0.1"))
    args = parser.parse_args(argv)
    try:
        if args.command == "build":
            print(build(_spec(args), args.dir, threads=args.threads))  # noqa: T201
            return 0
        same = ("latency_ms", "mbit", "page", "require_sas", "sas_ttl", "seed", "log")
        options = {name: getattr(args, name) for name in same} | {"faults": args.fault}
        asyncio.run(_serve(args.dir, args.port, checked_options(args.dir, options)))
    except (BestPixelError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
