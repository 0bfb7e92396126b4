"""Composites by the released wheel of `bestpixel` 0.3.0, in a Python of its own.

    python benchmarks/ancestor_run.py job.json cache result.npz

Its catalogue's address and its TLS roots are compiled in, but a search result that lies in its
cache folder is taken as it is, addresses and all: so it runs unmodified on files of loopback. The
job holds ``searches`` (items by the dates searched), ``root``, ``collections``, ``filtered``
(whether a search sends the cloud limit) and ``call``, the arguments of ``build_composite``, or of
``build_monthly_composites`` where there are months. One process makes one run: what it read stays
cached in it. A job with ``toa``, a file of arrays, is one of ``correct_toa``.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np


def search_key(job: dict[str, Any], dates: str) -> str:
    """Name of the search result in the ancestor's cache."""
    call = job["call"]
    parts = "\0".join(["schema:1", job["root"], "+".join(job["collections"]), ""])
    h = hashlib.sha1(parts.encode() + struct.pack("<4d", *call["bbox"]))
    h.update(dates.encode() + b"\0")
    if job["filtered"]:
        h.update(struct.pack("<d", call["max_cloud_cover"]))
    return h.hexdigest()


def run(job: dict[str, Any], cache: Path) -> dict[str, Any]:
    """Layers, bands and grid by number of the composite and name."""
    import bestpixel

    if "toa" in job:
        with np.load(job["toa"]) as given:
            return {"corrected": bestpixel.correct_toa(**given)}
    for dates, items in job["searches"].items():
        place = cache / "search" / f"{search_key(job, dates)}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({"schema": 1, "data": items}))
    if "months" in job["call"]:
        made = bestpixel.build_monthly_composites(disk_cache=str(cache), **job["call"])
    else:
        made = [bestpixel.build_composite(disk_cache=str(cache), **job["call"])]
    return {f"{n} {name}": a for n, one in enumerate(made) for name, a in flat(one).items()}


def flat(made: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a composite, as arrays."""
    return {
        **{k: made[k] for k in ("quality", "observation_count", "selected_observation")},
        **made["bands"],
        **{f"{band}_unc": a for band, a in made.get("boa_unc", {}).items()},
        "source_ids": np.array(made["source_ids"], dtype=str),
        "bounds": np.array(made["grid"]["bounds"]),
        "epsg": made["grid"]["epsg"],
        "month": f"{made['year']}-{made['month']:02d}" if "month" in made else "",
    }


if __name__ == "__main__":
    np.savez(sys.argv[3], **run(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])))
