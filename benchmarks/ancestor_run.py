"""One composite by the released wheel of `bestpixel` 0.3.0, in a Python of its own.

    python benchmarks/ancestor_run.py job.json result.npz

Its catalogue's address and its TLS roots are compiled in, but a search result that lies in its
cache folder is taken as it is, addresses and all: so it runs unmodified on files of loopback. The
job holds ``items``, ``root``, ``collections``, ``filtered`` (whether a search sends the cloud limit)
and ``call``, the arguments of ``build_composite``. One process makes one run: what it read stays
cached in it.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def search_key(job: dict[str, Any]) -> str:
    """Name of the search result in the ancestor's cache."""
    call = job["call"]
    parts = "\0".join(["schema:1", job["root"], "+".join(job["collections"]), ""])
    h = hashlib.sha1(parts.encode() + struct.pack("<4d", *call["bbox"]))
    h.update(call["datetime"].encode() + b"\0")
    if job["filtered"] and call["max_cloud_cover"] < 100:
        h.update(struct.pack("<d", call["max_cloud_cover"]))
    return h.hexdigest()


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Layers, bands and grid by name."""
    import bestpixel

    with tempfile.TemporaryDirectory() as cache:
        place = Path(cache) / "search" / f"{search_key(job)}.json"
        place.parent.mkdir()
        place.write_text(json.dumps({"schema": 1, "data": job["items"]}))
        made = bestpixel.build_composite(disk_cache=cache, **job["call"])
    return {
        **{k: made[k] for k in ("quality", "observation_count", "selected_observation")},
        **made["bands"],
        "source_ids": np.array(made["source_ids"], dtype=str),
        "bounds": np.array(made["grid"]["bounds"]),
        "epsg": made["grid"]["epsg"],
    }


if __name__ == "__main__":
    np.savez(sys.argv[2], **run(json.loads(Path(sys.argv[1]).read_text())))
